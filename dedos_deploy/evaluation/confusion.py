"""Confusion: pixels counted by label and prediction, and the measures that follow from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dedos_deploy import _native
from dedos_deploy.errors import BadInputError
from dedos_deploy.spec import none_id

Ids = NDArray[np.uint8] | NDArray[np.uint16]
Labels = Ids | NDArray[np.int32]
Denominator = Literal["present", "union"]

IGNORE = 255
"""Label value of pixels that are not counted."""

_NO_ID = -(2**40)
"""Beyond every integer that labels can hold."""


class Confusion:
    """A running confusion matrix over any number of images.

    classes: N; ignore: label value that is left out, None when every label must be a class; matrix:
    int64 [N, N + 1], pixels by label (row) and prediction (column), the last column holding pixels
    that got no class.

    >>> confusion = Confusion(2)
    >>> labels = np.array([[0, 0, 1, 255]], np.uint8)
    >>> confusion.add(labels, np.array([[0, 1, 1, 0]], np.uint8))
    >>> confusion.iou, confusion.miou_present
    (array([0.5, 0.5]), 0.5)
    """

    def __init__(self, classes: int, *, ignore: int | None = IGNORE) -> None:
        self.classes = classes
        self.ignore = ignore
        self.matrix = np.zeros((classes, classes + 1), dtype=np.int64)

    def add(self, labels: Labels, predictions: Ids, *, unlabelled: int | None = None) -> None:
        """Count one image.

        labels: uint8, uint16 or int32 [H, W], ids in [0, N) or `ignore`; predictions: uint8 or
        uint16 [H, W], ids in [0, N) or `unlabelled`, which is wrong wherever the label is a class;
        unlabelled: None for what a label map of N classes uses.

        Raises BadInputError for maps of different shapes or other types, and for ids out of range;
        then nothing of the image is counted.
        """
        if labels.shape != predictions.shape or labels.ndim != 2:
            raise BadInputError(
                f"labels {list(labels.shape)} and predictions {list(predictions.shape)} must be "
                f"maps of one height and width"
            )
        ignore = _NO_ID if self.ignore is None else self.ignore
        nothing = none_id(self.classes) if unlabelled is None else unlabelled
        # Copies only what the native operation refuses: other layouts, and views that begin anywhere.
        labels = np.require(labels, requirements=("C", "A"))
        predictions = np.require(predictions, requirements=("C", "A"))
        try:
            _native.confusion(labels, predictions, self.matrix, ignore, nothing)
        except IndexError as error:
            raise BadInputError(f"{error}; {self._advice(str(error), nothing)}") from error
        except (TypeError, ValueError) as error:
            raise BadInputError(str(error)) from error

    def _advice(self, message: str, nothing: int) -> str:
        if message.startswith("prediction"):
            return f"predict a class, or {nothing} for no class"
        other = "" if self.ignore is None else f" or as {self.ignore}, which is not counted"
        return f"label such pixels as a class{other}"

    def merge(self, other: Confusion) -> None:
        """Add what another process counted; raises BadInputError for another number of classes."""
        if other.classes != self.classes:
            raise BadInputError(
                f"counts of {other.classes} classes cannot be added to those of {self.classes}"
            )
        self.matrix += other.matrix

    @property
    def right(self) -> NDArray[np.int64]:
        """Pixels of each class that got it, int64 [N]."""
        return np.diagonal(self.matrix)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Pixels that carry each class's label, int64 [N]."""
        counts: NDArray[np.int64] = self.matrix.sum(axis=1)
        return counts

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Pixels that were given each class, among those with a label, int64 [N]."""
        counts: NDArray[np.int64] = self.matrix[:, : self.classes].sum(axis=0)
        return counts

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class, float64 [N]; NaN where nothing was met or predicted."""
        return ratio(self.right, self.labelled + self.predicted - self.right)

    @property
    def class_accuracy(self) -> NDArray[np.float64]:
        """Part of each class's labelled pixels that got it (recall), float64 [N], or NaN."""
        return ratio(self.right, self.labelled)

    @property
    def class_precision(self) -> NDArray[np.float64]:
        """Part of the pixels given a class that carry its label, float64 [N], or NaN."""
        return ratio(self.right, self.predicted)

    @property
    def miou_present(self) -> float:
        """Mean IoU over the classes that the labels contain; NaN without labelled pixels.

        This is the measure of published tables.
        """
        return self.miou_of(range(self.classes))

    @property
    def miou_union(self) -> float:
        """Mean IoU over the classes that labels or predictions contain; never above miou_present.

        A class that is only ever predicted wrongly counts with 0 here.
        """
        return self.miou_of(range(self.classes), denominator="union")

    def miou_of(self, ids: Iterable[int], *, denominator: Denominator = "present") -> float:
        """Return the mean IoU over some classes, those that no label shows left out.

        denominator: `union` keeps those that were predicted; NaN when nothing is left.
        """
        chosen = np.zeros(self.classes, dtype=bool)
        chosen[list(ids)] = True
        iou = self.iou
        kept = self.labelled > 0 if denominator == "present" else ~np.isnan(iou)
        return mean(iou[chosen & kept])

    @property
    def accuracy(self) -> float:
        """Fraction of the labelled pixels that got their class; NaN without labelled pixels."""
        total = int(self.matrix.sum())
        return int(np.trace(self.matrix)) / total if total else float("nan")

    @property
    def mean_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes that the labels contain."""
        return mean(self.class_accuracy[self.labelled > 0])

    @property
    def frequency_weighted_iou(self) -> float:
        """IoU weighted by labelled pixels (Long et al., 2015); NaN without any."""
        present = self.labelled > 0
        if not present.any():
            return float("nan")
        return float(np.average(self.iou[present], weights=self.labelled[present]))

    def pairs(self, count: int) -> list[tuple[int, int | None, int, float]]:
        """Return the `count` most frequent mistakes, most pixels first.

        Each is (label, prediction or None for no class, pixels, part of the label's pixels).
        """
        wrong = self.matrix.copy()
        np.fill_diagonal(wrong, 0)
        labelled = self.labelled
        found: list[tuple[int, int | None, int, float]] = []
        for cell in np.argsort(-wrong, axis=None, kind="stable")[:count].tolist():
            label, prediction = divmod(cell, self.classes + 1)
            pixels = int(wrong[label, prediction])
            if pixels:
                said = prediction if prediction < self.classes else None
                found.append((label, said, pixels, pixels / int(labelled[label])))
        return found


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Return part / whole, float64, NaN where `whole` is 0."""
    found = np.full(part.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the values that are numbers, NaN when none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
