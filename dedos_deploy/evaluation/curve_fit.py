"""Confidence curves fitted to counts of right and wrong pixels by class and score.

A curve is the isotonic regression of being right on the score (Zadrozny and Elkan, 2002), by pooling
adjacent violators: the curve that never falls with the least squared error. Beta calibration (Kull et al.,
2017) was tried beside it and came out behind, see docs/evaluation.md. A class is fitted together with
pixels that follow the curve of all classes, so that one with few labelled pixels keeps close to that; how
many such pixels is decided by parts of the images that were held back, unless it is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.confidence_curves import LEVELS, Curve
from dedos_deploy.evaluation.reliability import Reliability, level_cells, reliability_of

STRENGTHS = (1e4, 1e5, 1e6, 1e7, math.inf)
"""Pixels that follow the curve of all classes beside those of each; inf: that curve alone."""

_SCORES = np.arange(LEVELS) / 255
_FAITH = float(LEVELS)
"""Pixels by which the curve of all classes keeps to the scores themselves where nothing was seen."""

Counts = NDArray[np.int64]
"""int64 [N, 256], pixels by class and score in 255ths."""

Part = tuple[Counts, Counts]
"""Pixels that were right, and all pixels, of a part of the images."""


@dataclass(frozen=True)
class PlaceErrors:
    """What curves do to pixels of one place, as which a folder of images counts."""

    before: Reliability
    """Of scores."""
    after: Reliability
    """Of what the curves make of them, each part with those that all other parts teach, its neighbours too."""
    unseen: Reliability | None
    """The same with curves of the other places alone; None if there are none."""


@dataclass(frozen=True, eq=False)
class FittedCurves:
    """Curves, and what they did to pixels of images that they were not fitted to."""

    overall: Curve
    by_class: NDArray[np.uint8]
    """uint8 [N, 256]."""
    strength: float
    """Pixels that follow the curve of all classes beside those of each."""
    before: tuple[Reliability | None, ...]
    """Of scores, by class, and of all in the last place; None without pixels."""
    after: tuple[Reliability | None, ...]
    """The same of what the curves make of them."""
    places: tuple[PlaceErrors, ...]
    """In the order in which they were given."""


def fit_curves(places: Sequence[Sequence[Part]], strength: float | None = None) -> FittedCurves:
    """Return the curves of all places together.

    places: two or more parts of each, with pixels in every one; strength: pixels that follow the curve of all
    classes beside those of each, above 0, inf for that curve alone (None: that of STRENGTHS which is best for
    parts held back).
    """
    parts = [part for place in places for part in place]
    tried = STRENGTHS if strength is None else (strength,)
    held = {one: _held_back(parts, one) for one in tried}
    best = min(tried, key=lambda one: _squared_error(parts, held[one]))
    right, total = _sum(parts)
    overall, by_class = _fitted(right, total, best)
    scores = np.broadcast_to(np.arange(LEVELS, dtype=np.uint8), total.shape)
    return FittedCurves(
        overall,
        by_class,
        best,
        _reliability(parts, [scores] * len(parts)),
        _reliability(parts, held[best]),
        _by_place(places, held[best], best),
    )


def isotonic(accuracy: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values, never falling, of the least weighted squared distance to `accuracy`.

    weight: above 0.

    >>> isotonic(np.array([0.0, 0.6, 0.2, 1.0]), np.array([1.0, 1.0, 3.0, 1.0])).tolist()
    [0.0, 0.3, 0.3, 1.0]
    """
    blocks: list[tuple[float, float, int]] = []
    for one in zip(accuracy.tolist(), weight.tolist(), [1] * len(accuracy), strict=True):
        value, mass, count = one
        while blocks and blocks[-1][0] >= value:
            before, its_mass, its_count = blocks.pop()
            value = (before * its_mass + value * mass) / (its_mass + mass)
            mass, count = mass + its_mass, count + its_count
        blocks.append((value, mass, count))
    return np.repeat([value for value, _, _ in blocks], [count for _, _, count in blocks])


def _held_back(parts: Sequence[Part], strength: float) -> list[NDArray[np.uint8]]:
    """Return for every part the curves by class that the other parts teach."""
    right, total = _sum(parts)
    return [_fitted(right - its, total - seen, strength)[1] for its, seen in parts]


def _by_place(
    places: Sequence[Sequence[Part]], held: Sequence[NDArray[np.uint8]], strength: float
) -> tuple[PlaceErrors, ...]:
    right, total = _sum([_sum(place) for place in places])
    scores = np.broadcast_to(np.arange(LEVELS, dtype=np.uint8), total.shape)
    found, first = [], 0
    for place in places:
        drawn = held[first : first + len(place)]
        first += len(place)
        before, after = (_of_all(place, one) for one in ([scores] * len(place), drawn))
        unseen = None
        if len(places) > 1:
            its, seen = _sum(place)
            unseen = _of_all([(its, seen)], [_fitted(right - its, total - seen, strength)[1]])
        found.append(PlaceErrors(before, after, unseen))
    return tuple(found)


def _of_all(parts: Sequence[Part], curves: Sequence[NDArray[np.uint8]]) -> Reliability:
    found = _reliability(parts, curves)[-1]
    assert found is not None, "every part has pixels"
    return found


def _fitted(right: Counts, total: Counts, strength: float) -> tuple[Curve, NDArray[np.uint8]]:
    everywhere = np.full(LEVELS, _FAITH / LEVELS)
    overall = _drawn_to(_SCORES, everywhere, right.sum(axis=0), total.sum(axis=0))
    if math.isinf(strength):
        return _levels(overall), np.tile(_levels(overall), (len(right), 1))
    seen = total.sum(axis=0) + everywhere
    others = strength * (seen / seen.sum())
    curves = [_drawn_to(overall, others, *one) for one in zip(right, total, strict=True)]
    return _levels(overall), np.stack([_levels(curve) for curve in curves])


def _drawn_to(
    curve: NDArray[np.float64], mass: NDArray[np.float64], right: Counts, total: Counts
) -> NDArray[np.float64]:
    weight = total + mass
    return isotonic((right + mass * curve) / weight, weight)


def _levels(curve: NDArray[np.float64]) -> Curve:
    return np.rint(255 * curve).astype(np.uint8)


def _squared_error(parts: Sequence[Part], curves: Sequence[NDArray[np.uint8]]) -> float:
    """Return the summed squared distance of confidence to being right, a proper score (Brier)."""
    errors = (
        right * (1 - drawn / 255) ** 2 + (total - right) * (drawn / 255) ** 2
        for (right, total), drawn in zip(parts, curves, strict=True)
    )
    return float(sum(error.sum() for error in errors))


def _reliability(
    parts: Sequence[Part], curves: Sequence[NDArray[np.uint8]]
) -> tuple[Reliability | None, ...]:
    by_class = [
        [
            level_cells(right[index], total[index], drawn[index])
            for (right, total), drawn in zip(parts, curves, strict=True)
        ]
        for index in range(len(parts[0][0]))
    ]
    everything = [cells for its in by_class for cells in its]
    return tuple(reliability_of(its) for its in [*by_class, everything])


def _sum(parts: Sequence[Part]) -> Part:
    rights, totals = zip(*parts, strict=True)
    return np.sum(rights, axis=0), np.sum(totals, axis=0)
