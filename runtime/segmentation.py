"""The result of labelling one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.sinks.palette import Colour, colours_of

LabelMap = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The label map of one frame and how it came about.

    The arrays belong to the receiver and are never written again.
    """

    label_map: LabelMap
    """uint8 [H, W] class ids, `none_id` where nothing was named; uint16 while a vocabulary has more
    than 254 classes."""

    confidence: NDArray[np.uint8]
    """uint8 [H, W], 255 times the winning score, also where the pixel stayed unlabelled."""

    classes: tuple[str, ...]
    """Name of every class id of this result (a session of more than 254 names gives ids again, so
    another result may call an id otherwise)."""

    class_ids: tuple[int, ...]
    """Ids that this frame was asked for, in the order of the vocabulary."""

    counts: NDArray[np.int64]
    """int64 [len(classes)] pixels per class id."""

    none_id: int
    """Id of unlabelled pixels."""

    vocabulary_version: int
    """1 for the first class list, one more per change."""

    timestamp_s: float
    """`time.monotonic()` of the frame's capture."""

    latency_ms: Mapping[str, float]
    """Milliseconds of `pre` (resize), `engine` and `post` (label map)."""

    colours_bgr: tuple[Colour, ...] = ()
    """Colour of every class id, each part in [0, 255]; left out, those of the words themselves."""

    def __post_init__(self) -> None:
        if not self.colours_bgr:
            object.__setattr__(self, "colours_bgr", tuple(colours_of(self.classes)))

    @property
    def total_ms(self) -> float:
        """Milliseconds from frame to label map."""
        return sum(self.latency_ms.values())

    @property
    def coverage(self) -> dict[str, float]:
        """Fraction of the frame's pixels per class of the vocabulary, in its order."""
        return {
            self.classes[class_id]: int(self.counts[class_id]) / self.label_map.size
            for class_id in self.class_ids
        }

    @property
    def unlabelled(self) -> float:
        """Fraction of the frame's pixels that have no class."""
        return 1.0 - int(self.counts.sum()) / self.label_map.size

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        return (
            f"Segmentation({height}x{width} {self.label_map.dtype}, "
            f"{len(self.class_ids)} classes, version {self.vocabulary_version}, "
            f"{self.total_ms:.1f} ms)"
        )
