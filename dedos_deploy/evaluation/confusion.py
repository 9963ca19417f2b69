"""Confusion: pixels counted by label and prediction, and the measures that follow from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.spec import none_id

Ids = NDArray[np.uint8] | NDArray[np.uint16]

IGNORE = 255
"""Label value of pixels that are not counted."""


class Confusion:
    """A running confusion matrix over any number of images.

    classes: N; ignore: label value that is left out; matrix: int64 [N, N + 1], pixels by label
    (row) and prediction (column), the last column holding pixels that got no class.

    >>> confusion = Confusion(2)
    >>> labels = np.array([[0, 0, 1, 255]], np.uint8)
    >>> confusion.add(labels, np.array([[0, 1, 1, 0]], np.uint8))
    >>> confusion.iou, confusion.miou_present
    (array([0.5, 0.5]), 0.5)
    """

    def __init__(self, classes: int, *, ignore: int = IGNORE) -> None:
        self.classes = classes
        self.ignore = ignore
        self.matrix = np.zeros((classes, classes + 1), dtype=np.int64)

    def add(self, labels: Ids, predictions: Ids, *, unlabelled: int | None = None) -> None:
        """Count one image.

        labels: uint8 or uint16 [H, W], ids in [0, N) or `ignore`; predictions: uint8 or uint16
        [H, W], ids in [0, N) or `unlabelled`, which is wrong wherever the label is a class;
        unlabelled: None for what a label map of N classes uses.

        Raises BadInputError for maps of different shapes and ids out of range.
        """
        if labels.shape != predictions.shape or labels.ndim != 2:
            raise BadInputError(
                f"labels {list(labels.shape)} and predictions {list(predictions.shape)} must be "
                f"maps of one height and width"
            )
        counted = labels != self.ignore
        rows = labels[counted].astype(np.int64)
        columns = predictions[counted].astype(np.int64)
        nothing = none_id(self.classes) if unlabelled is None else unlabelled
        columns[columns == nothing] = self.classes
        _check_range("label", rows, self.classes - 1)
        _check_range("prediction", columns, self.classes)
        cells = np.bincount(rows * (self.classes + 1) + columns, minlength=self.matrix.size)
        self.matrix += cells.reshape(self.matrix.shape)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Pixels that carry each class's label, int64 [N]."""
        counts: NDArray[np.int64] = self.matrix.sum(axis=1)
        return counts

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class, float64 [N]; NaN where nothing was met or predicted."""
        right = np.diagonal(self.matrix)
        union = self.labelled + self.matrix[:, : self.classes].sum(axis=0) - right
        iou = np.full(self.classes, np.nan)
        np.divide(right, union, out=iou, where=union > 0)
        return iou

    @property
    def miou_present(self) -> float:
        """Mean IoU over the classes that the labels contain; NaN without labelled pixels.

        This is the measure of published tables.
        """
        return _mean(self.iou[self.labelled > 0])

    @property
    def miou_union(self) -> float:
        """Mean IoU over the classes that labels or predictions contain; never above miou_present.

        A class that is only ever predicted wrongly counts with 0 here.
        """
        iou = self.iou
        return _mean(iou[~np.isnan(iou)])

    @property
    def accuracy(self) -> float:
        """Fraction of the labelled pixels that got their class; NaN without labelled pixels."""
        total = int(self.matrix.sum())
        return int(np.trace(self.matrix)) / total if total else float("nan")


def _check_range(what: str, ids: NDArray[np.int64], last: int) -> None:
    highest = int(ids.max(initial=0))
    if highest > last:
        raise BadInputError(f"{what} id {highest} is out of range, the last one is {last}")


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")
