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

BINS = 15
"""Equal parts of [0, 1]."""

Cells = Sequence[tuple[int, int, int, int]]


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
    def error(self) -> float:
        """The expected calibration error (ECE), in [0, 1]."""
        total = sum(one.pixels for one in self.bins)
        return sum(one.pixels * abs(one.confidence - one.accuracy) for one in self.bins) / total

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"ece": self.error, "bins": [vars(one) for one in self.bins]}


def reliability_cells(
    confidence: NDArray[np.uint8] | None, answered: NDArray[np.bool_], right: NDArray[np.bool_]
) -> tuple[tuple[int, int, int, int], ...]:
    """Return (bin, pixels, right ones, sum of confidences in 255ths) of one image's pixels.

    confidence: uint8 [H, W] in 255ths, None when it is not known; answered: [H, W], pixels that count
    and got a class; right: [H, W], those whose class is their label's.
    """
    if confidence is None:
        return ()
    scores = confidence[answered].astype(np.int64)
    places = np.minimum(scores * BINS // 255, BINS - 1)
    columns = (
        np.bincount(places, minlength=BINS),
        np.bincount(places[right[answered]], minlength=BINS),
        np.bincount(places, weights=scores, minlength=BINS).astype(np.int64),
    )
    rows = zip(range(BINS), *(column.tolist() for column in columns), strict=True)
    return tuple(row for row in rows if row[1])


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
