"""Shapes with volume, drawn face by face: boxes and extruded outlines, lit by where they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.scenes.canvas import Canvas, Colour

Outline = Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Frame:
    """Puts local coordinates (across, up, along) on the street.

    s, z: where the local origin lies; turn: quarter turns, 0 along +z, 1 along +s, 2 along -z,
    3 along -s.
    """

    s: float
    z: float
    turn: int = 0

    def place(self, across: float, up: float, along: float) -> tuple[float, float, float]:
        """Return street coordinates of a local point."""
        if self.turn == 0:
            return self.s + across, up, self.z + along
        if self.turn == 1:
            return self.s + along, up, self.z - across
        if self.turn == 2:
            return self.s - across, up, self.z - along
        return self.s - along, up, self.z + across

    def moved(self, across: float, along: float) -> Frame:
        """Return a frame of the same turn with its origin at a local point."""
        s, _, z = self.place(across, 0.0, along)
        return Frame(s, z, self.turn)


@dataclass(frozen=True, eq=False)
class Mesh:
    """Faces of a solid in local coordinates.

    corners: float64 [F, P, 3], (across, up, along), shorter outlines repeat their last corner;
    normals: float64 [F, 3], outward unit vectors; kinds: index of the colour of each face;
    ranks: int64 [F], faces of lower rank are drawn first, whatever their depth.
    """

    corners: NDArray[np.float64]
    normals: NDArray[np.float64]
    kinds: NDArray[np.int64]
    ranks: NDArray[np.int64]


def mesh_from_faces(
    faces: Sequence[tuple[Outline, int]],
    centre: tuple[float, float, float],
    ranks: Sequence[int] | None = None,
) -> Mesh:
    """Return the mesh of outlines with colour indices; normals point away from `centre`.

    ranks: drawing rank of each colour index; None: all alike.
    """
    longest = max(len(outline) for outline, _ in faces)
    corners = np.array(
        [[*outline, *[outline[-1]] * (longest - len(outline))] for outline, _ in faces], np.float64
    )
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    away = ((corners[:, 0] - np.array(centre)) * normals).sum(axis=1)
    normals *= np.where(away < 0, -1.0, 1.0)[:, None]
    kinds = np.array([kind for _, kind in faces], np.int64)
    return Mesh(corners, normals, kinds, np.array(ranks)[kinds] if ranks else np.zeros_like(kinds))


def draw_mesh(
    canvas: Canvas, frame: Frame, mesh: Mesh, colours: Sequence[Colour], label: int
) -> None:
    """Draw the faces that look at the camera, far ones first; colours: one for each kind."""
    origin, axes = canvas.axes(frame.s, frame.z, frame.turn)
    seen = mesh.corners @ axes + origin
    normals = mesh.normals @ axes
    facing = np.flatnonzero(np.einsum("ij,ij->i", seen[:, 0], normals) < 0)
    if not len(facing):
        return
    seen, normals = seen[facing], normals[facing]
    depth = seen[..., 2].mean(axis=1)
    order = np.argsort(1000 * mesh.ranks[facing] - depth, kind="stable")
    tones = _lit(canvas, normals)
    air = np.exp(-np.maximum(depth, 0) / canvas.light.haze_m)[:, None]
    paint = np.array(colours)[mesh.kinds[facing]]
    inks = np.minimum(paint * tones[:, None], 255) * air + (1 - air) * np.array(canvas.light.haze)
    canvas.faces(seen, order.tolist(), inks.tolist(), label)


def _lit(canvas: Canvas, normals: NDArray[np.float64]) -> NDArray[np.float64]:
    light = canvas.light
    x, y, z = normals.T
    total = np.abs(x) + np.abs(y) + np.abs(z)
    side = np.where(x > 0, light.right, light.left)
    top = np.where(y > 0, light.top, 0.4)
    result: NDArray[np.float64] = (
        np.abs(x) * side + np.abs(y) * top + np.abs(z) * light.front
    ) / total
    return result


@lru_cache(maxsize=1)
def _unit_box() -> Mesh:
    """A box 1 wide, 1 tall, 1 long: centred across, from 0 upwards and onwards."""
    a, b = -0.5, 0.5
    faces: list[tuple[Outline, int]] = [
        (((a, 0, 0), (b, 0, 0), (b, 1, 0), (a, 1, 0)), 0),
        (((a, 0, 1), (b, 0, 1), (b, 1, 1), (a, 1, 1)), 0),
        (((a, 0, 0), (a, 0, 1), (a, 1, 1), (a, 1, 0)), 0),
        (((b, 0, 0), (b, 0, 1), (b, 1, 1), (b, 1, 0)), 0),
        (((a, 1, 0), (b, 1, 0), (b, 1, 1), (a, 1, 1)), 0),
    ]
    return mesh_from_faces(faces, (0.0, 0.5, 0.5))


def draw_box(
    canvas: Canvas,
    frame: Frame,
    size: tuple[float, float, float],
    base: float,
    colour: Colour,
    label: int,
) -> None:
    """Draw a box `size` = (across, up, along), centred across, standing on height `base`."""
    draw_boxes(canvas, frame, [(0.0, base, 0.0, *size)], colour, label)


def draw_boxes(
    canvas: Canvas,
    frame: Frame,
    boxes: Sequence[tuple[float, float, float, float, float, float]],
    colour: Colour,
    label: int,
) -> None:
    """Draw boxes (across, up, along of the foot's near middle, then their size) of one colour."""
    unit = _unit_box()
    table = np.array(boxes, np.float64)
    corners = unit.corners[None] * table[:, None, None, 3:] + table[:, None, None, :3]
    normals = np.tile(unit.normals, (len(boxes), 1))
    plain = np.zeros(len(normals), np.int64)
    mesh = Mesh(corners.reshape(-1, 4, 3), normals, plain, plain)
    draw_mesh(canvas, frame, mesh, (colour,), label)
