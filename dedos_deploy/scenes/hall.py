"""Hall scenes: corridors, offices and lobbies, as seen by a robot or a person inside."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dedos_deploy.scenes import texture
from dedos_deploy.scenes.actors import Actor, paint_actors
from dedos_deploy.scenes.canvas import Canvas, Colour, Light

CLASSES = tuple(
    (
        "floor, wall, ceiling, door, window, table, chair, sofa, plant, cabinet, picture, lamp, "
        "person, trash can, fire extinguisher, clock, rug, pillar, stairs, railing, elevator, "
        "vending machine"
    ).split(", ")
)
ID = {name: index for index, name in enumerate(CLASSES)}
_BACK_M = -4.0  # the wall behind the camera
_Array = NDArray[np.float32]


@dataclass(frozen=True)
class Room:
    """A straight hall along z, sizes in metres, and the colours of its surfaces."""

    half_width: float
    height: float
    length: float
    floor: Colour
    joint: Colour
    wall: Colour
    low_wall: Colour
    low_top: float
    """Height of the lower wall's paint; 0: none."""
    ceiling: Colour
    skirting: Colour
    tile: tuple[float, float]
    """Size of floor tiles, (across, along)."""
    panel: float
    """Side of ceiling panels; 0: plain."""
    lamps: tuple[float, float, float]
    """Half size (across, along) and spacing of ceiling lights."""
    gloss: float
    """Share of mirrored light on the floor."""
    wear: float
    """Strength of stains."""
    checker: float


@dataclass(frozen=True)
class HallScene:
    """A room with all that stands in it."""

    room: Room
    light: Light
    actors: tuple[Actor, ...]

    def roughness(self) -> NDArray[np.float32]:
        """Return the surface texture amplitude per class id, [256]."""
        table = np.full(256, 0.02, np.float32)
        table[ID["plant"]], table[ID["rug"]] = 0.2, 0.1
        return table

    def paint(self, canvas: Canvas) -> None:
        """Paint the empty room, then what stands in it."""
        _paint_room(canvas, self.room)
        paint_actors(canvas, self.actors, soft_px=9)


def _paint_room(canvas: Canvas, room: Room) -> None:
    """Follow the ray of every pixel to the floor, the ceiling or a wall."""
    camera = canvas.camera
    height, width = canvas.labels.shape
    aside = (np.arange(width, dtype=np.float32)[None] - width / 2) / camera.focal_px
    up = (camera.horizon_px - np.arange(height, dtype=np.float32)[:, None]) / camera.focal_px
    up = np.where(np.abs(up) < 1e-4, np.float32(1e-4), up)
    cos, sin = math.cos(camera.heading), math.sin(camera.heading)
    right, ahead = aside * cos + sin, cos - aside * sin
    right = np.where(np.abs(right) < 1e-4, np.float32(1e-4), right)
    ahead = np.where(np.abs(ahead) < 1e-4, np.float32(1e-4), ahead)
    colour, labels = _look(room, camera.height, (right, up, ahead), (camera.s, camera.z))
    on_floor = labels == ID["floor"]
    if room.gloss > 0.02 and on_floor.any():
        first = int(on_floor.any(axis=1).argmax())
        # a blurred mirror image is enough, and more like a worn floor
        ray = (right[:, ::2], -up[first::2], ahead[:, ::2])
        small, _ = _look(room, -camera.height, ray, (camera.s, camera.z))
        mirrored = cv2.resize(small, (width, height - first), interpolation=cv2.INTER_LINEAR)
        grazing = np.clip(1.3 - 1.4 * np.abs(up[first:]), 0.25, 1.0)
        share = (room.gloss * grazing * on_floor[first:])[..., None]
        colour[first:] += share * (mirrored - colour[first:] * 0.8)
    canvas.image[:] = np.clip(colour, 0, 255).astype(np.uint8)
    canvas.labels[:] = labels


