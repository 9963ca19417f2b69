"""Where a robot can go: free rows above the bottom of a picture, and free cells of the ground before it.

The ground is a plane, and what is not ground stands on it: behind the first pixel of a ray that is not
ground nothing is known. World axes as in robotics (REP 103): x ahead, y to the left, z up, in metres from
the point of the ground under the camera; camera axes as in OpenCV: x to the right, y down, z ahead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.runtime.arguments import as_finite, as_whole

FREE, OCCUPIED, UNKNOWN = 0, 100, -1
"""Values of cells, those of ROS's nav_msgs/OccupancyGrid."""

MOST_CELLS = 2**22

_Reals = NDArray[np.floating[Any]]

MOST_SAMPLES = 2**24
"""Rays times rows that are looked at: a 4K picture of a camera that looks ahead has some 10 million."""

NEAREST = 0.25
"""Ground nearer to the camera's foot than this part of its height is not looked at: rays fan out there."""


def _set_floats(record: GroundCamera | GroundGrid) -> bool:
    """Make floats of all numbers, NumPy's among them; return whether all are finite ones."""
    values = {field.name: as_finite(getattr(record, field.name)) for field in fields(record)}
    if None in values.values():
        return False
    for name, value in values.items():
        object.__setattr__(record, name, value)
    return True


@dataclass(frozen=True)
class GroundCamera:
    """A camera above flat ground, its picture rectified (no lens distortion) and level (no roll).

    Raises BadInputError for numbers that no such camera has.
    """

    fx: float
    """Focal length across, pixels."""

    fy: float
    """Focal length down, pixels."""

    cx: float
    """Column of the optical axis, pixels; the centre of the left column is 0."""

    cy: float
    """Row of the optical axis, pixels."""

    height_m: float
    """Of the camera above the ground."""

    pitch_rad: float
    """How far it looks down: 0 to the horizon, pi/2 straight to the ground."""

    def __post_init__(self) -> None:
        if not _set_floats(self) or min(self.fx, self.fy, self.height_m) <= 0:
            raise BadInputError(
                f"a ground camera has finite numbers, and fx, fy and height_m above 0, not {self}"
            )
        if not -math.pi / 2 < self.pitch_rad < math.pi / 2:
            raise BadInputError(
                f"pitch_rad is between -pi/2 and pi/2, in radians, not {self.pitch_rad}"
            )

    @classmethod
    def from_matrix(cls, matrix: ArrayLike, *, height_m: float, pitch_rad: float) -> GroundCamera:
        """Return the one with a camera matrix [3, 3], as of OpenCV or `K` of ROS's CameraInfo."""
        try:
            k = np.asarray(matrix)
        except ValueError:  # rows of several lengths
            k = np.empty(0, object)
        if k.size != 9 or k.dtype.kind not in "iuf":
            found = list(k.shape) if k.dtype.kind in "iuf" else shown(matrix)
            raise BadInputError(f"a camera matrix has 3x3 numbers, not {found}")
        k = k.reshape(3, 3).astype(float)
        if k[0, 1] or k[1, 0] or k[2].tolist() != [0, 0, 1]:
            raise BadInputError(
                f"a camera matrix is [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], not {k.tolist()}"
            )
        return cls(
            float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]), height_m, pitch_rad
        )


@dataclass(frozen=True)
class GroundGrid:
    """Cells of the ground from the camera's foot ahead, as many to the left as to the right.

    Raises BadInputError for a grid without cells, or with millions of them.
    """

    ahead_m: float = 8.0
    """How far it reaches ahead."""

    aside_m: float = 4.0
    """How far it reaches to either side."""

    cell_m: float = 0.05
    """Side of a cell."""

    def __post_init__(self) -> None:
        if not _set_floats(self) or min(self.ahead_m, self.aside_m, self.cell_m) <= 0:
            raise BadInputError(f"a ground grid has metres above 0, not {self}")
        across, ahead = 2 * (self.aside_m / self.cell_m), self.ahead_m / self.cell_m
        if max(across, ahead) > MOST_CELLS or self.shape[0] * self.shape[1] > MOST_CELLS:
            raise BadInputError(
                f"{self} has {across:.9g}x{ahead:.9g} cells, at most {MOST_CELLS} are allowed; make "
                "its cells larger"
            )
        if 0 in self.shape:
            raise BadInputError(f"no cell of {self} fits into it; make its cells smaller")

    @property
    def shape(self) -> tuple[int, int]:
        """Cells from right to left (y), and ahead (x)."""
        return 2 * round(self.aside_m / self.cell_m), round(self.ahead_m / self.cell_m)

    @property
    def origin_xy_m(self) -> tuple[float, float]:
        """The corner of cell [0, 0] that is nearest to the camera's foot in x and rightmost in y."""
        return 0.0, -self.cell_m * self.shape[0] / 2


