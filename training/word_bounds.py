"""How sure a gain is: lower bounds from leaving out one part of the frames at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.evaluation.confusion import Confusion

DEVIATIONS = 1.0
"""Standard errors between a gain and its lower bound."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Gains of IoU less DEVIATIONS standard errors."""

    classes: NDArray[np.float64]
    """[C], 0 for a class that no label shows."""
    mean: float
    """Of the mean over the classes that labels show."""


def lower_bounds(
    before: Sequence[Confusion], after: Sequence[Confusion], parts: NDArray[np.int64]
) -> Bounds:
    """Return the lower bounds of what classes gain, by a jackknife over the parts.

    Frames of one part are neighbours in time and alike, so that they count once: a gain that one
    part alone shows has a wide interval, however many frames it has. A class that a single part shows
    has no interval, and its gain is the bound.

    before, after: of every frame; parts: int64 [frames].
    """
    matrices = [np.stack([one.matrix for one in side]) for side in (before, after)]
    whole = _gains(*(side.sum(0) for side in matrices))
    labelled = matrices[0].sum(2) > 0
    left = [parts != part for part in np.unique(parts) if len(np.unique(parts)) > 1]
    without = np.array([_gains(*(side[rest].sum(0) for side in matrices)) for rest in left])
    error = np.zeros_like(whole)
    for column in range(len(whole)):
        shown = labelled.any(1) if column == len(whole) - 1 else labelled[:, column]
        if len(set(parts[shown].tolist())) > 1:
            values = without[:, column]
            error[column] = np.sqrt((len(values) - 1) * values.var())
    low = whole - DEVIATIONS * error
    return Bounds(low[:-1], float(low[-1]))


def _gains(before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the gain of every class, then that of the mean, float64 [C + 1]."""
    shown = before.sum(1) > 0
    iou = []
    for matrix in (before, after):
        confusion = Confusion(len(matrix))
        confusion.matrix[:] = matrix
        iou.append(np.where(shown, np.nan_to_num(confusion.iou), 0.0))
    gains = iou[1] - iou[0]
    return np.append(gains, gains.sum() / max(1, shown.sum()))
