"""Boundary IoU: how well contours fit (Cheng et al., "Boundary IoU", CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.confusion import IGNORE, Ids, mean, ratio

DILATION = 0.02
"""Half width of the band as a part of the image's diagonal, as in the paper."""


class BoundaryIou:
    """Running counts of boundary bands over any number of images.

    The band of a class are its pixels within d of another class or of the image's border, in the
    chessboard distance (the paper's d erosions by a 3x3 square), d = max(1, round(dilation *
    diagonal)). A class's boundary IoU is that of its two bands, summed over images.

    Pixels whose label is `ignore` are in no band, and make no contour of the labels beside them.

    classes: N; ignore: None when every label must be a class; both, either: int64 [N], pixels in
    both bands and in one at least; labelled: int64 [N], pixels that carry each class's label.
    """

    def __init__(
        self, classes: int, *, ignore: int | None = IGNORE, dilation: float = DILATION
    ) -> None:
        self.classes, self.ignore, self.dilation = classes, ignore, dilation
        self.both = np.zeros(classes, dtype=np.int64)
        self.either = np.zeros(classes, dtype=np.int64)
        self.labelled = np.zeros(classes, dtype=np.int64)

    def add(self, labels: Ids, predictions: Ids) -> None:
        """Count one image.

        labels: uint8 or uint16 [H, W], ids in [0, N) or `ignore`; predictions: the same, N and more
        for no class.

        Raises BadInputError for maps of different shapes and labels out of range; then nothing of
        the image is counted.
        """
        if labels.shape != predictions.shape or labels.ndim != 2:
            raise BadInputError(
                f"labels {list(labels.shape)} and predictions {list(predictions.shape)} must be "
                "maps of one height and width"
            )
        labelled = np.bincount(labels.ravel(), minlength=self.classes)
        self._check(np.flatnonzero(labelled[self.classes :]) + self.classes)
        reach = max(1, round(self.dilation * float(np.hypot(*labels.shape))))
        counts_all = self.ignore is None
        known = np.ones(labels.shape, dtype=bool) if counts_all else labels != self.ignore
        band_1 = known & on_contour(labels, reach, wildcard=self.ignore)
        band_2 = known & (predictions < self.classes) & on_contour(predictions, reach)
        counts_1 = np.bincount(labels[band_1], minlength=self.classes)
        counts_2 = np.bincount(predictions[band_2], minlength=self.classes)
        shared = band_1 & band_2 & (labels == predictions)
        both = np.bincount(labels[shared], minlength=self.classes)
        self.both += both
        self.either += counts_1 + counts_2 - both
        if self.ignore is not None and self.ignore < self.classes:
            labelled[self.ignore] = 0
        self.labelled += labelled[: self.classes]

    def _check(self, beyond: NDArray[np.int64]) -> None:
        """Refuse labels beyond the classes, other than the ignored one."""
        wrong = [value for value in beyond.tolist() if value != self.ignore]
        if wrong:
            other = "" if self.ignore is None else f" or as {self.ignore}, which is not counted"
            raise BadInputError(
                f"label id {wrong[0]} is out of range, the last one is {self.classes - 1}; label "
                f"such pixels as a class{other}"
            )

    def merge(self, other: BoundaryIou) -> None:
        """Add what another process counted.

        Raises BadInputError for another number of classes or width of bands.
        """
        if (other.classes, other.dilation) != (self.classes, self.dilation):
            raise BadInputError(
                f"bands of {other.classes} classes and dilation {other.dilation} cannot be added to "
                f"those of {self.classes} and {self.dilation}"
            )
        self.both += other.both
        self.either += other.either
        self.labelled += other.labelled

    def add_cells(self, cells: Iterable[tuple[int, int, int]]) -> None:
        """Add bands that `cells` gave; `labelled` is not among them."""
        for index, both, either in cells:
            self.both[index] += both
            self.either[index] += either

    def cells(self) -> tuple[tuple[int, int, int], ...]:
        """Return (class, pixels in both bands, pixels in either) of the classes that were met."""
        met = np.flatnonzero(self.either)
        columns = (met, self.both[met], self.either[met])
        return tuple(zip(*(column.tolist() for column in columns), strict=True))

    @property
    def iou(self) -> NDArray[np.float64]:
        """Boundary IoU per class, float64 [N]; NaN where no band was met."""
        return ratio(self.both, self.either)

    @property
    def miou_present(self) -> float:
        """Mean over the classes that the labels contain; NaN when none of them met a band."""
        return mean(self.iou[self.labelled > 0])

    @property
    def miou_union(self) -> float:
        """Mean over the classes that labels or predictions contain; never above miou_present."""
        return mean(self.iou)


def on_contour(ids: Ids, reach: int, *, wildcard: int | None = None) -> NDArray[np.bool_]:
    """Return where another id, or the outside of the image, is within `reach` pixels, bool [H, W].

    wildcard: an id that is no other one; at its own pixels the result means nothing.

    A square around a pixel holds one id alone when its least and its greatest id are the same.
    """
    import cv2

    # 0 is the outside, so ids count from 1; the wildcard must not be least nor greatest.
    shifted = np.minimum(ids.astype(np.uint16), 65534) + 1
    least, greatest = shifted, shifted
    if wildcard is not None:
        hidden = ids == wildcard
        least = np.where(hidden, np.uint16(65535), shifted)
        greatest = np.where(hidden, np.uint16(0), shifted)
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    low = cv2.erode(least, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    high = cv2.dilate(greatest, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    found: NDArray[np.bool_] = low != high
    return found