@dataclass(frozen=True, eq=False)
class OccupancyGrid:
    """What is known of the ground, in the layout of ROS's nav_msgs/OccupancyGrid."""

    cells: NDArray[np.int8]
    """int8 [Y, X]: FREE, OCCUPIED or UNKNOWN. Cell [i, j] covers x from `j * cell_m` on and y from
    `origin_xy_m[1] + i * cell_m` on."""

    cell_m: float
    """Side of a cell, in metres."""

    origin_xy_m: tuple[float, float]
    """Corner of cell [0, 0], in metres from the camera's foot."""


def obstacle_rows(free: NDArray[np.bool_], below: int) -> NDArray[np.int64]:
    """Return, int64 [W], the lowest row of each column that is not free, counted from `below` on.

    free: bool [H, W]; below: first row that counts, such as the horizon's; `below - 1` where all
    from there down is free. Raises BadInputError for a row outside of the picture.
    """
    height = free.shape[0]
    top = as_whole(below)
    if top is None or not 0 <= top < height:
        raise BadInputError(
            f"below is a row of the picture, 0 to {height - 1}, not {shown(below)}; give a whole number"
        )
    # Rows of a transposed copy are contiguous, and the search ends at the first that blocks.
    blocked = np.ascontiguousarray(~free[top:][::-1].T)
    first = blocked.argmax(axis=1)
    rows: NDArray[np.int64] = height - 1 - first
    rows[(first == 0) & ~blocked[:, 0]] = top - 1
    return rows


def occupancy(kinds: NDArray[np.uint8], camera: GroundCamera, grid: GroundGrid) -> OccupancyGrid:
    """Return which cells of the ground are free.

    kinds: uint8 [H, W], FREE where a pixel shows ground, OCCUPIED where something else, any other
    value where that is not known. A cell is FREE when its centre is in the picture and every pixel of
    the ray from the camera's foot to it is; OCCUPIED where the first other pixel of a ray stands on
    it, if that is known to be something; else UNKNOWN, as is all nearer than `NEAREST`.

    Raises BadInputError when no ground of the grid can be in the picture, and for what is no camera
    or no grid.
    """
    if not isinstance(camera, GroundCamera) or not isinstance(grid, GroundGrid):
        raise BadInputError(
            "the ground is projected by a GroundCamera, as of GroundCamera.from_matrix, into a "
            f"GroundGrid, not by {shown(camera)} into {shown(grid)}"
        )
    view = _view(camera, grid, (kinds.shape[0], kinds.shape[1]))
    seen = np.append(kinds.reshape(-1), np.uint8(FREE)).take(view.pixels)
    blocked = seen != FREE
    first = blocked.argmax(axis=1)
    rays = np.arange(len(first))
    stopped = blocked[rays, first]
    limit = np.where(stopped, view.nearer_m[first], np.inf)
    cells = np.where(view.centre_m < limit[view.ray], np.int8(FREE), np.int8(UNKNOWN))
    cells[~view.visible] = UNKNOWN
    stands = stopped & (seen[rays, first] == OCCUPIED)
    ahead = view.rows_m[first[stands]]
    _mark(cells, grid, ahead, ahead * view.tangents[stands])
    return OccupancyGrid(cells, grid.cell_m, grid.origin_xy_m)


def _mark(cells: NDArray[np.int8], grid: GroundGrid, x_m: _Reals, y_m: _Reals) -> None:
    across = np.floor((y_m - grid.origin_xy_m[1]) / grid.cell_m).astype(int)
    ahead = np.floor(x_m / grid.cell_m).astype(int)
    inside = (across >= 0) & (across < cells.shape[0]) & (ahead >= 0) & (ahead < cells.shape[1])
    cells[across[inside], ahead[inside]] = OCCUPIED


