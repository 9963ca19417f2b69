"""Scores of a window blended natively, against numpy in float64, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy import _native

Array = NDArray[Any]
NAMES = ("scores", "rows", "columns", "down", "across", "blended")


def reference(scores: Array, rows: Array, columns: Array, down: Array, across: Array) -> Array:
    """Return what is added, float64 [K, h', w']."""

    def taken(values: Array, at: Array, axis: int) -> Array:
        below = np.floor(at).astype(int)
        above = np.minimum(below + 1, values.shape[axis] - 1)
        part = (at - below).reshape([-1 if i == axis else 1 for i in range(3)])
        return np.asarray(values.take(below, axis) * (1 - part) + values.take(above, axis) * part)

    return taken(taken(scores.astype(float), rows, 1), columns, 2) * np.outer(
        down.astype(float), across.astype(float)
    )


def case(slots: int, cells: tuple[int, int], blended: tuple[int, int]) -> tuple[Array, ...]:
    """Return scores, coordinates in any order, weights of which some are 0, and what was there before."""
    rng = np.random.default_rng(slots)
    axes: list[Array] = []
    for length, count in zip(cells, blended, strict=True):
        coordinates = rng.random(count) * (length - 1)
        coordinates[::3] = np.round(coordinates[::3])
        weights = rng.random(count).astype(np.float32)
        weights[: count // 4] = 0.0
        weights[count - count // 5 :] = 0.0
        axes += [coordinates, weights]
    scores = rng.random((slots, *cells), np.float32)
    before = rng.random((slots, *blended), np.float32)
    return scores, axes[0], axes[2], axes[1], axes[3], before


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("slots", "cells", "blended"),
    [(1, (1, 1), (1, 1)), (3, (7, 5), (19, 23)), (5, (18, 24), (9, 40)), (2, (4, 33), (31, 17))],
)
def test_what_is_added_is_bilinear_times_the_weights(
    slots: int, cells: tuple[int, int], blended: tuple[int, int], threads: int
) -> None:
    *given, before = case(slots, cells, blended)
    total = before.copy()
    _native.blend_window(*given, total, threads)
    np.testing.assert_allclose(total, before + reference(*given), atol=3e-7)
    outside = np.outer(given[3], given[4]) == 0.0
    np.testing.assert_array_equal(total[:, outside], before[:, outside])


def test_scores_that_are_no_numbers_stay_for_the_label_map_to_refuse() -> None:
    scores, rows, columns, down, across, before = case(2, (6, 6), (12, 12))
    scores[1, 2:4, 2:4] = np.nan
    rows[:], columns[:] = 2.5, 2.5
    _native.blend_window(scores, rows, columns, down, across, before, 1)
    assert np.array_equal(np.isnan(before[1]), np.outer(down, across) > 0)
    assert np.isfinite(before[0]).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scores", np.zeros((5, 6)), "scores has dtype float64, but float32"),
        ("rows", np.zeros(12, np.float32), "rows has dtype float32, but float64"),
        ("rows", np.full(12, 5.01), r"rows has 5\.01.* at 0, but the scores go from 0 to 5"),
        (
            "columns",
            np.full(12, -0.01),
            r"columns has -0\.01.* at 0, but the scores go from 0 to 5",
        ),
        ("columns", np.full(12, np.nan), "columns has nan at 0, but"),
        ("down", np.zeros(11, np.float32), r"down has shape \[11\], but rows needs 12"),
        ("across", np.full(12, np.inf, np.float32), "across must be finite, but are not at 0"),
        (
            "blended",
            np.zeros((2, 12, 11), np.float32),
            "blended has shape .*, but columns needs 12",
        ),
        ("blended", np.zeros((3, 12, 12), np.float32), "blended has shape .*, but scores needs 2"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Array, message: str) -> None:
    given = dict(zip(NAMES, case(2, (6, 6), (12, 12)), strict=True)) | {name: value}
    with pytest.raises(ValueError, match=message):
        _native.blend_window(*given.values(), 1)