def _look(
    room: Room, eye: float, ray: tuple[_Array, _Array, _Array], at: tuple[float, float]
) -> tuple[_Array, NDArray[np.uint8]]:
    """Return colour [h, W, 3] and labels [h, W] of what the rays (right, up, ahead) meet."""
    right, up, ahead = ray
    shape = np.broadcast_shapes(right.shape, up.shape)
    side = (np.where(right > 0, room.half_width, -room.half_width) - at[0]) / right
    end = (np.where(ahead > 0, room.length, _BACK_M) - at[1]) / ahead
    level = (np.where(up > 0, room.height, 0.0) - eye) / up
    level = np.where(level > 0, level, np.float32(1e6))
    wall = np.minimum(side, end)
    reach = np.minimum(wall, level).astype(np.float32)
    s, y, z = at[0] + reach * right, eye + reach * up, at[1] + reach * ahead
    flat, above = level < wall, np.broadcast_to(up > 0, shape)
    labels = np.full(shape, ID["wall"], np.uint8)
    glow = 0.86 + 0.14 * np.cos((2 * math.pi / room.lamps[2]) * z) + 0.05 * y / room.height
    corner = np.where(flat, room.half_width - np.abs(s), np.minimum(np.abs(y), room.height - y))
    glow -= 0.22 * np.exp(-np.abs(corner) * 5)
    colour = np.empty((shape[0] * shape[1], 3), np.float32)
    for name, mask, paint in (
        ("floor", flat & ~above, _floor_colour),
        ("ceiling", flat & above, _ceiling_colour),
    ):
        where = np.flatnonzero(mask)
        if len(where):
            bright, lamp = paint(room, s.take(where), z.take(where), reach.take(where))
            colour[where] = bright * glow.take(where)[:, None]
            labels.ravel()[where] = ID[name]
            if name == "ceiling":
                colour[where[lamp]] = (250, 253, 255)
                labels.ravel()[where[lamp]] = ID["lamp"]
    where = np.flatnonzero(~flat)
    along = np.where(side < end, z, s)
    bright = _wall_colour(room, along.take(where), y.take(where))
    colour[where] = bright * glow.take(where)[:, None]
    return colour.reshape(*shape, 3), labels


def _floor_colour(
    room: Room, s: _Array, z: _Array, reach: _Array
) -> tuple[_Array, NDArray[np.bool_]]:
    across, along = room.tile
    column, row = np.floor(s / across), np.floor(z / along)
    shift = texture.sample(texture.noise(1), row * 17 + 5, column * 31 + 9)
    stain = texture.sample(texture.noise(64), z * 9, s * 9 + 50)
    tone = 1 + np.float32(room.wear) * (np.float32(0.05) * shift + np.float32(0.09) * stain)
    if room.checker:
        tone -= np.float32(2 * room.checker) * texture.phase(0.5 * (column + row), 1.0)
    width = 0.008 + 0.0016 * reach
    joint = ((s - column * across) < width) | ((z - row * along) < width * 1.5)
    fade = np.exp(-reach / 12)
    colour = np.array(room.floor, np.float32) * tone[:, None]
    share = (joint * fade)[:, None]
    colour += share * (np.array(room.joint, np.float32) - colour)
    return colour, joint


def _ceiling_colour(
    room: Room, s: _Array, z: _Array, reach: _Array
) -> tuple[_Array, NDArray[np.bool_]]:
    colour = np.repeat(np.array([room.ceiling], np.float32), len(s), 0)
    if room.panel:
        width = 0.01 + 0.001 * reach
        joint = (texture.phase(s, room.panel) < width) | (texture.phase(z, room.panel) < width)
        colour[joint & (reach < 14)] *= 0.88
    half_s, half_z, gap = room.lamps
    rows = 2 if room.half_width > 2.6 else 1
    offset = np.abs(s) - (room.half_width * 0.5 if rows == 2 else 0.0)
    lamp = (np.abs(offset) < half_s) & (np.abs(texture.phase(z + gap / 2, gap) - gap / 2) < half_z)
    return colour, lamp


def _wall_colour(room: Room, along: _Array, y: _Array) -> _Array:
    colour = np.repeat(np.array([room.wall], np.float32), len(y), 0)
    if room.low_top:
        colour[y < room.low_top] = room.low_wall
    colour[y < 0.12] = room.skirting
    stain = texture.sample(texture.noise(64), y * 11, along * 8)
    return colour * (1 + 0.06 * room.wear * stain)[:, None]
