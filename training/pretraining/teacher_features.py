"""Dense features of trained nets, made once per picture: what a small trunk learns to repeat.

A segmentation net knows far more of a picture than its labels say. Two of its activations, one from
the middle and the one its classifier reads, are brought to few whitened channels and kept as int8,
a few hundred kilobytes a picture, so that training may look at any crop of them as often as it likes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.borders import NO_RETRY, foreign, spoken_reason
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.files import read_regular, write_atomically
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.threads import usable_threads
from dedos_deploy.training.data import image_key
from dedos_deploy.training.evaluate import spread

if TYPE_CHECKING:
    import onnx

_LOG = logging.getLogger(__name__)

Maps = list[NDArray[np.float32]]
Codes = list[NDArray[np.int8]]

MIDDLE = 0.6
"""Part of a net's nodes that lie before its middle activation, a residual sum."""

LEVELS = 32
"""Steps of a whitened channel per standard deviation; int8 then holds four deviations."""

SPACES = "spaces.safetensors"
_SAMPLED_CELLS = 200


@dataclass(frozen=True)
class FeatureLayer:
    """One activation of a net; cell i is centred on input pixel `stride` * i + `offset`, along
    both axes."""

    name: str
    """`net.middle` or `net.late`."""

    tensor: str
    """The activation's name in the graph."""

    late: bool
    """Whether the classifier reads this activation."""

    stride: int
    offset: float


