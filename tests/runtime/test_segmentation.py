"""What a result tells a planner: by the names of its own vocabulary, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import GroundCamera, GroundGrid, Segmentation
from dedos_deploy.runtime.ground import FREE, UNKNOWN

CAMERA = GroundCamera(4.0, 4.0, 1.5, 0.5, height_m=1.0, pitch_rad=0.5)
GRID = GroundGrid(4.0, 2.0, 0.5)


def result(dtype: type[np.generic] = np.uint8) -> Segmentation:
    """Ids 0 to 3 of which `ramp` is of an earlier list; the top left pixel is unlabelled."""
    none = int(np.iinfo(dtype).max)
    label_map = np.array([[none, 3, 3, 3], [0, 0, 3, 3], [0, 0, 2, 2], [0, 0, 0, 2]], dtype)
    counts = np.array([7, 0, 3, 5])
    return Segmentation(
        label_map=label_map,
        confidence=np.zeros((4, 4), np.uint8),
        classes=("floor", "ramp", "carpet", "wall"),
        class_ids=(0, 2, 3),
        counts=counts,
        none_id=none,
        vocabulary_version=2,
        timestamp_s=0.0,
        latency_ms={},
        colours_bgr=((1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)),
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_mask_is_of_one_class_or_several(dtype: type[np.generic]) -> None:
    frame = result(dtype)
    assert np.array_equal(frame.mask("floor"), frame.label_map == 0)
    both = (frame.label_map == 0) | (frame.label_map == 2)
    assert np.array_equal(frame.mask("floor | carpet"), both)
    assert np.array_equal(frame.mask(["floor", "carpet"]), both)


@pytest.mark.parametrize(
    "ask",
    [
        lambda frame, words: frame.ids(words),
        lambda frame, words: frame.mask(words),
        lambda frame, words: frame.regions(words),
        lambda frame, words: frame.polygons(1.0, words),
        lambda frame, words: frame.free_space(words),
        lambda frame, words: frame.project_ground(CAMERA, words, GRID),
    ],
)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("flor", "no class of this result is called 'flor', did you mean 'floor'"),
        ("floor|ramp", "no class of this result is called 'ramp'.*; it has floor, carpet, wall"),
        ("", "no class of this result is called ''"),
        ([], "no class of this result is called ''"),
        (5, "classes are asked for by name, as 'floor|road' or a sequence of names, not by 5"),
        ([0, 2], r"classes are asked for by name.*, not by \[0, 2\]"),
        (b"floor", "classes are asked for by name.*, not by b'floor'"),
    ],
)
def test_a_name_that_the_frame_was_not_asked_for_is_refused(
    ask: Callable[[Segmentation, Any], object], words: Any, message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        ask(result(), words)


def test_regions_and_polygons_are_of_the_current_classes() -> None:
    told = [(region.name, region.area) for region in result().regions()]
    assert told == [("floor", 7), ("wall", 5), ("carpet", 3)]
    assert [polygon.name for polygon in result().polygons()] == ["floor", "carpet", "wall"]
    assert [region.name for region in result().regions("carpet|wall", min_area=4)] == ["wall"]


def test_polygons_come_once_and_in_the_order_of_the_vocabulary() -> None:
    names = [polygon.name for polygon in result().polygons(words="wall|floor|wall")]
    assert names == ["floor", "wall"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda frame: frame.mask(None),
        lambda frame: frame.free_space(None),
        lambda frame: frame.project_ground(CAMERA, None, GRID),
    ],
)
def test_no_word_at_all_does_not_make_everything_free(ask: Callable[[Any], object]) -> None:
    with pytest.raises(BadInputError, match="classes are asked for by name.*, not by None"):
        ask(result())


def test_free_columns_end_at_what_is_not_named() -> None:
    assert result().free_space("floor").tolist() == [0, 0, 2, 3]
    assert result().free_space("floor|carpet", below=1).tolist() == [0, 0, 1, 1]


def test_the_ground_behind_unlabelled_pixels_is_unknown() -> None:
    frame = result()
    grid = frame.project_ground(CAMERA, "floor|carpet|wall", GRID)
    assert (grid.cells == FREE).any()
    unknown = np.count_nonzero(grid.cells == UNKNOWN)
    frame.label_map[:] = frame.none_id
    hidden = frame.project_ground(CAMERA, "floor|carpet|wall", GRID)
    assert np.count_nonzero(hidden.cells == UNKNOWN) == hidden.cells.size > unknown
    assert (grid.cell_m, grid.origin_xy_m) == (0.5, (0.0, -2.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_smaller_and_painted(dtype: type[np.generic]) -> None:
    frame = result(dtype)
    assert frame.resized((2, 2)).tolist() == [[0, 3], [0, 2]]
    assert frame.resized(np.array([2, 2])).tolist() == [[0, 3], [0, 2]]
    assert frame.resized((2, 2)).dtype == dtype
    picture = frame.painted()
    assert (picture.shape, picture.dtype) == ((4, 4, 3), np.uint8)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[2, 3].tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    "size_hw",
    [(5, 4), (0, 1), (2.0, 2.0), (np.float32(2), 2), (2,), (2, 2, 2), 2, "2x2", (True, 2)],
)
def test_a_label_map_is_only_made_smaller(size_hw: Any) -> None:
    with pytest.raises(BadInputError, match="a majority is of 1x1 to 4x4 cells here, not"):
        result().resized(size_hw)
