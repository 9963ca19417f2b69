"""Two evaluations of the same images, compared by a paired bootstrap.

Images are drawn with replacement, the same draw for both sides, and the measures are computed anew
from the sums over the draw (Efron, 1979; paired, since an image that is hard for one side is hard
for the other). The interval is that of percentiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.confusion import ratio
from dedos_deploy.evaluation.records import Header, ImageRecord, confusion_of

DRAWS = 2000
LEVEL = 0.95
_CHUNK = 64
"""Draws at a time: their sums are float64 [chunk, classes]."""


@dataclass(frozen=True)
class Interval:
    """second - first, and the 95 % interval of it; `low` and `high` in the same units."""

    difference: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Two evaluations, `first` and `second`, on the same images."""

    first: str
    second: str
    data: str
    miou: Interval
    """Difference of miou_present."""
    classes: dict[str, Interval | None]
    """Difference of every class's IoU, None where no image has it."""
    images: int
    """How many were drawn from."""
    draws: int
    """How often as many images were drawn."""
    group: Interval | None = None
    """Difference of the mean IoU of the classes that were asked for as a group, where some were."""

    @property
    def moved(self) -> dict[str, Interval]:
        """Classes whose interval leaves 0 out, largest change first."""
        found = {n: i for n, i in self.classes.items() if i is not None and i.certain}
        return dict(sorted(found.items(), key=lambda pair: -abs(pair[1].difference)))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values under stable keys."""
        return {
            "first": self.first,
            "second": self.second,
            "data": self.data,
            "miou_present": _values(self.miou),
            "iou": {n: None if i is None else _values(i) for n, i in self.classes.items()},
            "moved": list(self.moved),
            "images": self.images,
            "draws": self.draws,
            **({} if self.group is None else {"group": _values(self.group)}),
        }


def compare(
    first: tuple[Header, Sequence[ImageRecord]],
    second: tuple[Header, Sequence[ImageRecord]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    group: Sequence[str] = (),
) -> Comparison:
    """Return the difference of two evaluations and how sure it is.

    group: classes whose mean IoU is compared, too, such as thin ones. Raises BadInputError when they did
    not score the same labels of the same images.
    """
    (head_1, records_1), (head_2, records_2) = first, second
    for key in ("data", "classes"):
        if head_1[key] != head_2[key]:
            raise BadInputError(
                f"evaluations of different {key} cannot be compared: {head_1[key]} and {head_2[key]}"
            )
    classes = tuple(head_1["classes"])
    counts_1, counts_2 = (_counts(records, len(classes)) for records in (records_1, records_2))
    names = sorted(counts_1)
    if names != sorted(counts_2):
        other = min(set(counts_1) ^ set(counts_2))
        raise BadInputError(
            f"evaluations of different images cannot be compared: only one has {other!r}"
        )
    pair = tuple(np.stack([counts[name] for name in names]) for counts in (counts_1, counts_2))
    if not np.array_equal(pair[0][:, 1], pair[1][:, 1]):
        raise BadInputError(
            f"the labels of {head_1['data']} changed between the two evaluations; run both again"
        )
    miou, iou = _bootstrap(pair[0], pair[1], draws, np.random.default_rng(seed))
    whole = [_measures(side.sum(0)[None]) for side in pair]
    per_class: dict[str, Interval | None] = {}
    for index, name in enumerate(classes):
        change = float(whole[1][1][0, index] - whole[0][1][0, index])
        drawn = iou[:, index]
        drawn = drawn[~np.isnan(drawn)]
        seen = bool(pair[0][:, 1, index].any())
        per_class[name] = _interval(change, drawn) if seen and drawn.size else None
    difference = float(whole[1][0][0] - whole[0][0][0])
    members = [classes.index(name) for name in group if per_class[name] is not None]
    return Comparison(
        head_1["predictor"],
        head_2["predictor"],
        head_1["data"],
        _interval(difference, miou),
        per_class,
        len(names),
        draws,
        _mean_of([per_class[classes[index]] for index in members], iou[:, members]),
    )


def _mean_of(changes: Sequence[Interval | None], drawn: NDArray[np.float64]) -> Interval | None:
    """Return the change of a mean over classes, None of none; drawn: float64 [draws, classes].

    A draw without pixels of one of them has no IoU of it: the others stand for all.
    """
    found = [change.difference for change in changes if change is not None]
    if not found:
        return None
    return _interval(float(np.mean(found)), np.nanmean(drawn, axis=1))


def _counts(records: Sequence[ImageRecord], classes: int) -> dict[str, NDArray[np.float64]]:
    """Return float64 [3, classes] of every image that counts: right, labelled, predicted."""
    found = {}
    for record in records:
        if not record.skipped:
            own = confusion_of([record], classes)
            counts = np.stack([own.right, own.labelled, own.predicted])
            found[record.name] = counts.astype(np.float64)
    return found


def _bootstrap(
    first: NDArray[np.float64], second: NDArray[np.float64], draws: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return float64 [draws] and [draws, classes], differences of the measures of every draw."""
    images = len(first)
    means, ious = [], []
    for begin in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - begin)
        weights = random.multinomial(images, np.full(images, 1 / images), size=count)
        sums = [
            np.tensordot(weights.astype(np.float64), side, axes=(1, 0)) for side in (first, second)
        ]
        (mean_1, iou_1), (mean_2, iou_2) = (_measures(side) for side in sums)
        means.append(mean_2 - mean_1)
        ious.append(iou_2 - iou_1)
    return np.concatenate(means), np.concatenate(ious)


def _measures(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return miou_present, [n], and IoU per class, [n, classes], of counts [n, 3, classes]."""
    right, labelled, predicted = counts[:, 0], counts[:, 1], counts[:, 2]
    iou = ratio(right, labelled + predicted - right)
    present = labelled > 0
    total = np.where(present, iou, 0.0).sum(1)
    return ratio(total, present.sum(1)), iou


def _interval(difference: float, drawn: NDArray[np.float64]) -> Interval:
    outside = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside])
    return Interval(difference, float(low), float(high))


def _values(interval: Interval) -> dict[str, float | bool]:
    return {
        "difference": interval.difference,
        "low": interval.low,
        "high": interval.high,
        "certain": interval.certain,
    }
