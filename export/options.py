"""The choices of an export, without torch, so that the command line's --help can read them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal, get_args

from dedos_deploy.calib.options import Int8Options
from dedos_deploy.config_json import AnyConfig
from dedos_deploy.errors import BadInputError
from dedos_deploy.head_numbers import HeadKind, windows
from dedos_deploy.options import Option, size_hw
from dedos_deploy.peer_configs import SanConfig, published_file
from dedos_deploy.presets import DENSE_PRESETS, PRESETS, DenseConfig
from dedos_deploy.spec import PRECISIONS, TARGETS, Precision, Target
from dedos_deploy.text.templates import TEMPLATES
from dedos_deploy.tiles import Tiles, parse_tiles
from dedos_deploy.vocabulary import Vocabulary

Storage = Literal["full", "half"]

STORAGES: tuple[Storage, ...] = get_args(Storage)
MOST_FRAMES = 64
"""Of a run."""

RTX_CAPABILITIES = ("8.6", "8.9", "12.0")
"""RTX 30, 40 and 50. Turing, 7.5, is not among them: TensorRT for RTX has no float32 matrix product
there, which the linear attention and the class logits need."""


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a model.

    Raises BadInputError naming the first value that is not allowed.
    """

    precision: Precision = "fp32"
    """Arithmetic of the image graph."""
    storage: Storage = "full"
    """`half` keeps float32 weights as float16 in the file, at half the size and the same speed."""
    target: Target = "cpu"
    """What will run it."""
    size_hw: tuple[int, int] | None = None
    """Network size, None for the one trained at."""
    batches: tuple[int, ...] = (1,)
    """Frames per run, growing from 1, which is always among them: one graph each."""
    examples: bool = False
    """Put in the small graph with which words are learned from pictures; see docs/examples.md."""
    trust: tuple[str | os.PathLike[str], ...] = ()
    """Pictures, folders or videos like those that the model learned, one for each kind, for
    `Segmentation.trust`; see docs/trust.md."""
    tiles: Tiles = "off"
    """Windows through which large frames are looked at unless a run says otherwise; see docs/tiles.md."""
    frames: str | os.PathLike[str] | None = None
    """Picture, folder or video for the parity gate, None for pictures of embedded scenes."""
    frame_count: int = 4
    """How many frames the parity gate compares."""
    keep_frames: bool = True
    """Put up to four of them, small, into the bundle for the parity gate on the device."""
    vocabulary: Vocabulary | None = None
    """Base vocabulary shipped with embeddings, None for the checkpoint's own words."""
    templates: str | None = None
    """Name of the prompt templates, None for those that fit the model."""
    threshold: float | None = None
    """Score in [0, 1] below which a pixel stays unlabelled, None for what fits the model."""
    compute_capabilities: tuple[str, ...] = RTX_CAPABILITIES
    """GPUs of an rtx engine."""
    int8: Int8Options | None = None
    """Calibration, needed for precision int8 and for no other."""
    overwrite: bool = False
    """Replace a bundle that is there."""
    allow_drift: bool = False
    """Write the bundle even when the parity gate is not passed."""

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("storage", self.storage, STORAGES)
        _check_choice("target", self.target, TARGETS)
        if self.templates is not None:
            _check_choice("templates", self.templates, tuple(TEMPLATES))
        if self.frame_count < 1:
            raise BadInputError(f"frame_count must be at least 1, not {self.frame_count}")
        grow = self.batches == tuple(sorted(set(self.batches)))
        if not grow or self.batches[:1] != (1,) or self.batches[-1] > MOST_FRAMES:
            raise BadInputError(
                f"batches must grow from 1 to at most {MOST_FRAMES} frames per run, as 1,2,4, not "
                f"{','.join(map(str, self.batches))}"
            )
        self._check_int8()
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise BadInputError(f"threshold must lie in [0, 1], not {self.threshold}")

    def templates_for(self, config: AnyConfig) -> str:
        """Return the name of the prompt templates of a model: those of its published figures."""
        fitting = {DenseConfig: "imagenet80", SanConfig: "vild14"}.get(type(config), "single")
        return self.templates or fitting

    def _check_int8(self) -> None:
        if self.precision == "int8" and self.int8 is None:
            raise BadInputError(
                "precision 'int8' needs frames to calibrate on; give --calib FOLDER_OR_VIDEO with "
                "pictures like those the engine will see"
            )
        if self.int8 is not None and self.precision != "int8":
            raise BadInputError(
                f"calibration frames were given, but precision {self.precision!r} needs none; choose "
                "--precision int8, or leave them out"
            )
        if self.int8 is not None and self.batches != (1,):
            held = ",".join(map(str, self.batches))
            raise BadInputError(f"INT8 is calibrated for one frame per run, not for batches {held}")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadInputError(f"{name} {value!r} is unknown; choose one of {', '.join(allowed)}")


def _batches(text: str) -> tuple[int, ...]:
    if re.fullmatch(r"\d{1,4}(,\d{1,4})*", text, re.ASCII) is None:
        raise BadInputError(f"{text!r} are no numbers of frames per run; write them as 1,2,4")
    return tuple(map(int, text.split(",")))


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


WEIGHT_OPTIONS = (
    Option("checkpoint", "a file written by dedos-train", metavar="FILE"),
    Option(
        "published",
        "a checkpoint that others published: san:FILE or catseg:FILE, with -b or -l after the name for "
        "the size that it must have",
        published_file,
        flag="--from",
        metavar="KIND:FILE",
    ),
    Option(
        "preset",
        f"one of {', '.join([*PRESETS, *DENSE_PRESETS])}; alone, only nano has embedded weights",
        metavar="NAME",
    ),
    Option(
        "random",
        "random weights of --preset, for sizing; their fp16 labels hang on tiny margins, so add "
        "--allow-drift",
        flag="--random-weights",
        switch="on",
    ),
    Option(
        "clip_weights",
        "for a dense preset: a tag of open_clip, such as openai, or a file of weights as open_clip or "
        "transformers saves it",
        metavar="TAG|FILE",
    ),
    Option(
        "head",
        "for a dense preset: how patches become dense (default: sc-clip)",
        choices=get_args(HeadKind),
    ),
    Option(
        "windows",
        "for a dense preset: look through overlapping windows, SIZE/STRIDE in pixels such as 224/112, "
        "for large pictures (default: the whole at once)",
        windows,
        metavar="W/S",
    ),
)
"""They fill a WeightsSource."""

GRAPH_OPTIONS = (
    Option("target", "default: {default}", choices=TARGETS, default=ExportOptions.target),
    Option("precision", "default: {default}", choices=PRECISIONS, default=ExportOptions.precision),
    Option(
        "storage",
        "weights in the file: as computed with, or float16 for half the size at the same speed "
        "(default: {default})",
        choices=STORAGES,
        default=ExportOptions.storage,
    ),
    Option(
        "size_hw",
        "network size in pixels (default: as trained)",
        size_hw,
        flag="--size",
        metavar="HxW",
    ),
    Option(
        "batches",
        "frames per run, as 1,2,4: a graph each, for cameras with the same words that share a run; the "
        "weights are in the bundle once (default: 1)",
        _batches,
        metavar="LIST",
    ),
    Option(
        "examples",
        "put in the graph with which Segmenter.learn makes words from regions of pictures; its weights are "
        "those of the image graph, so it is small",
        switch="on",
    ),
    Option(
        "trust",
        "frames like those that the model learned, a picture, folder or video for each kind of scene: the "
        "bundle then tells of every frame how much it looks like them (Segmentation.trust)",
        metavar="PATH",
        several=True,
    ),
    Option(
        "tiles",
        "what runs of the bundle do with frames larger than its network unless they say otherwise: look at "
        "them through windows, too: auto, rows and columns as 2x3, or a stride in pixels; several windows "
        "share a run where there are --batches (default: {default})",
        parse_tiles,
        metavar="auto|RxC|STRIDE",
        default=ExportOptions.tiles,
    ),
    Option(
        "compute_capabilities",
        f"GPUs of an rtx engine (default: {','.join(RTX_CAPABILITIES)})",
        _comma_separated,
        metavar="LIST",
    ),
)
WORD_OPTIONS = (
    Option(
        "vocabulary",
        "base vocabulary shipped with embeddings: 'car|automobile,road' or a text file (default: "
        "the checkpoint's words)",
        flag="--vocabulary --classes",
        metavar="WORDS",
    ),
    Option(
        "templates",
        "prompt templates (default: single; of a dense preset: imagenet80; of SAN: vild14)",
        choices=tuple(TEMPLATES),
    ),
    Option(
        "threshold",
        "score in [0, 1] below which a pixel stays unlabelled (default: the checkpoint's; of a dense "
        "preset: 0.15; of CAT-Seg: 0.5)",
        float,
        metavar="T",
    ),
)
GATE_OPTIONS = (
    Option(
        "frames",
        "picture, folder or video to compare on (default: embedded scenes)",
        metavar="PATH",
    ),
    Option(
        "frame_count",
        "how many frames to compare (default: {default})",
        int,
        metavar="N",
        default=ExportOptions.frame_count,
    ),
    Option(
        "keep_frames",
        "leave them out of the bundle, which else holds up to 4 of them, of at most 640 pixels, for the "
        "same comparison on the device",
        flag="--no-frames",
        switch="off",
    ),
    Option("allow_drift", "write the bundle even if the gate refuses", switch="on"),
)
OVERWRITE = Option("overwrite", "replace a bundle that is there", switch="on")
EXPORT_OPTIONS = (*GRAPH_OPTIONS, *WORD_OPTIONS, *GATE_OPTIONS, OVERWRITE)
"""Of the command line; `int8` is filled by those of Int8Options, and `vocabulary` is typed as text."""
