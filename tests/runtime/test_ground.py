"""Free rows and free ground against hand-computed cases and a ray caster in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import GroundCamera, GroundGrid
from dedos_deploy.runtime.ground import FREE, OCCUPIED, UNKNOWN, obstacle_rows, occupancy

CAMERA = GroundCamera(300.0, 310.0, 159.5, 119.5, height_m=0.5, pitch_rad=0.3)
GRID = GroundGrid(ahead_m=4.0, aside_m=2.0, cell_m=0.1)
FRAME_HW = (240, 320)
NOT_KNOWN = UNKNOWN & 0xFF


def test_the_lowest_row_that_is_not_free() -> None:
    free = np.array([[0, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0]], bool)
    assert obstacle_rows(free, 0).tolist() == [2, -1, 0, 3]
    assert obstacle_rows(free, 1).tolist() == [2, 0, 0, 3]
    assert obstacle_rows(free, 3).tolist() == [2, 2, 2, 3]


@pytest.mark.parametrize("below", [-1, 4])
def test_the_horizon_is_a_row(below: int) -> None:
    with pytest.raises(BadInputError, match=f"below is a row of the picture, 0 to 3, not {below}"):
        obstacle_rows(np.ones((4, 2), bool), below)


@pytest.mark.parametrize("below", [1.0, np.float32(1), float("nan"), True, "1", None, [0, 1]])
def test_the_horizon_is_a_whole_number(below: Any) -> None:
    with pytest.raises(BadInputError, match="below is a row of the picture.*; give a whole number"):
        obstacle_rows(np.ones((4, 2), bool), below)


def test_rows_may_be_numpy_s() -> None:
    """`below - 1` of an unsigned 0 would be 255."""
    assert obstacle_rows(np.ones((4, 2), bool), np.uint8(0)).tolist() == [-1, -1]
    assert obstacle_rows(np.ones((4, 2), bool), np.int64(3)).tolist() == [2, 2]


def pixel(x_m: Any, y_m: Any, z_m: float = 0.0) -> tuple[Any, Any]:
    """Column and row of a point, by rotation matrices."""
    sine, cosine = math.sin(CAMERA.pitch_rad), math.cos(CAMERA.pitch_rad)
    ahead, left, up = x_m, y_m, z_m - CAMERA.height_m
    across, down, depth = -left, -sine * ahead - cosine * up, cosine * ahead - sine * up
    return CAMERA.cx + CAMERA.fx * across / depth, CAMERA.cy + CAMERA.fy * down / depth


def frame_with(*boxes: tuple[float, float, float, float, float], kind: int) -> NDArray[np.uint8]:
    """Free ground, and walls (x, y from, y to, z to) of a kind that stand on it; sky is not free."""
    kinds = np.full(FRAME_HW, OCCUPIED, np.uint8)
    _, horizon = pixel(1e9, 0.0)
    kinds[math.ceil(horizon) :] = FREE
    for x_m, right, left, bottom, top in boxes:
        columns = [pixel(x_m, side)[0] for side in (left, right)]
        rows = [pixel(x_m, right, level)[1] for level in (top, bottom)]
        kinds[
            max(0, round(rows[0])) : round(rows[1]) + 1,
            max(0, round(columns[0])) : round(columns[1]) + 1,
        ] = kind
    return kinds


def at(cells: NDArray[np.int8], x_m: float, y_m: float) -> int:
    row = math.floor((y_m - GRID.origin_xy_m[1]) / GRID.cell_m)
    return int(cells[row, math.floor(x_m / GRID.cell_m)])


def test_open_ground_is_free_where_the_camera_sees_it() -> None:
    cells = occupancy(frame_with(kind=OCCUPIED), CAMERA, GRID).cells
    assert cells.shape == GRID.shape == (40, 40)
    assert cells.dtype == np.int8
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            x_m = (column + 0.5) * GRID.cell_m
            y_m = GRID.origin_xy_m[1] + (row + 0.5) * GRID.cell_m
            u, v = pixel(x_m, y_m)
            seen = -0.5 < u < FRAME_HW[1] - 0.5 and v < FRAME_HW[0] - 0.5
            assert cells[row, column] == (FREE if seen else UNKNOWN), (x_m, y_m)


def test_behind_something_nothing_is_known() -> None:
    cells = occupancy(frame_with((2.05, -0.5, 0.4, 0.0, 0.8), kind=OCCUPIED), CAMERA, GRID).cells
    assert at(cells, 2.05, 0.0) == OCCUPIED
    assert at(cells, 2.05, 0.35) == OCCUPIED  # the left part, on the left
    assert at(cells, 1.75, 0.0) == FREE
    assert at(cells, 2.75, 0.0) == at(cells, 3.95, 0.6) == UNKNOWN
    assert at(cells, 2.05, 0.75) == at(cells, 2.55, -0.95) == FREE  # beside it


def test_what_has_no_class_hides_the_ground_and_is_no_obstacle() -> None:
    kinds = frame_with((2.05, -0.5, 0.4, 0.0, 0.8), kind=NOT_KNOWN)
    cells = occupancy(kinds, CAMERA, GRID).cells
    assert OCCUPIED not in cells[5:35, :35]
    assert at(cells, 2.75, 0.0) == UNKNOWN
    assert at(cells, 1.75, 0.0) == FREE


@pytest.mark.parametrize("x_m", [0.9, 1.6, 3.1])
def test_a_pole_one_pixel_wide_is_never_missed(x_m: float) -> None:
    for column in range(40, 280, 7):
        kinds = frame_with(kind=OCCUPIED)
        _, foot = pixel(x_m, 0.0)
        kinds[: round(foot) + 1, column] = OCCUPIED
        y_m = (
            (CAMERA.cx - column)
            / CAMERA.fx
            * (x_m * math.cos(CAMERA.pitch_rad) + CAMERA.height_m * math.sin(CAMERA.pitch_rad))
        )
        cells = occupancy(kinds, CAMERA, GRID).cells
        near = [at(cells, x_m + dx, y_m + dy) for dx in (-0.1, 0, 0.1) for dy in (-0.1, 0, 0.1)]
        assert OCCUPIED in near, column


def test_cells_agree_with_rays_cast_one_by_one() -> None:
    """Over random ground: free exactly where no pixel of the ray, a hundred samples a cell, blocks."""
    rng = np.random.default_rng(3)
    kinds = frame_with(kind=OCCUPIED)
    for _ in range(12):
        row, column = rng.integers(90, 235), rng.integers(0, 315)
        kinds[row : row + 4, column : column + 5] = rng.choice([OCCUPIED, NOT_KNOWN])
    cells = occupancy(kinds, CAMERA, GRID).cells
    differ = 0
    for row in range(0, cells.shape[0], 2):
        for column in range(3, cells.shape[1], 2):
            x_m = (column + 0.5) * GRID.cell_m
            y_m = GRID.origin_xy_m[1] + (row + 0.5) * GRID.cell_m
            free = open_ray(kinds, x_m, y_m)
            differ += free is not None and free != (cells[row, column] == FREE)
    # Borders of pixels may fall to either side, and a cell that is free may hold another ray's end.
    assert differ <= 0.03 * cells.size / 4


def open_ray(kinds: NDArray[np.uint8], x_m: float, y_m: float) -> bool | None:
    if not all(
        -0.5 < at < size - 0.5 for at, size in zip(pixel(x_m, y_m), (320, 240), strict=True)
    ):
        return None
    parts = np.linspace(0.02, 1.0, 4000)
    u, v = (np.rint(at).astype(int) for at in pixel(parts * x_m, parts * y_m))
    inside = (u >= 0) & (u < 320) & (v >= 0) & (v < 240)
    return bool((kinds[v[inside], u[inside]] == FREE).all())


def test_a_camera_that_sees_no_ground_is_refused() -> None:
    up = GroundCamera(300.0, 300.0, 159.5, 119.5, height_m=0.5, pitch_rad=-1.0)
    with pytest.raises(BadInputError, match="sees no ground within 4.0 m in a picture 320 pixels"):
        occupancy(np.zeros(FRAME_HW, np.uint8), up, GRID)


def test_a_camera_whose_rays_fill_the_memory_is_refused() -> None:
    steep = GroundCamera(2000.0, 2000.0, 1919.5, 1079.5, height_m=0.5, pitch_rad=1.2)
    with pytest.raises(
        BadInputError, match="rays through .* rows of a picture 3840 pixels wide, 1677"
    ):
        occupancy(np.zeros((2160, 3840), np.uint8), steep, GRID)


def test_a_camera_matrix_is_read_as_ros_gives_it() -> None:
    matrix = [300.0, 0.0, 159.5, 0.0, 310.0, 119.5, 0.0, 0.0, 1.0]
    assert GroundCamera.from_matrix(matrix, height_m=0.5, pitch_rad=0.3) == CAMERA
    with pytest.raises(BadInputError, match="a camera matrix has 3x3 numbers, not"):
        GroundCamera.from_matrix(np.eye(4), height_m=1, pitch_rad=0)
    with pytest.raises(BadInputError, match=r"a camera matrix is \[\[fx, 0, cx\]"):
        GroundCamera.from_matrix(np.ones((3, 3)), height_m=1, pitch_rad=0)


@pytest.mark.parametrize(
    "matrix", [[[1, 2], [3]], "abc", None, np.eye(3) * 1j, np.eye(3, dtype=bool), [["1"] * 3] * 3]
)
def test_what_is_no_camera_matrix_is_said_in_a_sentence(matrix: Any) -> None:
    with pytest.raises(BadInputError, match="a camera matrix has 3x3 numbers, not") as caught:
        GroundCamera.from_matrix(matrix, height_m=1, pitch_rad=0)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_make_the_same_camera_and_grid() -> None:
    numbers = map(np.float32, (300.0, 310.0, 159.5, 119.5))
    camera = GroundCamera(*numbers, height_m=np.float64(0.5), pitch_rad=np.float64(0.3))
    assert repr(camera) == repr(CAMERA) and camera == CAMERA
    assert GroundGrid(np.int64(8), np.uint8(4)) == GroundGrid(8, 4) == GroundGrid()


@pytest.mark.parametrize(
    ("camera", "grid"), [([[300.0, 0, 160]], GRID), (None, GRID), (CAMERA, (4.0, 2.0, 0.1))]
)
def test_what_is_no_camera_or_grid_is_said_in_a_sentence(camera: Any, grid: Any) -> None:
    with pytest.raises(BadInputError, match=r"by a GroundCamera, as of .* into a GroundGrid, not"):
        occupancy(np.zeros(FRAME_HW, np.uint8), camera, grid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx": 0.0}, "fx, fy and height_m above 0"),
        ({"height_m": -1.0}, "fx, fy and height_m above 0"),
        ({"cx": float("nan")}, "finite numbers"),
        ({"pitch_rad": 17.0}, "in radians, not 17.0"),
        ({"fy": "600"}, "finite numbers.*fy='600'"),
        ({"cy": None}, "finite numbers.*cy=None"),
        ({"fx": np.array([600.0])}, "finite numbers"),
    ],
)
def test_no_such_camera(change: dict[str, Any], message: str) -> None:
    numbers: dict[str, Any] = dict(fx=1.0, fy=1.0, cx=0.0, cy=0.0, height_m=1.0, pitch_rad=0.0)
    with pytest.raises(BadInputError, match=message):
        GroundCamera(**{**numbers, **change})


def test_no_such_grid() -> None:
    with pytest.raises(BadInputError, match="a ground grid has metres above 0"):
        GroundGrid(ahead_m=0.0)
    with pytest.raises(
        BadInputError, match="cells, at most 4194304 are allowed; make its cells larger"
    ):
        GroundGrid(ahead_m=1000.0, aside_m=1000.0, cell_m=0.01)


@pytest.mark.parametrize(
    ("metres", "message"),
    [
        (("8", 4.0, 0.1), "a ground grid has metres above 0.*ahead_m='8'"),
        ((8.0, float("nan"), 0.1), "a ground grid has metres above 0"),
        ((8.0, 4.0, 10.0), "no cell of .* fits into it; make its cells smaller"),
        ((8.0, 0.01, 0.1), "no cell of .* fits into it; make its cells smaller"),
        ((8.0, 4.0, 5e-324), "has infxinf cells, at most .*; make its cells larger"),
        ((1e308, 4.0, 1e-9), "cells, at most 4194304 are allowed; make its cells larger"),
    ],
)
def test_a_grid_of_nonsense_is_said_with_the_right_advice(metres: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        GroundGrid(*metres)


def test_ground_under_the_camera_is_unknown_and_hides_nothing() -> None:
    """A camera that looks steeply down sees its own foot, around which rays fan out."""
    steep = GroundCamera(300.0, 310.0, 159.5, 119.5, height_m=2.0, pitch_rad=1.4)
    kinds = np.full(FRAME_HW, FREE, np.uint8)
    cells = occupancy(kinds, steep, GRID).cells
    assert (cells[15:25, :5] == UNKNOWN).all() and (cells[15:25, 5:10] == FREE).all()
    kinds[100:] = OCCUPIED  # nearer than half a metre
    assert np.array_equal(occupancy(kinds, steep, GRID).cells, cells)


def test_a_cell_is_free_up_to_the_near_border_of_the_pixel_that_blocks() -> None:
    fine = GroundGrid(ahead_m=4.0, aside_m=0.5, cell_m=0.01)
    row = 80  # some 2.9 m ahead
    kinds = frame_with(kind=OCCUPIED)
    kinds[row] = OCCUPIED
    cells = occupancy(kinds, CAMERA, fine).cells[fine.shape[0] // 2]
    free_to = (np.flatnonzero(cells == FREE)[-1] + 0.5) * fine.cell_m
    beyond = free_to + fine.cell_m
    assert pixel(beyond, 0.0)[1] <= row + 0.5 < pixel(free_to, 0.0)[1]


def test_the_origin_is_the_corner_of_the_first_cell() -> None:
    """Also where the side is no multiple of the cells, of which as many lie to the right."""
    grid = GroundGrid(ahead_m=4.0, aside_m=0.26, cell_m=0.1)
    assert grid.shape == (6, 40)
    assert grid.origin_xy_m == pytest.approx((0.0, -0.3))
