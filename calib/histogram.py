"""How often each magnitude occurs in a tensor, counted so that the order of frames cannot matter.

Counts are integers and the bins are fixed beforehand, so adding is exact and commutative. A bin is
what a float32 keeps of its bits without sign and without the last 16: the exponent and 7 bits of
mantissa, 128 bins per octave from the smallest number to the largest. No range has to be known
before the first frame, and no bin ever grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError

_DROPPED_BITS = 16
_MAGNITUDE = np.uint32(0x7FFF_FFFF)
_INFINITY = 0x7F80_0000

BINS = _INFINITY >> _DROPPED_BITS
"""Number of bins; the first holds zero, the last ends at 2^128."""

_CHUNK = 1 << 20
"""Values counted at a time: bincount wants 8 bytes for each of them."""


@cache
def bin_edges() -> NDArray[np.float64]:
    """Return the lower edges of all bins and the upper edge of the last, float64 [BINS + 1].

    Bin i holds the magnitudes in [edges[i], edges[i + 1]); beyond 2^-126 a bin is at most 1/128 of
    its lower edge wide.
    """
    bits = np.arange(BINS, dtype=np.uint32) << _DROPPED_BITS
    edges = np.append(bits.view(np.float32).astype(np.float64), 2.0**128)
    edges.setflags(write=False)
    return edges


@dataclass(frozen=True, eq=False, repr=False)
class MagnitudeHistogram:
    """Counts of |x| over everything that was seen of one tensor."""

    counts: NDArray[np.int64]
    """int64 [BINS], see bin_edges."""

    max: float
    """The largest magnitude, exact."""

    def __post_init__(self) -> None:
        if self.counts.shape != (BINS,) or self.counts.dtype != np.int64:
            raise BadInputError(
                f"a histogram has int64 counts [{BINS}], not {self.counts.dtype} "
                f"{list(self.counts.shape)}"
            )

    @classmethod
    def of(cls, values: NDArray[Any], *, name: str) -> MagnitudeHistogram:
        """Return the histogram of `values`, float32 or float16 of any shape.

        name: what messages call the tensor. Raises BadInputError for another dtype, for NaN, and
        for infinities.
        """
        if values.dtype not in (np.float32, np.float16):
            raise BadInputError(
                f"tensor {name!r} is {values.dtype}; only float tensors have ranges"
            )
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        counts, largest = np.zeros(BINS, np.int64), 0
        for start in range(0, flat.size, _CHUNK):
            bits = flat[start : start + _CHUNK].view(np.uint32) & _MAGNITUDE
            largest = max(largest, int(bits.max()))
            if largest >= _INFINITY:
                raise BadInputError(
                    f"tensor {name!r} has a NaN or an infinity; a network that overflows on this "
                    f"frame cannot be calibrated with it, check the model and the frame"
                )
            counts += np.bincount(bits >> _DROPPED_BITS, minlength=BINS)
        return cls(counts, float(np.uint32(largest).view(np.float32)))

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum())

    def merged(self, other: MagnitudeHistogram) -> MagnitudeHistogram:
        """Return the histogram of what both have seen; exact, and the same in any order."""
        return MagnitudeHistogram(self.counts + other.counts, max(self.max, other.max))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MagnitudeHistogram):
            return NotImplemented
        return self.max == other.max and bool(np.array_equal(self.counts, other.counts))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"MagnitudeHistogram(total={self.total}, max={self.max:g})"
