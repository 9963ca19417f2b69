"""Run lengths as COCO, CVAT and Label Studio have them: by hand, there and back, and damaged."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco

from dedos_deploy.corpus.formats.run_lengths import (
    DamagedRunsError,
    brush_from_mask,
    coco_run_lengths,
    mask_from_brush,
    mask_from_run_lengths,
    run_lengths,
)

Mask = NDArray[np.bool_]


def masks() -> list[Mask]:
    random = np.random.default_rng(4)
    found = [random.random(size) < share for size in ((7, 9), (40, 3)) for share in (0.1, 0.5, 0.9)]
    plain = [
        np.full(size, value) for size in ((1, 1), (1, 40), (300, 400)) for value in (True, False)
    ]
    return [*found, *plain]


@pytest.mark.parametrize("mask", masks())
def test_masks_come_back(mask: Mask) -> None:
    size_hw = (mask.shape[0], mask.shape[1])
    rows = mask_from_run_lengths(run_lengths(mask.ravel()).tolist(), size_hw)
    np.testing.assert_array_equal(rows, mask)
    np.testing.assert_array_equal(mask_from_brush(brush_from_mask(mask), size_hw), mask)
    text = coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    columns = mask_from_run_lengths(coco_run_lengths(text), size_hw[::-1])
    np.testing.assert_array_equal(columns.T, mask)


def bytes_of(bits: str) -> list[int]:
    joined = bits.replace(" ", "")
    joined += "0" * (-len(joined) % 8)
    return [int(joined[place : place + 8], 2) for place in range(0, len(joined), 8)]


HEAD = f"{12:032b} 00111 0010 0011 0111 1111"
"""Of twelve values, three pixels of four channels, of 8 bits; counts of 3, 4, 8 and 16 bits."""


def test_a_brush_by_hand() -> None:
    # One run of four values 0 (width 3, 4 - 1), one of eight values 255.
    written = bytes_of(f"{HEAD} 1 00 011 00000000 1 00 111 11111111")
    assert brush_from_mask(np.array([[False, True, True]])) == written


def test_a_brush_may_hold_values_as_they_are_and_half_transparent_ones() -> None:
    """As Label Studio's own encoder writes what does not repeat."""
    values = [9, 9, 9, 0, 1, 2, 3, 128, 0, 0, 0, 1]
    literal = "".join(f"{value:08b}" for value in values)
    mixed = bytes_of(f"{HEAD} 0 01 1011 {literal}")
    assert mask_from_brush(mixed, (1, 3)).tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    ("bits", "why"),
    [
        (HEAD, "ends too early"),
        ("", "ends too early"),
        (f"{HEAD} 1 10 11111111 00000000", "last run is too long"),
        (f"{HEAD} 0 00 111 00000000", "ends too early"),
        (f"{HEAD.replace('00111', '01111')} 1 00 111", "have not 8 bits"),
        (f"{13:032b}", "it has 13 values, its size 12"),
    ],
)
def test_damaged_brushes(bits: str, why: str) -> None:
    with pytest.raises(DamagedRunsError, match=why):
        mask_from_brush(bytes_of(bits), (1, 3))


def test_other_damage() -> None:
    for rle in ([300], ["a"], [-1], None, 5.0, [[1]]):
        with pytest.raises(DamagedRunsError, match="no list of bytes"):
            mask_from_brush(rle, (1, 3))  # type: ignore[arg-type]
    for runs, why in (
        ([3, 4], "its runs have 7 pixels, its size 12"),
        ([-3, 15], "no length that fits"),
        ([2**62, 2**62], "no length that fits"),
        ([], "its runs have 0 pixels"),
    ):
        with pytest.raises(DamagedRunsError, match=why):
            mask_from_run_lengths(runs, (3, 4))
    for text, why in (
        ("\x20", "not COCO's"),
        ("é", "not COCO's"),
        ("oooooooooo", "not COCO's"),
        ("o", "too early"),
    ):
        with pytest.raises(DamagedRunsError, match=why):
            coco_run_lengths(text)
