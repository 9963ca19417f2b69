"""The native majority against counting by numpy, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy import _native


def counted(ids: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[Any]:
    height, width = ids.shape
    rows, columns = size_hw
    return np.array(
        [
            [
                np.bincount(
                    ids[
                        i * height // rows : (i + 1) * height // rows,
                        j * width // columns : (j + 1) * width // columns,
                    ].reshape(-1)
                ).argmax()
                for j in range(columns)
            ]
            for i in range(rows)
        ],
        ids.dtype,
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 53), (7, 9), (18, 26), (37, 53), (36, 1)])
def test_each_cell_has_what_most_of_its_pixels_have(
    dtype: type[np.generic], size_hw: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    highest = np.iinfo(dtype).max
    # Few ids, so that many cells tie and many hold one id alone; the highest is for no class.
    ids = np.where(rng.random((37, 53)) < 0.5, 3, rng.integers(0, 4, (37, 53))).astype(dtype)
    ids[rng.random(ids.shape) < 0.2] = highest
    ids[5:20, 10:30] = highest
    smaller = np.empty(size_hw, dtype)
    _native.majority(ids, smaller)
    assert np.array_equal(smaller, counted(ids, size_hw))


def test_of_equally_frequent_ids_the_lowest_wins() -> None:
    smaller = np.empty((1, 2), np.uint8)
    _native.majority(np.array([[9, 2, 5, 5], [2, 9, 1, 1]], np.uint8), smaller)
    assert smaller.tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("ids", "out", "message"),
    [
        (
            np.zeros((2, 2), np.int64),
            np.zeros((1, 1), np.uint8),
            "ids has dtype int64, but uint8 or",
        ),
        (
            np.zeros((2, 2), np.uint8),
            np.zeros((1, 1), np.uint16),
            "out has dtype uint16, but uint8",
        ),
        (np.zeros((2, 4), np.uint8)[:, ::2], np.zeros((1, 1), np.uint8), "ids is not C-contiguous"),
        (np.zeros(4, np.uint8), np.zeros((1, 1), np.uint8), r"ids has shape \[4\], but 2 dim"),
        (
            np.zeros((2, 4), np.uint8),
            np.zeros((3, 1), np.uint8),
            r"out has shape \[3, 1\], but at most that of ids, \[2, 4\], is filled",
        ),
    ],
)
def test_what_does_not_fit_is_named(ids: NDArray[Any], out: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.majority(ids, out)


def test_a_map_is_not_shrunk_in_place() -> None:
    ids = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="out shares memory with ids"):
        _native.majority(ids, ids[:2])
