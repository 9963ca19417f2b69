"""Trained segmentation nets that may be used to label pictures, and what their outputs are called."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.evaluation.segmentation_net import SegmentationNet

CITYSCAPES_WORDS: tuple[str | None, ...] = tuple(
    (
        "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, tree, grass, "
        "sky, person, cyclist, car, truck, bus, train, motorcycle, bicycle"
    ).split(", ")
)
"""Plain words for the 19 training ids: vegetation is mostly trees, terrain mostly grass, and who rides a
bicycle, or a motorcycle, is a cyclist."""

VOC_WORDS: tuple[str | None, ...] = (
    None,
    *(
        "airplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog, horse, "
        "motorcycle, person, plant, sheep, sofa, train, monitor"
    ).split(", "),
)
"""Plain words for the 21 ids; background is no word, so it stays unknown."""

KINDS = {"cyclist": "person"}
"""Words that are a kind of another net's word."""

WORD_LISTS = {"cityscapes": CITYSCAPES_WORDS, "voc": VOC_WORDS}
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
        self._net = SegmentationNet(path, len(words), threads=threads or None)
        self._words = words
        self._sizes = sizes

    @property
    def words(self) -> tuple[str | None, ...]:
        return self._words

    def probabilities(self, image_bgr: NDArray[np.uint8]) -> Probabilities:
        """Return the mean answer over sizes and mirror images, float32 [H, W, channels]."""
        height, width = image_bgr.shape[:2]
        total = np.zeros((height, width, len(self._words)), np.float32)
        for side in self._sizes:
            for mirrored in (False, True):
                total += _softmax(self._net.logits(image_bgr, side, mirrored=mirrored))
        total /= 2 * len(self._sizes)
        return total


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=2, keepdims=True))
    result: NDArray[np.float32] = raised / raised.sum(axis=2, keepdims=True)
    return result
