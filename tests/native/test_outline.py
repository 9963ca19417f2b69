"""The native outlines against OpenCV's contours of each region's mask, point by point."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy import _native

Points = NDArray[np.int32]


class Traced(NamedTuple):
    """A region's outlines."""

    class_id: int
    exterior: Points
    holes: list[Points]


def contours(ids: NDArray[Any], wanted: NDArray[np.uint8], min_area: int) -> list[Traced]:
    """Return OpenCV's, in the order of the regions' first pixels."""
    first_of: dict[int, Traced] = {}
    for class_id in np.flatnonzero(wanted).tolist():
        binary = (ids == class_id).astype(np.uint8)
        count, number, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
        for region in range(1, count):
            if stats[region, cv2.CC_STAT_AREA] < min_area:
                continue
            mask = (number == region).astype(np.uint8)
            found, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
            lines = [contour.reshape(-1, 2) for contour in found]
            exterior = lines.pop(int(np.flatnonzero(tree[0, :, 3] < 0)[0]))
            first_of[int(mask.argmax())] = Traced(class_id, exterior, lines)
    return [first_of[first] for first in sorted(first_of)]


def traced(ids: NDArray[Any], wanted: NDArray[np.uint8], min_area: int) -> list[Traced]:
    points, lines = _native.outline(ids, wanted, min_area)
    assert (points.dtype, lines.dtype) == (np.int32, np.int64)
    found: list[Traced] = []
    for class_id, is_hole, begin, end in lines.tolist():
        if is_hole:
            found[-1].holes.append(points[begin:end])
        else:
            found.append(Traced(class_id, points[begin:end], []))
    return found


def check(ids: NDArray[Any], wanted: NDArray[np.uint8], min_area: int) -> int:
    """Compare both; return how many holes there were."""
    expected, found = contours(ids, wanted, min_area), traced(ids, wanted, min_area)
    assert [region.class_id for region in found] == [region.class_id for region in expected]
    for ours, theirs in zip(found, expected, strict=True):
        pairs = zip([ours.exterior, *ours.holes], [theirs.exterior, *theirs.holes], strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(one, other)
    return sum(len(region.holes) for region in found)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_outlines_are_opencv_s_contours(dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(0)
    holes = 0
    for case in range(120):
        ids = rng.integers(0, rng.integers(1, 5), rng.integers(1, 30, 2)).astype(dtype)
        if case % 3 == 1:
            ids = cv2.medianBlur(ids, 3)
        elif case % 3 == 2:
            ids = np.kron(ids, np.ones(rng.integers(1, 4, 2), dtype))
        wanted = (rng.random(rng.integers(1, 6)) < 0.8).astype(np.uint8)
        holes += check(ids, wanted, int(rng.integers(1, 6)))
    assert holes > 100


def test_the_widest_id_and_the_frame_s_edges() -> None:
    ids = np.full((5, 70), 65535, np.uint16)
    ids[2, 1:-1] = 7
    wanted = np.ones(65536, np.uint8)
    assert check(ids, wanted, 1) == 1


@pytest.mark.parametrize(("wanted", "min_area"), [(np.zeros(9, np.uint8), 1), (np.ones(9), 100)])
def test_nothing_asked_for_is_nothing(wanted: NDArray[Any], min_area: int) -> None:
    points, lines = _native.outline(np.eye(9, dtype=np.uint8), wanted.astype(np.uint8), min_area)
    assert (points.shape, lines.shape) == ((0, 2), (0, 4))


def test_what_is_told_outlives_the_next_call() -> None:
    ids = np.eye(5, dtype=np.uint8)
    wanted = np.ones(2, np.uint8)
    first = _native.outline(ids, wanted, 1)
    kept = [array.copy() for array in first]
    for _ in range(20):
        _native.outline(1 - ids, wanted, 1)
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (np.ones(3, bool), "wanted has dtype"),
        (np.ones((1, 3), np.uint8), "1 dimensions are needed"),
    ],
)
def test_what_does_not_fit_is_named(wanted: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.outline(np.zeros((2, 2), np.uint8), wanted, 1)
