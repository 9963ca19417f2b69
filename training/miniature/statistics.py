"""Means over seeds, their spread, and paired differences between rows of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """mean and sample standard deviation of `count` values; the deviation of one value is None."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        """Percent, as `41.2 ± 0.8`.

        >>> print(Spread(0.412, 0.008, 3), Spread(0.5, None, 1))
        41.2 ± 0.8 50.0
        """
        shown = f"{100 * self.mean:.1f}"
        return shown if self.deviation is None else f"{shown} ± {100 * self.deviation:.1f}"


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and its 95 % interval by Student's t; None for one pair."""

    mean: float
    low: float | None
    high: float | None
    smallest: float | None = None
    """The difference that so many pairs find four times in five, outside of such an interval."""

    def __str__(self) -> str:
        """Points, as `+1.2 [-0.3, +2.7]`.

        >>> print(Difference(0.012, -0.003, 0.027))
        +1.2 [-0.3, +2.7]
        """
        shown = f"{100 * self.mean:+.1f}"
        if self.low is None or self.high is None:
            return shown
        return f"{shown} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def spread(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation (n - 1) of at least one value.

    >>> spread([1.0, 2.0, 3.0])
    Spread(mean=2.0, deviation=1.0, count=3)
    """
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Spread(mean, None, len(values))
    squares = sum((value - mean) ** 2 for value in values)
    return Spread(mean, math.sqrt(squares / (len(values) - 1)), len(values))


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, looks: int = 1
) -> Difference:
    """Return after - before over pairs of the same seed.

    looks: how many such intervals are looked at; all hold together at 95 % (Bonferroni).
    """
    from scipy.stats import t

    found = spread([b - a for a, b in zip(before, after, strict=True)])
    if found.deviation is None:
        return Difference(found.mean, None, None)
    error = found.deviation / math.sqrt(found.count)
    half, power = (float(t.ppf(p, found.count - 1)) for p in (1 - 0.025 / looks, 0.8))
    # The usual approximation of the noncentral t: (t_{1 - α/2} + t_{0.8}) s / √n.
    smallest = (half + power) * error
    return Difference(found.mean, found.mean - half * error, found.mean + half * error, smallest)
