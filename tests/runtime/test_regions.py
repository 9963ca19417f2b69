"""Regions and polygons of label maps against OpenCV's components, over patterns and noise."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Polygon
from dedos_deploy.runtime.regions import polygons_of, regions_of

NAMES = ("a", "b", "c", "d")
IDS = (0, 1, 2, 3)


def noise(height: int, width: int, *, share: float = 1.0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height * width)
    rough = rng.integers(0, 4, (height, width)).astype(np.uint8)
    smooth = cv2.resize(rough[:3, :3], (width, height), interpolation=cv2.INTER_NEAREST)
    chosen = rng.random((height, width)) < share
    return np.where(chosen, rough, smooth)


def spiral(size: int) -> NDArray[np.uint8]:
    """A spiral one pixel wide, whose runs are joined only from its inside out."""
    label_map = np.zeros((size, size), np.uint8)
    low, high = 0, size - 1
    while low < high:
        label_map[low, low : high + 1] = label_map[low : high + 1, high] = 1
        label_map[high, low : high + 1] = 1
        label_map[low + 2 : high + 1, low] = 1
        label_map[low + 2, low : low + 2] = 1
        low, high = low + 2, high - 2
    return label_map


MAPS = {
    "one pixel": np.full((1, 1), 2, np.uint8),
    "one row": np.array([[0, 0, 1, 1, 0, 255, 255, 3]], np.uint8),
    "one column": np.array([[0, 0, 1, 1, 0, 255, 3]], np.uint8).T.copy(),
    "chequers": (np.indices((9, 12)).sum(0) % 2).astype(np.uint8),
    "spiral": spiral(33),
    "noise": noise(40, 57),
    "some noise": noise(61, 44, share=0.1),
    "wide": noise(30, 31).astype(np.uint16),
}


@pytest.mark.parametrize("name", MAPS)
def test_regions_are_opencv_s_components(name: str) -> None:
    label_map = MAPS[name]
    expected = []
    for class_id in IDS:
        mask = (label_map == class_id).astype(np.uint8)
        _, _, stats, centroids = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for (left, top, width, height, area), (x, y) in zip(stats[1:], centroids[1:], strict=True):
            box = (left, top, left + width, top + height)
            expected.append((class_id, area, box, (pytest.approx(x), pytest.approx(y))))
    found = regions_of(label_map, NAMES, IDS)
    seen = [(r.class_id, r.area, r.box_xyxy, r.centroid_xy) for r in found]
    assert sorted(seen) == sorted(expected, key=lambda row: row[:3])
    assert [region.area for region in found] == sorted((r.area for r in found), reverse=True)
    assert all(region.name == NAMES[region.class_id] for region in found)


def test_only_what_is_asked_for_and_large_enough_is_told() -> None:
    label_map = np.array([[0, 0, 0, 1], [2, 0, 1, 1], [2, 2, 3, 0]], np.uint8)
    told = [(r.name, r.area) for r in regions_of(label_map, NAMES, (0, 1), min_area=2)]
    assert told == [("a", 4), ("b", 3)]
    assert [
        (p.name, len(p.holes_xy)) for p in polygons_of(label_map, NAMES, (0, 1), min_area=2)
    ] == [
        ("a", 0),
        ("b", 0),
    ]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("min_area", [1, 2, 5])
def test_polygons_are_the_regions(name: str, min_area: int) -> None:
    """Exact outlines, filled, are the regions that are large enough, and there is one for each."""
    label_map = MAPS[name]
    polygons = polygons_of(label_map, NAMES, IDS, min_area=min_area)
    regions = regions_of(label_map, NAMES, IDS, min_area=min_area)
    assert sorted(filled(p, label_map.shape).sum() for p in polygons) == sorted(
        r.area for r in regions
    )
    for polygon in polygons:
        assert (label_map[filled(polygon, label_map.shape)] == polygon.class_id).all()


def filled(polygon: Polygon, size_hw: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(size_hw, np.uint8)
    cv2.fillPoly(mask, [polygon.exterior_xy], 1)
    for hole in polygon.holes_xy:
        inside = np.zeros(size_hw, np.uint8)
        cv2.fillPoly(inside, [hole], 1)
        cv2.polylines(inside, [hole], True, 0)
        mask[inside > 0] = 0
    return mask > 0


def test_a_tolerance_leaves_points_out_and_stays_within_it() -> None:
    label_map = cv2.circle(np.zeros((200, 300), np.uint8), (150, 100), 80, 1, -1)
    exact = polygons_of(label_map, NAMES, (1,))[0].exterior_xy
    rough = polygons_of(label_map, NAMES, (1,), tolerance=3)[0].exterior_xy
    assert len(rough) < len(exact) / 5
    closed = rough.reshape(-1, 1, 2).astype(np.float32)
    assert max(abs(cv2.pointPolygonTest(closed, (float(x), float(y)), True)) for x, y in exact) <= 3


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf"), "b", None, True])
def test_a_tolerance_is_a_distance(tolerance: Any) -> None:
    with pytest.raises(BadInputError, match="tolerance is 0 or more pixels, not"):
        polygons_of(MAPS["noise"], NAMES, IDS, tolerance=tolerance)


def test_a_tolerance_beyond_the_picture_leaves_little() -> None:
    outline = polygons_of(MAPS["spiral"], NAMES, (1,), tolerance=1e300)[0].exterior_xy
    assert len(outline) <= 2


@pytest.mark.parametrize("min_area", [0, float("nan"), "5", None])
def test_the_smallest_area_is_a_pixel(min_area: Any) -> None:
    for find in (regions_of, polygons_of):
        with pytest.raises(BadInputError, match=f"min_area is at least 1 pixel, not '?{min_area}"):
            find(MAPS["noise"], NAMES, IDS, min_area=min_area)


def test_polygons_have_memory_of_their_own() -> None:
    """One that is kept does not keep the others, and a change of one changes no other."""
    for polygon in polygons_of(MAPS["noise"], NAMES, IDS):
        assert polygon.exterior_xy.base is None
        assert all(hole.base is None for hole in polygon.holes_xy)


def test_no_classes_have_no_polygons() -> None:
    assert polygons_of(MAPS["noise"], NAMES, ()) == ()
