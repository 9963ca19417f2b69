"""Masks as run lengths: CVAT's, and Label Studio's brush, which is the packed form of @thi.ng/rle-pack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Label Studio's brush: a header of 32 bits for the count of values, 5 for their width less 1, and four of 4
# bits for the widths of counts less 1. Then runs: one bit that is set for a value which repeats, two that
# choose the width of the count, the count less 1, and the value, or as many values where it is not set.
# The values are those of a picture of four channels, of which the last, alpha, is the mask.
_WIDTHS = np.array([3, 4, 8, 16])
_CHANNELS = 4
_VALUE_BITS = 8
_HEADER_BITS = 32 + 5 + 4 * 4


class DamagedRunsError(ValueError):
    """Run lengths that make no mask of the size they are for; the message says why in a few words."""


def run_lengths(flat: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many elements are False, then True, and so on; the first is 0 where it begins with True.

    >>> run_lengths(np.array([True, True, False])).tolist()
    [0, 2, 1]
    """
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(edges, prepend=0, append=flat.size)
    return np.concatenate([[0], lengths]) if flat.size and flat[0] else lengths


def mask_from_run_lengths(lengths: Sequence[int], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return bool [H, W] from what `run_lengths` gave of its rows. Raises DamagedRunsError."""
    pixels = size_hw[0] * size_hw[1]
    try:
        counts = np.asarray(lengths, np.int64)
    except OverflowError:
        raise DamagedRunsError("a run has no length that fits") from None
    # No count alone is more than there are pixels, so that their sum cannot overflow.
    if counts.size and (counts.min() < 0 or counts.max() > pixels):
        raise DamagedRunsError("a run has no length that fits")
    if counts.sum() != pixels:
        raise DamagedRunsError(f"its runs have {counts.sum()} pixels, its size {pixels}")
    values = np.arange(counts.size) % 2 == 1
    return np.repeat(values, counts).reshape(size_hw)


def coco_run_lengths(text: str) -> list[int]:
    """Return the run lengths that COCO's compressed `counts` stand for. Raises DamagedRunsError.

    pycocotools, which writes them, reads beyond the end of such a text when it is damaged.

    >>> coco_run_lengths("042")  # no pixel that is not of the mask, then four that are, then two
    [0, 4, 2]
    """
    found: list[int] = []
    value, shift = 0, 0
    for letter in text:
        part = ord(letter) - 48
        if not 0 <= part < 64 or shift > 30:
            raise DamagedRunsError("its counts are not COCO's")
        value |= (part & 31) << shift
        shift += 5
        if part & 32:
            continue
        if part & 16:
            value -= 1 << shift
        # From the third on they are written as what is added to the one before the last.
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise DamagedRunsError("its counts end too early")
    return found


def brush_from_mask(mask: NDArray[np.bool_]) -> list[int]:
    """Return Label Studio's `rle` of a mask, bool [H, W]: bytes of a picture with the mask in every channel."""
    lengths = _CHANNELS * run_lengths(mask.ravel())
    values = np.where(np.arange(lengths.size) % 2, 255, 0)
    lengths, values = _at_most(lengths, 1 << int(_WIDTHS[-1]), values)
    choice = np.searchsorted(1 << _WIDTHS, lengths)
    bits = _WIDTHS[choice]
    codes = (((4 + choice) << bits) | (lengths - 1)) << _VALUE_BITS | values
    header = int(_CHANNELS * mask.size)
    header = header << 5 | (_VALUE_BITS - 1)
    for width in _WIDTHS.tolist():
        header = header << 4 | (width - 1)
    packed = np.concatenate([_bits_of([header], [_HEADER_BITS]), _bits_of(codes, 11 + bits)])
    return list(np.packbits(packed).tobytes())


def _at_most(
    lengths: NDArray[np.int64], limit: int, values: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return runs with none longer than `limit` and none of nothing."""
    pieces = -(-lengths // limit)
    owners = np.repeat(np.arange(lengths.size), pieces)
    # All pieces of a run are whole, the last may be shorter.
    is_last = np.diff(owners, append=-1) != 0
    rest = lengths[owners] - limit * (pieces[owners] - 1)
    return np.where(is_last, rest, limit), values[owners]


def _bits_of(
    codes: Sequence[int] | NDArray[np.int64], widths: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return the lowest bits of every code, the highest of them first, as zeros and ones."""
    codes, widths = np.asarray(codes, np.int64), np.asarray(widths)
    owners = np.repeat(np.arange(codes.size), widths)
    ends = np.cumsum(widths)
    shifts = ends[owners] - 1 - np.arange(owners.size)
    return ((codes[owners] >> shifts) & 1).astype(np.uint8)


def mask_from_brush(rle: Sequence[int], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where the brush painted, bool [H, W]: alpha above 0. Raises DamagedRunsError."""
    try:
        # Of a number there would be so many bytes.
        content = bytes(iter(rle))
    except (TypeError, ValueError):
        raise DamagedRunsError("its rle is no list of bytes") from None
    values = _Bits(content).values(_CHANNELS * size_hw[0] * size_hw[1])
    return values.reshape(*size_hw, _CHANNELS)[..., 3] > 0


class _Bits:
    """Reads a packed brush from its first bit on."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def values(self, expected: int) -> NDArray[np.uint8]:
        """Return all values, uint8 [expected]. Raises DamagedRunsError."""
        count = self._read(32)
        if count != expected:
            raise DamagedRunsError(f"it has {count} values, its size {expected}")
        if self._read(5) + 1 != _VALUE_BITS:
            raise DamagedRunsError("its values have not 8 bits")
        widths = [self._read(4) + 1 for _ in range(4)]
        found = np.empty(count, np.uint8)
        done = 0
        while done < count:
            repeats = self._read(1)
            length = self._read(widths[self._read(2)]) + 1
            if length > count - done:
                raise DamagedRunsError("its last run is too long")
            found[done : done + length] = (
                self._read(_VALUE_BITS) if repeats else self._bytes(length)
            )
            done += length
        return found

    def _read(self, width: int) -> int:
        start, stop = self._at, self._at + width
        if stop > 8 * len(self._content):
            raise DamagedRunsError("it ends too early")
        self._at = stop
        last = -(-stop // 8)
        chunk = int.from_bytes(self._content[start // 8 : last], "big")
        return chunk >> (8 * last - stop) & (1 << width) - 1

    def _bytes(self, count: int) -> NDArray[np.uint8]:
        start, stop = self._at, self._at + 8 * count
        if stop > 8 * len(self._content):
            raise DamagedRunsError("it ends too early")
        self._at = stop
        chunk = np.frombuffer(self._content[start // 8 : -(-stop // 8)], np.uint8)
        return np.packbits(np.unpackbits(chunk)[start % 8 :][: 8 * count])
