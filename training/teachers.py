"""Trained segmentation nets that may be used to label pictures, and what their outputs are called."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError

CITYSCAPES_WORDS: tuple[str | None, ...] = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "tree", "grass", "sky", "person", "person", "car", "truck", "bus", "train", "motorcycle",
    "bicycle",
)  # fmt: skip
"""Plain words for the 19 training ids: vegetation is mostly trees, terrain mostly grass."""

VOC_WORDS: tuple[str | None, ...] = (
    None, "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "table", "dog", "horse", "motorcycle", "person", "plant", "sheep", "sofa", "train", "monitor",
)  # fmt: skip
"""Plain words for the 21 ids; background is no word, so it stays unknown."""

WORD_LISTS: dict[str, tuple[str | None, ...]] = {
    "cityscapes": CITYSCAPES_WORDS,
    "voc": VOC_WORDS,
}
"""What a net may be said to know on the command line."""

Probabilities = NDArray[np.float32]


class SegmentationTeacher(Protocol):
    """A net that gives every pixel of a picture class probabilities."""

    @property
    def words(self) -> tuple[str | None, ...]:
        """The word of each output channel; None for channels that never become a label."""
        ...

    def probabilities(self, image_bgr: NDArray[np.uint8]) -> Probabilities:
        """Return float32 [H, W, channels] that sum to 1 for uint8 [H, W, 3]."""
        ...


class OnnxTeacher:
    """A DeepLab net in ONNX: `image` float32 [N, 3, H, W] RGB 0..255 to `logits`.

    sizes: longest sides, in pixels, that the picture is looked at; the answers are averaged.

    Raises BadInputError when the file is no such net.
    """

    def __init__(
        self,
        path: Path,
        words: tuple[str | None, ...],
        *,
        sizes: tuple[int, ...] = (641, 897),
        threads: int = 0,
    ) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        unreadable = (state.Fail, state.InvalidProtobuf, state.InvalidGraph, state.NoSuchFile)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            outputs = {output.name: output.shape for output in self._session.get_outputs()}
            channels = outputs["logits"][1]
        except (KeyError, *unreadable) as error:
            raise BadInputError(
                f"{path} is no segmentation net with an output `logits`; convert one with "
                f"tflite_to_onnx.py"
            ) from error
        if channels != len(words):
            raise BadInputError(f"{path} has {channels} classes, {len(words)} words were given")
        self._words = words
        self._sizes = sizes

    @property
    def words(self) -> tuple[str | None, ...]:
        return self._words

    def probabilities(self, image_bgr: NDArray[np.uint8]) -> Probabilities:
        """Return the mean answer over sizes and mirror images, float32 [H, W, channels]."""
        import cv2

        height, width = image_bgr.shape[:2]
        total = np.zeros((height, width, len(self._words)), np.float32)
        for side in self._sizes:
            scale = side / max(height, width)
            # these nets keep the pixel grid aligned at sizes 16 k + 1
            size_wh = (_aligned(width * scale), _aligned(height * scale))
            resized = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_LINEAR)
            for flip in (False, True):
                seen = resized[:, ::-1] if flip else resized
                logits = self._run(np.ascontiguousarray(seen))
                logits = logits[:, ::-1] if flip else logits
                total += _softmax(_resize_channels(logits, (width, height)))
        total /= 2 * len(self._sizes)
        return total

    def _run(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
        image = image_bgr[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        (logits,) = self._session.run(["logits"], {"image": image})
        result: NDArray[np.float32] = logits[0].transpose(1, 2, 0)
        return result


def _aligned(edge: float) -> int:
    return max(1, round((edge - 1) / 16)) * 16 + 1


def _resize_channels(logits: NDArray[np.float32], size_wh: tuple[int, int]) -> NDArray[np.float32]:
    import cv2

    source = np.ascontiguousarray(logits)
    resized = cv2.resize(source, size_wh, interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32).reshape(size_wh[1], size_wh[0], -1)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=2, keepdims=True))
    result: NDArray[np.float32] = raised / raised.sum(axis=2, keepdims=True)
    return result
