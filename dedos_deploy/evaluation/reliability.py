"""Reliability: whether pixels that are given a class with a score of 0.8 are right in 80 % of the cases.

Pixels that got a class are put into equal bins of their confidence; the expected calibration error is
the mean distance between confidence and accuracy over bins, weighted by pixels (Guo et al., 2017).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.confidence_curves import LEVELS

BINS = 15
"""Equal parts of [0, 1]."""

_EVERY_LEVEL = np.arange(LEVELS, dtype=np.uint8)

Cells = Sequence[tuple[int, int, int, int]]
ClassCells = tuple[tuple[int, int, int, int, int], ...]


@dataclass(frozen=True)
class ReliabilityBin:
    """Pixels of one range of confidence."""

    low: float
    """Lower end of the range, which is part of it."""
    high: float
    """Upper end of the range, which is part of the last one only."""
    pixels: int
    confidence: float
    """Mean, in [0, 1]."""
    accuracy: float
    """Part of the pixels that got their class."""


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, of all pixels that count and got a class."""

    bins: tuple[ReliabilityBin, ...]
    """Those with pixels, by confidence."""

    @property
    def pixels(self) -> int:
        """How many it is of."""
        return sum(one.pixels for one in self.bins)

    @property
    def confidence(self) -> float:
        """Mean, in [0, 1]."""
        return sum(one.pixels * one.confidence for one in self.bins) / self.pixels

    @property
    def accuracy(self) -> float:
        """Part of the pixels that got their class."""
        return sum(one.pixels * one.accuracy for one in self.bins) / self.pixels

    @property
    def error(self) -> float:
        """The expected calibration error (ECE), in [0, 1]."""
        gaps = (one.pixels * abs(one.confidence - one.accuracy) for one in self.bins)
        return sum(gaps) / self.pixels

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"ece": self.error, "bins": [vars(one) for one in self.bins]}


@dataclass(frozen=True)
class Calibration:
    """What confidences are worth, by class that was answered."""

    given: tuple[Reliability | None, ...]
    """Of confidences as they are given, a class after the other, and of all in the last place; None where
    a class was never answered."""
    scores: tuple[Reliability | None, ...] | None
    """The same of the scores behind them; None as a whole where confidences are scores."""

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return JSON values; classes: names of the classes."""
        return {
            "ece": _errors(self.given, classes),
            "ece_of_scores": None if self.scores is None else _errors(self.scores, classes),
            "scores": None if self.scores is None else _shown(self.scores[-1]),
        }


def _errors(found: Sequence[Reliability | None], classes: Sequence[str]) -> dict[str, float | None]:
    """Return the error of each class; found: of all of them, and of all together in the last place."""
    by_class = zip(classes, found[:-1], strict=True)
    return {name: None if one is None else one.error for name, one in by_class}


def _shown(one: Reliability | None) -> dict[str, Any] | None:
    return None if one is None else one.to_dict()


def reliability_cells(
    confidence: NDArray[np.uint8] | None, answered: NDArray[np.bool_], right: NDArray[np.bool_]
) -> tuple[tuple[int, int, int, int], ...]:
    """Return (bin, pixels, right ones, sum of confidences in 255ths) of one image's pixels.

    confidence: uint8 [H, W] in 255ths, None when it is not known; answered: [H, W], pixels that count
    and got a class; right: [H, W], those whose class is their label's.
    """
    if confidence is None:
        return ()
    scores = confidence[answered]
    total = np.bincount(scores, minlength=LEVELS)
    return level_cells(np.bincount(scores[right[answered]], minlength=LEVELS), total, _EVERY_LEVEL)


def class_cells(
    confidence: NDArray[np.uint8] | None,
    answered: NDArray[np.bool_],
    right: NDArray[np.bool_],
    answers: NDArray[Any],
) -> ClassCells:
    """Return the same of every class that was answered, (class, bin, pixels, right ones, sum).

    answers: class ids [H, W].
    """
    if confidence is None:
        return ()
    return tuple(
        (index, place, pixels, rights, total)
        for index in np.unique(answers[answered]).tolist()
        for place, pixels, rights, total in reliability_cells(
            confidence, answered & (answers == index), right
        )
    )


def level_cells(
    right: NDArray[np.int64], total: NDArray[np.int64], values: NDArray[np.uint8]
) -> tuple[tuple[int, int, int, int], ...]:
    """Return (bin, pixels, right ones, sum of confidences in 255ths) of counted pixels.

    right, total: int64 [256], pixels that are right, and all, by score; values: uint8 [256], the
    confidence of each score.
    """
    confidences = values.astype(np.int64)
    places = np.minimum(confidences * BINS // 255, BINS - 1)
    sums = np.zeros((BINS, 3), dtype=np.int64)
    np.add.at(sums, places, np.stack([total, right, total * confidences], axis=1))
    rows = enumerate(sums.tolist())
    return tuple((place, pixels, good, value) for place, (pixels, good, value) in rows if pixels)


def calibration_of(
    images: Sequence[tuple[ClassCells, ClassCells]], classes: int
) -> Calibration | None:
    """Return what confidences were worth over images, None when none of them has a cell.

    images: cells of confidences as they were given, and of the scores behind them.
    """
    given, scores = (list(cells) for cells in zip(*images, strict=True)) if images else ([], [])
    measured = _by_class(given, classes)
    if measured[-1] is None:
        return None
    before = _by_class(scores, classes)
    return Calibration(measured, None if before[-1] is None else before)


def _by_class(images: Sequence[ClassCells], classes: int) -> tuple[Reliability | None, ...]:
    by_class: list[list[Cells]] = [[] for _ in range(classes)]
    for cells in images:
        for index, place, pixels, right, total in cells:
            by_class[index].append([(place, pixels, right, total)])
    everything = [one for its in by_class for one in its]
    return tuple(reliability_of(its) for its in [*by_class, everything])


def reliability_of(images: Iterable[Cells]) -> Reliability | None:
    """Return the reliability over images, None when none of them has a cell."""
    sums = np.zeros((BINS, 3), dtype=np.int64)
    for cells in images:
        for place, *counts in cells:
            sums[place] += counts
    found = []
    for place, (pixels, right, total) in enumerate(sums.tolist()):
        if pixels:
            low, high = place / BINS, (place + 1) / BINS
            found.append(ReliabilityBin(low, high, pixels, total / pixels / 255, right / pixels))
    return Reliability(tuple(found)) if found else None
