"""What polygons lose: the IoU of what their readers see with what was labelled, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassLoss:
    """How well a class came through."""

    name: str
    """Of the class."""

    iou: float
    """Over all frames that show it."""

    worst_iou: float
    """In the frame where it is lowest."""

    worst_frame: str
    """Name of that frame."""


class Losses:
    """Counts, for every class, pixels that were labelled and that a reader of the polygons sees."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._pixels = np.zeros((len(names), 2), np.int64)
        self._worst: list[tuple[float, str]] = [(2.0, "")] * len(names)

    def count(
        self, class_index: int, frame: str, labelled: NDArray[np.bool_], seen: NDArray[np.bool_]
    ) -> None:
        """Count one class in one frame. labelled, seen: bool [H, W]."""
        shared = int(np.count_nonzero(labelled & seen))
        either = int(np.count_nonzero(labelled | seen))
        self._pixels[class_index] += shared, either
        self._worst[class_index] = min(self._worst[class_index], (shared / either, frame))

    def by_class(self) -> tuple[ClassLoss, ...]:
        """Return the classes that were counted, the worst first."""
        found = [
            ClassLoss(name, int(pixels[0]) / int(pixels[1]), *worst)
            for name, pixels, worst in zip(self._names, self._pixels, self._worst, strict=True)
            if pixels[1]
        ]
        return tuple(sorted(found, key=lambda loss: (loss.iou, loss.name)))
