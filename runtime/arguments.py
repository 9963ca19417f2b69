"""Numbers as programs give them, Python's or NumPy's, before anything is computed with them."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import numpy as np


def as_whole(given: Any) -> int | None:
    """Return a whole number as int, None for whatever is none, True and 2.0 among it.

    >>> as_whole(np.uint8(3)), as_whole(3.0), as_whole("3")
    (3, None, None)
    """
    if isinstance(given, (bool, np.bool_)):
        return None
    try:
        return operator.index(given)
    except TypeError:
        return None


def as_finite(given: Any) -> float | None:
    """Return a finite number as float, None for whatever is none, True among it.

    >>> as_finite(np.float32(0.5)), as_finite(float("nan")), as_finite("0.5")
    (0.5, None, None)
    """
    if isinstance(given, bool) or not isinstance(given, Real):
        return None
    try:
        value = float(given)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None
