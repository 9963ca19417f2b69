"""Actors: what stands or moves in a scene, in the order it is painted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from dedos_deploy.scenes.canvas import Canvas, Point

_SHADOW_M = 50.0  # shadows farther away are thinner than a pixel


class Paint(Protocol):
    """Draws something on a canvas, at the canvas's time and position `z`, in metres."""

    def __call__(self, canvas: Canvas, *, z: float) -> None: ...


@dataclass(frozen=True)
class Actor:
    """One thing of a scene."""

    paint: Paint
    """Draws it."""
    s: float
    """Where it stands across the line at t=0."""
    z: float
    """Where it stands along the line at t=0."""
    length: float = 0.0
    """Extent along z, in metres."""
    layer: int = 3
    """Lower layers are painted first: 0 backdrop, 1 buildings, 2 barriers, 3 the rest."""
    speed: float = 0.0
    """Metres per second along z."""
    half_width: float = 0.0
    """Half width of its ground shadow, 0 for none."""
    height: float = 0.0
    """Height for its ground shadow, 0 for none."""
    far_m: float = 130.0
    """Beyond this distance it is too small to be painted."""
    reach: float = 3.0
    """How far it sticks out to both sides, in metres."""

    def at(self, time_s: float) -> float:
        """Return z at a time."""
        return self.z + self.speed * time_s


def paint_actors(canvas: Canvas, actors: Iterable[Actor], *, soft_px: int = 5) -> None:
    """Paint the shadows of what can be seen, then every such actor, far ones first."""
    seen = [(actor, actor.at(canvas.time_s)) for actor in actors]
    seen = [(actor, z) for actor, z in seen if _in_sight(canvas, actor, z)]
    shadows = [
        _shadow(canvas, actor, z)
        for actor, z in seen
        if actor.half_width and z < canvas.camera.z + _SHADOW_M
    ]
    canvas.shade_ground(shadows, soft_px)
    seen.sort(key=lambda item: (item[0].layer, -_far_edge(*item)))
    for actor, z in seen:
        actor.paint(canvas, z=z)


def _in_sight(canvas: Canvas, actor: Actor, z: float) -> bool:
    ahead = z - canvas.camera.z
    if not -actor.length - 3 < ahead < actor.far_m:
        return False
    half_view, reach = canvas.half_view, actor.reach
    x0, _, depth0 = canvas.view((actor.s, 0.0, z - 2))
    x1, _, depth1 = canvas.view((actor.s, 0.0, z + actor.length + 2))
    edge0, edge1 = max(depth0, 0.0) * half_view + reach, max(depth1, 0.0) * half_view + reach
    # outside when both ends lie beyond the same edge of the picture
    if (x0 > edge0 and x1 > edge1) or (-x0 > edge0 and -x1 > edge1):
        return False
    return depth0 > 0 or depth1 > 0


def _far_edge(actor: Actor, z: float) -> float:
    return z + actor.length if actor.layer < 3 else z


def _shadow(canvas: Canvas, actor: Actor, z: float) -> list[Point]:
    """Ground outline of the shadow: the footprint, stretched away from the sun."""
    light, half, s = canvas.light, actor.half_width, actor.s
    ds, dz = light.sun_s * actor.height, light.sun_z * actor.height
    front, back = z - half, z + max(half, actor.length)
    if actor.layer == 3:
        front, back = z - max(half * 0.6, actor.length / 2), z + max(half * 0.6, actor.length / 2)
    left, right = s - half, s + half
    if ds >= 0:
        return [
            (left, 0, front),
            (right, 0, front),
            (right + ds, 0, front + dz),
            (right + ds, 0, back + dz),
            (left + ds, 0, back + dz),
            (left, 0, back),
        ]
    return [
        (right, 0, front),
        (right, 0, back),
        (right + ds, 0, back + dz),
        (left + ds, 0, back + dz),
        (left + ds, 0, front + dz),
        (left, 0, front),
    ]
