"""The native regions against a flood fill in Python, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy import _native


def flooded(ids: NDArray[Any]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield the id and the pixels of every region, in the order of their first pixels."""
    left = set(np.ndindex(ids.shape))
    for start in np.ndindex(ids.shape):
        if start not in left:
            continue
        left.remove(start)
        pixels = [start]
        for row, column in pixels:
            for near in np.ndindex(3, 3):
                place = (row + near[0] - 1, column + near[1] - 1)
                if place in left and ids[place] == ids[start]:
                    left.remove(place)
                    pixels.append(place)
        yield int(ids[start]), pixels


def maps() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    chess = np.indices((9, 12)).sum(0) % 2
    spiral = np.zeros((9, 9), int)
    spiral[0], spiral[:, -1], spiral[-1], spiral[2:, 0] = 1, 1, 1, 1
    spiral[2, :-2], spiral[2:7, 6], spiral[6, 2:7] = 1, 1, 1
    teeth = np.zeros((5, 16), int)
    teeth[:-1, ::2], teeth[-1] = 1, 1
    return {
        "noise of two": rng.integers(0, 2, (17, 23)),
        "noise of four": rng.integers(0, 4, (31, 18)),
        "noise of five with the highest": rng.integers(0, 5, (12, 40)) * 63 + 3,
        "runs of many blocks": np.kron(rng.integers(0, 3, (6, 5)), np.ones((3, 21), int)),
        "corners alone": chess,
        "a spiral": spiral,
        "a comb, joined last": teeth,
        "a comb, joined first": teeth[::-1],
        "a pixel": np.zeros((1, 1), int),
        "a row": rng.integers(0, 2, (1, 30)),
        "a column": rng.integers(0, 2, (30, 1)),
    }


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", maps())
def test_regions_are_those_of_a_flood_fill(name: str, dtype: type[np.generic]) -> None:
    ids = np.ascontiguousarray(maps()[name], dtype)
    told = _native.connect(ids)
    rows = []
    for class_id, pixels in flooded(ids):
        ys, xs = np.array(pixels).T
        box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        rows.append([class_id, len(pixels), *box, xs.sum(), ys.sum()])
    np.testing.assert_array_equal(told, rows)
    assert told.dtype == np.int64


def test_what_is_told_outlives_the_next_call() -> None:
    ids = np.eye(5, dtype=np.uint8)
    first = _native.connect(ids)
    kept = first.copy()
    for _ in range(20):
        _native.connect(1 - ids)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros((2, 2), np.int64), "ids has dtype int64, but uint8 or"),
        (np.zeros((2, 4), np.uint8)[:, ::2], "ids is not C-contiguous"),
        (np.zeros((0, 2), np.uint8), "every dimension must be between 1"),
    ],
)
def test_what_does_not_fit_is_named(ids: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.connect(ids)
    with pytest.raises(ValueError, match=message):
        _native.outline(ids, np.ones(3, np.uint8), 1)
