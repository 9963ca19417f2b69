"""Score thresholds per class, chosen on labelled images.

Below its threshold a pixel that a class has won stays unlabelled. Nothing else takes its place, so
the threshold of one class never changes the IoU of another, and the best one is found exactly: with
TP(t) and FP(t) the pixels won with at least t, rightly and wrongly, and L those that carry the
label, IoU(t) = TP(t) / (L + FP(t)).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.confidence_curves import LEVELS
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.confusion import Ids


@dataclass(frozen=True)
class ClassThreshold:
    """The threshold of a class, in [0, 1], and its IoU without and with it, on the same images.

    The threshold is None for a class that no label shows.
    """

    name: str
    threshold: float | None
    iou_without: float | None
    iou_with: float | None
    labelled: int
    """Pixels that carry the label."""


class ThresholdCounts:
    """Counts of won pixels by class and score.

    classes: N; right, wrong: int64 [N, 256], pixels won with a score of so many 255ths whose label
    is, or is not, that class; labelled: int64 [N]; images: those with such a pixel. Pixels of unknown
    label do not count.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.images = 0
        self.right = np.zeros((classes, LEVELS), dtype=np.int64)
        self.wrong = np.zeros((classes, LEVELS), dtype=np.int64)
        self.labelled = np.zeros(classes, dtype=np.int64)

    def add(
        self, labels: Ids, elsewhere: NDArray[np.bool_], winners: Ids, score: NDArray[np.uint8]
    ) -> None:
        """Count one image.

        labels: class ids [H, W], N or more where unknown or no asked class; elsewhere: True where
        the label is known to be none of the classes, which makes every winner there wrong;
        winners: class ids [H, W], N or more for none; score: the winner's in 255ths.

        Raises BadInputError for maps of different shapes.
        """
        shapes = {labels.shape, elsewhere.shape, winners.shape, score.shape}
        if len(shapes) != 1 or labels.ndim != 2:
            raise BadInputError(f"maps of one height and width are needed, not {sorted(shapes)}")
        known = labels < self.classes
        self.labelled += np.bincount(labels[known], minlength=self.classes)[: self.classes]
        won = (winners < self.classes) & (known | elsewhere)
        self.images += bool(won.any())
        cells = winners[won].astype(np.int64) * LEVELS + score[won]
        right = labels[won] == winners[won]
        for table, chosen in ((self.right, right), (self.wrong, ~right)):
            counts = np.bincount(cells[chosen], minlength=table.size)
            table += counts.reshape(table.shape)

    def best(self, names: tuple[str, ...]) -> tuple[ClassThreshold, ...]:
        """Return the threshold of every class that gives it the highest IoU, the lowest of equals."""
        found = []
        for index, name in enumerate(names):
            labelled = int(self.labelled[index])
            # Pixels won with at least a score, for every score.
            right = self.right[index, ::-1].cumsum()[::-1]
            wrong = self.wrong[index, ::-1].cumsum()[::-1]
            if labelled == 0:
                found.append(ClassThreshold(name, None, None, None, 0))
                continue
            iou = right / (labelled + wrong)
            best = int(iou.argmax())
            # Between two levels: the runtime compares the exact score, which was rounded here.
            threshold = max(0.0, (best - 0.5) / (LEVELS - 1))
            found.append(ClassThreshold(name, threshold, float(iou[0]), float(iou[best]), labelled))
        return tuple(found)


def mean_iou(chosen: Iterable[ClassThreshold]) -> tuple[float, float]:
    """Return miou_present without and with thresholds, of classes that labels show."""
    present = [one for one in chosen if one.iou_without is not None and one.iou_with is not None]
    without = [one.iou_without for one in present if one.iou_without is not None]
    with_them = [one.iou_with for one in present if one.iou_with is not None]
    return float(np.mean(without)), float(np.mean(with_them))
