"""Shapes with volume, drawn face by face: boxes and extruded outlines, lit by where they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dedos_deploy.scenes.canvas import SMOOTH_FACES_M, Canvas, Colour

Outline = Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Frame:
    """Puts local coordinates (across, up, along) on the street."""

    s: float
    """Where the local origin lies, across the street."""
    z: float
    """Where the local origin lies, along the street."""
    turn: int = 0
    """Quarter turns: 0 along +z, 1 along +s, 2 along -z, 3 along -s."""

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
    """Faces of a solid in local coordinates."""

    corners: NDArray[np.float64]
    """float64 [F, P, 3], (across, up, along); shorter outlines repeat their last corner."""
    normals: NDArray[np.float64]
    """float64 [F, 3], outward unit vectors."""
    offsets: NDArray[np.float64]
    """float64 [F], of the faces' planes along their normals."""
    kinds: NDArray[np.int64]
    """Index of the colour of each face."""
    layers: NDArray[np.float64]
    """float64 [F], steps of 1000 metres: faces of a lower layer are drawn first, whatever their depth."""


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
    offsets = (corners[:, 0] * normals).sum(axis=1)
    layers = 1000.0 * np.array(ranks if ranks is not None else [0] * (int(kinds.max()) + 1))
    return Mesh(corners, normals, offsets, kinds, layers[kinds])


def draw_mesh(
    canvas: Canvas, frame: Frame, mesh: Mesh, colours: Sequence[Colour], label: int
) -> None:
    """Draw the faces that look at the camera, far ones first; colours: one for each kind."""
    origin, axes = canvas.axes(frame.s, frame.z, frame.turn)
    facing = np.flatnonzero(mesh.normals @ (axes @ -origin) > mesh.offsets)
    if not len(facing):
        return
    count, corners = len(facing), mesh.corners.shape[1]
    seen = (mesh.corners[facing].reshape(-1, 3) @ axes + origin).reshape(count, corners, 3)
    depth = seen[..., 2].sum(axis=1) * (1 / corners)
    order = (mesh.layers[facing] - depth).argsort(kind="stable")
    tones = _lit(canvas, mesh.normals[facing] @ axes)
    clear = np.exp(np.maximum(depth, 0) * (-1 / canvas.light.haze_m))[:, None]
    paint = np.array(colours)[mesh.kinds[facing]]
    haze = np.array(canvas.light.haze)
    inks = (np.minimum(paint * tones[:, None], 255) - haze) * clear + haze
    canvas.faces(seen, order.tolist(), inks.tolist(), label)


def _lit(canvas: Canvas, normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the brightness of faces by their normals in view coordinates, [F]."""
    light = canvas.light
    towards = np.concatenate([np.maximum(normals, 0), np.maximum(-normals, 0)], axis=1)
    sides = np.array([light.right, light.top, light.front, light.left, 0.4, light.front])
    result: NDArray[np.float64] = (towards @ sides) / towards.sum(axis=1)
    return result


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
    """Draw boxes (across, up, along of the foot's near middle, then their size) of one colour.

    A camera outside a box sees at most three of its faces, and which is told by its place in the
    box's own coordinates: far less work than a mesh of five.
    """
    (x0, y0, z0), cos, sin = canvas.stance(frame.s, frame.z, frame.turn)
    eye = (z0 * sin - x0 * cos, -y0, -x0 * sin - z0 * cos)
    tones = _box_tones(canvas, cos, sin)
    faces = []
    for across, up, along, wide, tall, long in boxes:
        low = (across - wide / 2, up, along)
        high = (across + wide / 2, up + tall, along + long)
        for axis, tall_first, corners in _BOX_FACES:
            if eye[axis] > high[axis] if tall_first else eye[axis] < low[axis]:
                ends = (low, high)
                seen = []
                for i, j, k in corners:
                    a, y, b = ends[i][0], ends[j][1], ends[k][2]
                    seen.append((x0 + a * cos + b * sin, y0 + y, z0 - a * sin + b * cos))
                depth = (seen[0][2] + seen[1][2] + seen[2][2] + seen[3][2]) / 4
                faces.append((-depth, seen, tones[axis, tall_first]))
    faces.sort()
    for depth, seen, tone in faces:
        edges = cv2.LINE_AA if -depth < SMOOTH_FACES_M else cv2.LINE_8
        canvas.face(seen, canvas.colour_at(colour, -depth, tone), label, edges)


# axis of the normal, whether it points up that axis, and the corners as low (0) or high (1) ends
_BOX_FACES = (
    (0, False, ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0))),
    (0, True, ((1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0))),
    (1, True, ((0, 1, 0), (1, 1, 0), (1, 1, 1), (0, 1, 1))),
    (2, False, ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0))),
    (2, True, ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))),
)


def _box_tones(canvas: Canvas, cos: float, sin: float) -> dict[tuple[int, bool], float]:
    """Return the brightness of a box's faces by axis and whether they look up that axis."""
    light = canvas.light
    total = abs(cos) + abs(sin)
    aside, ahead = abs(cos) / total, abs(sin) / total
    right, left = (light.right, light.left) if cos > 0 else (light.left, light.right)
    far, near = (light.right, light.left) if sin > 0 else (light.left, light.right)
    return {
        (0, True): aside * right + ahead * light.front,
        (0, False): aside * left + ahead * light.front,
        (1, True): light.top,
        (2, True): ahead * far + aside * light.front,
        (2, False): ahead * near + aside * light.front,
    }
