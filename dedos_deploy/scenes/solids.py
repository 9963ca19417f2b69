"""Shapes with volume: boxes and extruded side profiles, each face lit by the way it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dedos_deploy.scenes.canvas import Canvas, Colour, Point


@dataclass(frozen=True)
class Face:
    """One flat outline and its colour; `shine` multiplies the light that falls on it."""

    points: tuple[Point, ...]
    colour: Colour
    shine: float = 1.0


@dataclass(frozen=True)
class Frame:
    """Puts local coordinates (across, up, along) on the street.

    s, z: where the local origin lies; turn: quarter turns, 0 along +z, 1 along +s, 2 along -z,
    3 along -s.
    """

    s: float
    z: float
    turn: int = 0

    def place(self, across: float, up: float, along: float) -> Point:
        """Return street coordinates of a local point."""
        if self.turn == 0:
            return self.s + across, up, self.z + along
        if self.turn == 1:
            return self.s + along, up, self.z - across
        if self.turn == 2:
            return self.s - across, up, self.z - along
        return self.s - along, up, self.z + across


def box_faces(frame: Frame, size: Point, base: float, colour: Colour) -> list[Face]:
    """Return the faces of a box `size` = (across, up, along), centred across, standing on `base`."""
    half, top, end = size[0] / 2, base + size[1], size[2]
    corners = {
        (i, j, k): frame.place((-half, half)[i], (base, top)[j], (0.0, end)[k])
        for i in (0, 1)
        for j in (0, 1)
        for k in (0, 1)
    }
    rings = [
        ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)),
        ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)),
        ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
        ((1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)),
        ((0, 1, 0), (1, 1, 0), (1, 1, 1), (0, 1, 1)),
        ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ]
    return [Face(tuple(corners[c] for c in ring), colour) for ring in rings]


def draw_solid(canvas: Canvas, faces: Sequence[Face], centre: Point, label: int) -> None:
    """Draw the faces of a roughly convex solid that look at the camera, far ones first."""
    inside = canvas.view(centre)
    visible: list[tuple[float, Face, float]] = []
    for face in faces:
        seen = [canvas.view(point) for point in face.points[:3]]
        normal = _cross(_minus(seen[1], seen[0]), _minus(seen[2], seen[0]))
        if _dot(normal, _minus(seen[0], inside)) < 0:
            normal = (-normal[0], -normal[1], -normal[2])
        if _dot(normal, seen[0]) < 0:  # the camera is the origin of view coordinates
            depth = sum(point[2] for point in seen)
            visible.append((depth, face, face.shine * _lit(canvas, normal)))
    for _, face, tone in sorted(visible, key=lambda item: -item[0]):
        canvas.polygon(face.points, face.colour, label, tone)


def draw_box(
    canvas: Canvas, frame: Frame, size: Point, base: float, colour: Colour, label: int
) -> None:
    """Draw a box `size` = (across, up, along), centred across, standing on height `base`."""
    faces = box_faces(frame, size, base, colour)
    draw_solid(canvas, faces, frame.place(0, base + size[1] / 2, size[2] / 2), label)


def _lit(canvas: Canvas, normal: Point) -> float:
    light = canvas.light
    x, y, z = normal
    total = abs(x) + abs(y) + abs(z) + 1e-9
    side = light.right if x > 0 else light.left
    top = light.top if y > 0 else 0.4
    return (abs(x) * side + abs(y) * top + abs(z) * light.front) / total


def _minus(a: Point, b: Point) -> Point:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _dot(a: Point, b: Point) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Point, b: Point) -> Point:
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )
