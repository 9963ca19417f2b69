"""The graph contract: names, shapes and dtypes of the deployed image graph, defined once; and the
names of what it is made for.

Letters: B batch, K slots, D text width, H, W network size, h, w score map size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

SCORE_STRIDE = 4
"""Pixels of the network input per cell of the score map, along each axis."""

SLOT_BUCKETS = (16, 64, 256)
"""Numbers of slots K that a TensorRT engine has a static profile for."""

NONE_UINT8 = 255
NONE_UINT16 = 65535
MAX_UINT8_CLASSES = 254
"""With more classes than this, label maps are uint16 and unlabelled pixels are NONE_UINT16."""

MAX_CLASSES = 65534

Target = Literal["cpu", "rtx", "trt", "cuda"]
"""What a graph is written for; the engine that it is meant for has the same name."""

TARGETS: tuple[Target, ...] = get_args(Target)
CPU_ENGINES = ("cpu", "openvino")
"""Engines that need no GPU. `openvino` runs graphs of every target."""

ENGINES = (*CPU_ENGINES, "cuda", "trt", "rtx")
"""All engines, in the order of what they ask for."""

TYPED_TARGETS: tuple[Target, ...] = ("trt", "rtx")
"""Targets of bundles whose graph TensorRT reads, and engines that are built on the device."""

Precision = Literal["fp32", "fp16", "int8"]
"""What a part of a bundle computes in."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Background = Literal["none", "threshold", "negatives"]
"""What leaves a pixel unlabelled: nothing, a low score, or a low score and the words of a bundle's base
vocabulary that nobody asked for."""

BACKGROUNDS: tuple[Background, ...] = get_args(Background)

Legend = Literal["on", "beside", "off"]
"""Where overlays have their legend: over a corner, at the right of the picture, nowhere."""

LEGENDS: tuple[Legend, ...] = get_args(Legend)

Codec = Literal["auto", "h264", "vp8", "jpeg"]
"""Of overlay videos; `auto` is what plays widely as far as this machine can."""

CODECS: tuple[Codec, ...] = get_args(Codec)

MIN_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.97}
"""Lowest part of pixels with the label that the model in FP32 gives them, per precision."""

TRUST_LINE = 0.5
"""Trust of a frame below which its labels are to be doubted, whatever their confidence."""

Dim = int | str
DType = Literal["uint8", "float16", "float32"]


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor: symbolic dims are strings (`K`), fixed ones are numbers."""

    name: str
    shape: tuple[Dim, ...]
    dtype: DType
    meaning: str


@dataclass(frozen=True)
class GraphSpec:
    """The tensors of one exported graph: three in, scores and in some bundles pooled features out."""

    height: int
    width: int
    """Network size in pixels."""

    text_width: int
    """D, width of a text embedding."""

    batch: int = 1
    """Fixed number of images per run."""

    score_dtype: DType = "float32"
    """Dtype of the scores."""

    pooled_width: int = 0
    """P, numbers of `pooled` per image; 0 for a graph that gives scores only."""

    @property
    def score_hw(self) -> tuple[int, int]:
        """Height and width of the score map, (H // 4, W // 4)."""
        return self.height // SCORE_STRIDE, self.width // SCORE_STRIDE

    @property
    def image(self) -> TensorSpec:
        shape = (self.batch, self.height, self.width, 3)
        return TensorSpec("image", shape, "uint8", "BGR, resized to the network size")

    @property
    def text(self) -> TensorSpec:
        meaning = "L2-normalised text embeddings, one row per slot"
        return TensorSpec("text", ("K", self.text_width), "float32", meaning)

    @property
    def valid(self) -> TensorSpec:
        return TensorSpec("valid", ("K",), "float32", "1 for a used slot, 0 for padding")

    @property
    def scores(self) -> TensorSpec:
        shape = (self.batch, "K", *self.score_hw)
        return TensorSpec("scores", shape, self.score_dtype, "per-class evidence in [0, 1]")

    @property
    def pooled(self) -> TensorSpec:
        """What the graph of a bundle with statistics of its frames gives beside the scores."""
        shape = (self.batch, self.pooled_width)
        return TensorSpec(
            "pooled", shape, "float32", "the image as a whole; no word has a part in it"
        )

    @property
    def embedding(self) -> TensorSpec:
        """What the graph for words by example gives instead of scores; h, w are the model's own."""
        shape = (self.batch, self.text_width, "h", "w")
        return TensorSpec(
            "embedding", shape, "float32", "what is where, in the space of the text rows"
        )

    @property
    def inputs(self) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
        return self.image, self.text, self.valid

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (self.scores, self.pooled) if self.pooled_width else (self.scores,)


def none_id(classes: int) -> int:
    """Return the label-map id of an unlabelled pixel for a vocabulary of `classes` entries.

    >>> none_id(254), none_id(255)
    (255, 65535)
    """
    return NONE_UINT8 if classes <= MAX_UINT8_CLASSES else NONE_UINT16


def bucket_for(slots: int) -> int:
    """Return the smallest slot bucket that holds `slots`.

    Raises ValueError when more than the largest bucket is asked for.

    >>> bucket_for(2), bucket_for(17), bucket_for(171)
    (16, 64, 256)
    """
    for bucket in SLOT_BUCKETS:
        if slots <= bucket:
            return bucket
    raise ValueError(f"{slots} slots do not fit the largest engine profile, {SLOT_BUCKETS[-1]}")
