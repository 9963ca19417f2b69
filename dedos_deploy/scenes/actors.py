"""Actors: what stands or moves in a scene, in the order it is painted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dedos_deploy.scenes.canvas import Canvas, Point

Paint = Callable[[Canvas, float, float], None]


@dataclass(frozen=True)
class Actor:
    """One thing of a scene.

    paint: draws it on a canvas at position z and time t (seconds); s, z: where it stands at t=0;
    length: its extent along z, in metres; layer: lower layers are painted first (0 backdrop,
    1 buildings, 2 barriers, 3 the rest); speed: metres per second along z;
    half_width, height: of its ground shadow, 0 for none.
    """

    paint: Paint
    s: float
    z: float
    length: float = 0.0
    layer: int = 3
    speed: float = 0.0
    half_width: float = 0.0
    height: float = 0.0

    def at(self, time_s: float) -> float:
        """Return z at a time."""
        return self.z + self.speed * time_s


def paint_actors(
    canvas: Canvas, actors: Iterable[Actor], time_s: float, *, far_m: float, soft_px: int = 5
) -> None:
    """Paint shadows, then every actor between the camera and `far_m`, far ones first."""
    here = canvas.camera.z
    seen = [
        (actor, actor.at(time_s))
        for actor in actors
        if -actor.length - 3 < actor.at(time_s) - here < far_m
    ]
    canvas.shade_ground(
        [_shadow(canvas, actor, z) for actor, z in seen if actor.half_width], soft_px
    )
    seen.sort(key=lambda item: (item[0].layer, -_far_edge(*item)))
    for actor, z in seen:
        actor.paint(canvas, z, time_s)


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
        return [(left, 0, front), (right, 0, front), (right + ds, 0, front + dz),
                (right + ds, 0, back + dz), (left + ds, 0, back + dz), (left, 0, back)]  # fmt: skip
    return [(right, 0, front), (right, 0, back), (right + ds, 0, back + dz),
            (left + ds, 0, back + dz), (left + ds, 0, front + dz), (left, 0, front)]  # fmt: skip
