"""The native scores of single pixels against a numpy oracle that enlarges every slot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_label_map import SIZES, enlarge, smooth_scores

from dedos_deploy import _native


@pytest.mark.parametrize(("cells", "size_hw"), SIZES)
def test_scores_are_those_of_the_enlarged_map(
    cells: tuple[int, int], size_hw: tuple[int, int]
) -> None:
    scores = smooth_scores(7, cells, seed=3)
    pixels = np.argwhere(np.ones(size_hw, bool)).astype(np.int32, order="C")
    found = np.full((len(pixels), 7), np.nan, np.float32)
    _native.pixel_scores(scores, pixels, *size_hw, found)
    np.testing.assert_array_equal(found.T.reshape(7, *size_hw), enlarge(scores, size_hw))


def arguments() -> dict[str, Any]:
    return {
        "scores": np.zeros((3, 4, 6), np.float32),
        "pixels": np.zeros((2, 2), np.int32),
        "height": 17,
        "width": 23,
        "out": np.ones((2, 3), np.float32),
    }


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"pixels": np.array([[0, 0], [17, 0]], np.int32)},
            IndexError,
            "1 is row 17, column 0, but",
        ),
        ({"pixels": np.array([[0, 23], [0, 0]], np.int32)}, IndexError, "17 rows of 23"),
        ({"pixels": np.array([[0, 0], [0, -1]], np.int32)}, IndexError, "column -1"),
        ({"pixels": np.zeros((2, 2), np.int64)}, ValueError, "pixels has dtype int64"),
        ({"pixels": np.zeros((2, 3), np.int32)}, ValueError, "row and column needs 2 on axis 1"),
        ({"scores": np.zeros((3, 4, 6), np.float16)}, ValueError, "scores has dtype float16"),
        ({"scores": np.zeros((2, 4, 6), np.float32)}, ValueError, "scores needs 2 on axis 1"),
        ({"out": np.ones((1, 3), np.float32)}, ValueError, "pixels needs 2 on axis 0"),
        ({"height": 0}, ValueError, "height is 0, but a frame has 1 to 16777216"),
        ({"width": 2**24 + 1}, ValueError, "width is 16777217"),
        ({"width": 2.5}, TypeError, "width must be a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {**arguments(), **changes}
    with pytest.raises(error, match=message):
        _native.pixel_scores(**given)
    np.testing.assert_array_equal(given["out"], 1)