class FeatureTeacher:
    """A net in ONNX, `image` float32 [N, 3, H, W] RGB 0..255 to `features`, and what is inside.

    side_px: longest side that pictures are resized to.

    Raises BadInputError when the file is no such net.
    """

    def __init__(self, path: Path, *, side_px: int = 641, threads: int = 1) -> None:
        onnx = require("onnx", extra="export", purpose="reading what is inside a net")
        import onnxruntime

        refusal = partial(_no_net, path)
        with foreign(refusal):
            content = read_regular(path)
            model = onnx.load_model_from_string(content)
        self.layers = _chosen_layers(path, model.graph)
        self.side_px = side_px
        self.fingerprint = hashlib.sha256(content).hexdigest()
        for layer in self.layers[:1]:
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(layer.tensor, onnx.TensorProto.FLOAT, None)
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_threads(threads)
        with foreign(refusal, reason=spoken_reason):
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                **NO_RETRY,
            )

    def maps(self, image_bgr: NDArray[np.uint8]) -> Maps:
        """Return one float32 [C, h, w] per layer for uint8 [H, W, 3]."""
        import cv2

        size = teacher_size(image_bgr.shape[:2], self.side_px)
        resized = cv2.resize(image_bgr, size[::-1], interpolation=cv2.INTER_LINEAR)
        image = np.ascontiguousarray(resized[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32)
        found = self._session.run([layer.tensor for layer in self.layers], {"image": image})
        return [np.asarray(one[0], np.float32) for one in found]


def teacher_size(size_hw: tuple[int, ...], side_px: int) -> tuple[int, int]:
    """Return (height, width) a net looks at: longest side `side_px`, both 16 k + 1.

    >>> teacher_size((360, 480), 641)
    (481, 641)
    """
    scale = side_px / max(size_hw[:2])
    height, width = (max(1, round((side * scale - 1) / 16)) * 16 + 1 for side in size_hw[:2])
    return height, width


def _chosen_layers(path: Path, graph: onnx.GraphProto) -> tuple[FeatureLayer, FeatureLayer]:
    outputs = {output.name for output in graph.output}
    sums = [i for i, node in enumerate(graph.node) if node.op_type == "Add"]
    # sums of shapes and indices have no convolution before them
    sums = [i for i in sums if _geometry(graph, graph.node[i].output[0])[0] > 1]
    if "features" not in outputs or not sums:
        raise BadInputError(
            f"{path} has no output `features` or no residual sums; convert a net with "
            "tflite_to_onnx.py"
        )
    nearest = min(sums, key=lambda i: abs(i - MIDDLE * len(graph.node)))
    middle = graph.node[nearest].output[0]
    return (
        FeatureLayer(f"{path.stem}.middle", middle, False, *_geometry(graph, middle)),
        FeatureLayer(f"{path.stem}.late", "features", True, *_geometry(graph, "features")),
    )


def _geometry(graph: onnx.GraphProto, tensor: str) -> tuple[int, float]:
    """Return stride and offset of a tensor's cells, along the rows.

    A convolution that pads (k - 1) / 2 in front is centred on its input; one that pads less, as
    TensorFlow does on even sizes, looks further on, and each later cell inherits that.
    """
    producers = {name: node for node in graph.node for name in node.output}
    steps: list[tuple[int, float]] = []
    while tensor in producers:
        node = producers[tensor]
        if node.op_type == "Conv":
            values = {attribute.name: attribute for attribute in node.attribute}
            kernel, stride = values["kernel_shape"].ints[0], values["strides"].ints[0]
            spread = (kernel - 1) * values["dilations"].ints[0]
            steps.append((stride, spread / 2 - values["pads"].ints[0]))
        tensor = node.input[0]
    stride, offset = 1, 0.0
    for factor, shift in reversed(steps):
        offset += stride * shift
        stride *= factor
    return stride, offset


@dataclass(frozen=True)
class FeatureSpace:
    """The main axes of a layer, whitened: coordinates = (map - mean) @ matrix."""

    mean: NDArray[np.float32]
    """float32 [C]."""

    matrix: NDArray[np.float32]
    """float32 [C, D]."""

    explained: float
    """Part of the variance the D axes carry."""

    @classmethod
    def of(cls, samples: NDArray[np.float32], channels: int) -> FeatureSpace:
        """Return the space of `channels` axes for samples [N, C], N well above C."""
        mean = samples.mean(0, dtype=np.float64)
        centred = samples - mean
        values, axes = np.linalg.eigh(centred.T @ centred / len(samples))
        order = np.argsort(values)[::-1][:channels]
        kept = np.maximum(values[order], values.max() * 1e-6)
        matrix = (axes[:, order] / np.sqrt(kept)).astype(np.float32)
        return cls(mean.astype(np.float32), matrix, float(values[order].sum() / values.sum()))

    def encode(self, values: NDArray[np.float32]) -> NDArray[np.int8]:
        """Return int8 [D, h, w] in steps of 1 / LEVELS deviations for a map [C, h, w]."""
        cells = values.reshape(len(values), -1).T
        coordinates = (cells - self.mean) @ self.matrix
        steps = np.clip(np.rint(coordinates * LEVELS), -127, 127).astype(np.int8)
        return np.ascontiguousarray(steps.T.reshape(-1, *values.shape[1:]))


class FeatureStore:
    """Codes of pictures in a folder, one file each, named by the picture's pixels.

    channels: of a middle and of a late layer. The spaces are found on the first pictures given and
    kept beside them; a folder made by other nets or settings is refused.
    """

    def __init__(
        self, folder: Path, teachers: Sequence[FeatureTeacher], *, channels: tuple[int, int]
    ) -> None:
        self.folder = folder
        self.teachers = tuple(teachers)
        self.layers = tuple(layer for teacher in self.teachers for layer in teacher.layers)
        self.side_px = self.teachers[0].side_px
        self.channels = tuple(channels[layer.late] for layer in self.layers)
        self.spaces: tuple[FeatureSpace, ...] = ()

    def fill(
        self,
        images: Sequence[Callable[[], NDArray[np.uint8]]],
        *,
        sampled: int = 150,
        progress: Progress = QUIET,
    ) -> None:
        """Make and keep the codes of every picture that is not there yet.

        images: functions that read one; sampled: how many the spaces are found on; progress:
        counts pictures.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open_spaces([images[i] for i in spread(len(images), sampled)])
        for read in progress.counted(images, len(images), "picture"):
            image = read()
            path = self._path(image_key(image))
            if not path.is_file():
                self._write(path, self._maps(image))

    def read(self, image_bgr: NDArray[np.uint8]) -> Codes:
        """Return int8 [D, h, w] per layer of a picture that `fill` has seen.

        Raises BadInputError when it has not, or the file is damaged.
        """
        from safetensors.numpy import load

        path = self._path(image_key(image_bgr))

        def refusal(reason: str) -> BadInputError:
            return BadInputError(
                f"{path} holds no features of these nets ({reason}); remove the folder and make "
                "them again"
            )

        with foreign(refusal):
            tensors = load(read_regular(path))
        missing = [layer.name for layer in self.layers if layer.name not in tensors]
        if missing:
            raise refusal(f"{missing[0]} is missing")
        return [tensors[layer.name] for layer in self.layers]

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _maps(self, image: NDArray[np.uint8]) -> Maps:
        return [one for teacher in self.teachers for one in teacher.maps(image)]

    def _write(self, path: Path, maps: Maps) -> None:
        from safetensors.numpy import save

        codes = {
            layer.name: space.encode(one)
            for layer, space, one in zip(self.layers, self.spaces, maps, strict=True)
        }
        write_atomically(path, save(codes))

    def _open_spaces(self, sample: Iterable[Callable[[], NDArray[np.uint8]]]) -> None:
        path = self.folder / SPACES
        wanted = json.dumps(
            [[t.fingerprint for t in self.teachers], self.side_px, list(self.channels), MIDDLE]
        )
        if not path.is_file():
            self._find_spaces(sample)
            self._save_spaces(path, wanted)
        self._load_spaces(path, wanted)

    def _find_spaces(self, sample: Iterable[Callable[[], NDArray[np.uint8]]]) -> None:
        random = np.random.default_rng(0)
        rows: list[list[NDArray[np.float32]]] = [[] for _ in self.layers]
        for read in sample:
            for kept, one in zip(rows, self._maps(read()), strict=True):
                cells = one.reshape(len(one), -1).T
                kept.append(cells[random.integers(len(cells), size=_SAMPLED_CELLS)])
        self.spaces = tuple(
            FeatureSpace.of(np.concatenate(kept), channels)
            for kept, channels in zip(rows, self.channels, strict=True)
        )
        for layer, space in zip(self.layers, self.spaces, strict=True):
            _LOG.info(
                "%s: %d channels carry %.3f of the variance",
                layer.name,
                space.matrix.shape[1],
                space.explained,
            )

    def _save_spaces(self, path: Path, wanted: str) -> None:
        from safetensors.numpy import save

        tensors: dict[str, NDArray[np.float32]] = {}
        for layer, space in zip(self.layers, self.spaces, strict=True):
            tensors[f"{layer.name}.mean"] = space.mean
            tensors[f"{layer.name}.matrix"] = space.matrix
            tensors[f"{layer.name}.explained"] = np.array([space.explained], np.float32)
        write_atomically(path, save(tensors, {"made_by": wanted}))

    def _load_spaces(self, path: Path, wanted: str) -> None:
        from safetensors import safe_open

        def refusal(reason: str) -> BadInputError:
            return BadInputError(f"{path} is damaged ({reason}); remove {self.folder}")

        with foreign(refusal), safe_open(os.fspath(path), framework="np") as file:
            made_by = (file.metadata() or {}).get("made_by")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if made_by != wanted:
            raise BadInputError(
                f"{self.folder} was made by other nets or settings; remove it or name another one"
            )
        self.spaces = tuple(
            FeatureSpace(
                tensors[f"{layer.name}.mean"],
                tensors[f"{layer.name}.matrix"],
                float(tensors[f"{layer.name}.explained"][0]),
            )
            for layer in self.layers
        )


def _no_net(path: Path, reason: str) -> BadInputError:
    return BadInputError(f"{path} is no ONNX net ({reason}); give one that `image` enters")