@dataclass(frozen=True, eq=False)
class _View:
    """Rays from the camera's foot over the ground, as they lie in the picture.

    Without roll, a row of the picture is a line of the ground across, `rows_m` ahead.
    """

    tangents: _Reals
    """[rays] of the angle to the left."""

    rows_m: _Reals
    """[rows] metres ahead that a row's centre shows, from the lowest row up."""

    nearer_m: _Reals
    """[rows] metres ahead at the row's lower border."""

    pixels: NDArray[np.int32]
    """[rays, rows] index in the flat picture; one past its end outside of it."""

    ray: NDArray[np.intp]
    """[Y, X] ray of every cell's centre."""

    centre_m: _Reals
    """[1, X] metres ahead of the cells' centres."""

    visible: NDArray[np.bool_]
    """[Y, X] whether a cell's centre is in the picture."""


@lru_cache(maxsize=4)
def _view(camera: GroundCamera, grid: GroundGrid, frame_hw: tuple[int, int]) -> _View:
    height, width = frame_hw
    far = grid.ahead_m + grid.cell_m
    rows = np.arange(height - 1, -1, -1)
    rows_m = _metres(camera, rows.astype(float))
    within = (rows_m >= NEAREST * camera.height_m) & (rows_m <= far)
    rows, rows_m = rows[within], rows_m[within]
    if not len(rows):
        raise BadInputError(
            f"{camera} sees no ground within {grid.ahead_m} m in a picture {width} pixels wide and "
            f"{height} high; check its pitch and height, or use a grid that reaches further"
        )
    depth = _depth(camera, rows_m)
    # Neighbouring rays are at most a pixel apart in every row.
    step = (depth / rows_m).min() / camera.fx
    sides = [(camera.cx - column) / camera.fx * (depth / rows_m).max() for column in (0, width - 1)]
    rays = math.ceil((sides[0] - sides[1]) / step) + 1
    if rays * len(rows) > MOST_SAMPLES:
        raise BadInputError(
            f"{camera} takes {rays} rays through {len(rows)} rows of a picture {width} pixels wide, "
            f"{MOST_SAMPLES} places in all are allowed; use a smaller picture, or check its numbers"
        )
    tangents = np.linspace(sides[0], sides[1], rays)
    columns = camera.cx - camera.fx * tangents[:, None] * rows_m / depth
    columns = np.rint(columns).astype(int)
    inside = (columns >= 0) & (columns < width)
    pixels = np.where(inside, rows * width + columns, height * width).astype(np.int32)
    x_m = (np.arange(grid.shape[1]) + 0.5)[None] * grid.cell_m
    y_m = grid.origin_xy_m[1] + (np.arange(grid.shape[0]) + 0.5)[:, None] * grid.cell_m
    ray = np.rint((sides[0] - y_m / x_m) / (sides[0] - sides[1]) * (rays - 1)) if rays > 1 else 0
    return _View(
        tangents,
        rows_m,
        _metres(camera, rows + 0.5),
        pixels,
        np.clip(np.broadcast_to(ray, grid.shape), 0, rays - 1).astype(np.intp),
        x_m,
        _visible(camera, x_m, y_m, frame_hw),
    )


def _metres(camera: GroundCamera, rows: _Reals) -> _Reals:
    """Return how far ahead the ground is that rows show; infinite at the horizon and above."""
    slope = (rows - camera.cy) / camera.fy
    sine, cosine = math.sin(camera.pitch_rad), math.cos(camera.pitch_rad)
    down = slope * cosine + sine
    with np.errstate(divide="ignore"):
        return np.where(down > 0, camera.height_m * (cosine - slope * sine) / down, np.inf)


def _depth(camera: GroundCamera, x_m: _Reals) -> _Reals:
    """Return the distance along the optical axis of ground so far ahead, in metres."""
    return x_m * math.cos(camera.pitch_rad) + camera.height_m * math.sin(camera.pitch_rad)


def _visible(
    camera: GroundCamera,
    x_m: _Reals,
    y_m: _Reals,
    frame_hw: tuple[int, int],
) -> NDArray[np.bool_]:
    sine, cosine = math.sin(camera.pitch_rad), math.cos(camera.pitch_rad)
    depth = _depth(camera, x_m)
    with np.errstate(divide="ignore", invalid="ignore"):
        row = camera.cy + camera.fy * (camera.height_m * cosine - x_m * sine) / depth
        column = camera.cx - camera.fx * y_m / depth
    height, width = frame_hw
    seen: NDArray[Any] = (depth > 0) & (row > -0.5) & (row < height - 0.5)
    seen &= x_m >= NEAREST * camera.height_m
    return seen & (column > -0.5) & (column < width - 0.5)
