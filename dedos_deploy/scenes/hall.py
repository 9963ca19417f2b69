"""Hall scenes: corridors, offices and lobbies, as seen by a robot or a person inside."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.scenes import hall_things, nature, texture
from dedos_deploy.scenes.actors import Actor, paint_actors
from dedos_deploy.scenes.canvas import Canvas, Colour, Light
from dedos_deploy.scenes.solids import Frame

CLASSES = (
    "floor", "wall", "ceiling", "door", "window", "table", "chair", "sofa", "plant", "cabinet",
    "picture", "lamp", "person", "trash can", "fire extinguisher", "clock", "rug", "pillar",
    "stairs", "railing", "elevator", "vending machine",
)  # fmt: skip
ID = {name: index for index, name in enumerate(CLASSES)}
_BACK_M = -4.0  # the wall behind the camera
_Array = NDArray[np.float32]


@dataclass(frozen=True)
class Room:
    """A straight hall along z and its surfaces.

    half_width, height, length in metres; floor, joint, wall, low_wall, ceiling, skirting: colours;
    low_top: height of the lower wall's paint (0: none); tile: (across, along) size of floor tiles;
    panel: side of ceiling panels (0: plain); lamps: half size (across, along) and spacing of
    ceiling lights; gloss: share of mirrored light on the floor; wear: strength of stains.
    """

    half_width: float
    height: float
    length: float
    floor: Colour
    joint: Colour
    wall: Colour
    low_wall: Colour
    low_top: float
    ceiling: Colour
    skirting: Colour
    tile: tuple[float, float]
    panel: float
    lamps: tuple[float, float, float]
    gloss: float
    wear: float
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

    def paint(self, canvas: Canvas, time_s: float) -> None:
        """Paint the empty room, then what stands in it."""
        _paint_room(canvas, self.room)
        paint_actors(canvas, self.actors, time_s, far_m=60.0, soft_px=9)


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
        mirrored, _ = _look(room, -camera.height, (right, -up[first:], ahead), (camera.s, camera.z))
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
    flat = np.broadcast_to(level < wall, shape)
    above = np.broadcast_to(up > 0, shape)
    labels = np.where(flat, np.where(above, ID["ceiling"], ID["floor"]), ID["wall"]).astype(
        np.uint8
    )
    along = np.where(np.broadcast_to(side < end, shape), z, s)
    colour = np.empty((*shape, 3), np.float32)
    glow = 0.86 + 0.14 * np.cos((2 * math.pi / room.lamps[2]) * z) + 0.05 * y / room.height
    corner = np.where(flat, room.half_width - np.abs(s), np.minimum(np.abs(y), room.height - y))
    glow -= 0.22 * np.exp(-np.abs(corner) * 5)
    for name, mask, paint in (
        ("floor", flat & ~above, _floor_colour), ("ceiling", flat & above, _ceiling_colour),
    ):  # fmt: skip
        if mask.any():
            bright, lamp = paint(room, s[mask], z[mask], reach[mask])
            colour[mask] = bright * glow[mask][:, None]
            if name == "ceiling":
                where = np.flatnonzero(mask)[lamp]
                labels.ravel()[where] = ID["lamp"]
                colour.reshape(-1, 3)[where] = (250, 253, 255)
    mask = ~flat
    colour[mask] = _wall_colour(room, along[mask], y[mask], side.repeat(shape[0], 0)[mask] < 0
                                if side.shape != shape else side[mask] < 0) * glow[mask][:, None]  # fmt: skip
    return colour, labels


def _floor_colour(
    room: Room, s: _Array, z: _Array, reach: _Array
) -> tuple[_Array, NDArray[np.bool_]]:
    across, along = room.tile
    column, row = np.floor(s / across), np.floor(z / along)
    shift = texture.sample(texture.noise(1), row * 17 + 5, column * 31 + 9)
    stain = texture.sample(texture.noise(64), z * 9, s * 9 + 50)
    tone = 1 + room.wear * (0.05 * shift + 0.09 * stain)
    tone -= room.checker * ((column + row) % 2)
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
        joint = ((s % room.panel) < width) | ((z % room.panel) < width)
        colour[joint & (reach < 14)] *= 0.88
    half_s, half_z, gap = room.lamps
    rows = 2 if room.half_width > 2.6 else 1
    offset = np.abs(s) - (room.half_width * 0.5 if rows == 2 else 0.0)
    lamp = (np.abs(offset) < half_s) & (np.abs((z + gap / 2) % gap - gap / 2) < half_z)
    return colour, lamp


def _wall_colour(room: Room, along: _Array, y: _Array, _: NDArray[np.bool_]) -> _Array:
    colour = np.repeat(np.array([room.wall], np.float32), len(y), 0)
    if room.low_top:
        colour[y < room.low_top] = room.low_wall
    colour[y < 0.12] = room.skirting
    stain = texture.sample(texture.noise(64), y * 11, along * 8)
    return colour * (1 + 0.06 * room.wear * stain)[:, None]


def plan_hall(seed: int, length: float) -> HallScene:
    """Return a hall scene from its seed; `length` bounds how deep it is."""
    rng = random.Random(seed)
    room = _plan_room(rng, length)
    actors: list[Actor] = []
    for side in (-1, 1):
        _line_wall(actors, rng, room, side)
    _fill_floor(actors, rng, room)
    _end_wall(actors, rng, room)
    tone = rng.uniform(0.85, 1.05)
    sun = rng.uniform(-0.15, 0.15)
    light = Light(tone - sun, tone + sun, rng.uniform(0.7, 1.0), 1.05, room.wall, 400.0,
                  rng.uniform(0.6, 0.85), rng.uniform(-0.15, 0.15), rng.uniform(-0.1, 0.1))  # fmt: skip
    return HallScene(room, light, tuple(actors))


def _plan_room(rng: random.Random, length: float) -> Room:
    kind = rng.choice(("corridor", "corridor", "hall", "lobby"))
    half = {"corridor": rng.uniform(1.1, 1.9), "hall": rng.uniform(2.2, 3.6),
            "lobby": rng.uniform(3.5, 6.5)}[kind]  # fmt: skip
    deep = length if length > 160 else {"corridor": rng.uniform(14, 40), "hall": rng.uniform(12, 26),
                                        "lobby": rng.uniform(14, 26)}[kind]  # fmt: skip
    light = rng.uniform(175, 238)
    wall = (light - rng.uniform(0, 40), light - rng.uniform(0, 12), light)
    if rng.random() < 0.2:
        wall = rng.choice(((200, 180, 150), (170, 205, 180), (165, 195, 225), (140, 150, 150)))
    floor = rng.choice((
        (150, 160, 165), (185, 192, 195), (120, 125, 128), (95, 125, 160), (70, 100, 145),
        (150, 175, 195), (105, 110, 100), (110, 85, 70), (80, 75, 110),
    ))  # fmt: skip
    wood = floor[2] > floor[0] + 50
    tile = (
        rng.choice(((0.12, 1.2), (0.16, 1.8)))
        if wood
        else rng.choice(((0.3, 0.3), (0.6, 0.6), (0.8, 0.8)))
    )
    dark = rng.uniform(0.45, 0.85)
    joint = (floor[0] * dark, floor[1] * dark, floor[2] * dark)
    low = (wall[0] * 0.6, wall[1] * rng.uniform(0.6, 0.85), wall[2] * 0.7)
    high = 2.6 if kind == "corridor" else rng.uniform(2.8, 4.2)
    top = rng.uniform(200, 245)
    lamp = rng.choice(((0.3, 0.3), (0.15, 0.6), (0.6, 0.15), (0.08, 0.9), (0.14, 0.14)))
    return Room(
        half, high, deep, floor, joint, wall, low, rng.choice((0.0, 0.0, 1.0, 1.3)),
        (top, top, top), rng.choice(((70, 75, 80), (200, 205, 208), (50, 70, 100))), tile,
        rng.choice((0.0, 0.6, 0.6, 1.2)), (*lamp, rng.uniform(2.0, 4.2)),
        rng.choice((0.0, 0.12, 0.25, 0.4)), rng.uniform(0.3, 1.2),
        rng.uniform(0.15, 0.4) if not wood and rng.random() < 0.2 else 0.0,
    )  # fmt: skip


def _line_wall(actors: list[Actor], rng: random.Random, room: Room, side: int) -> None:
    """Doors, windows, pictures and furniture along one wall, without overlaps."""
    glazed = rng.random() < 0.35
    weights = {"door": 5.0, "window": 9.0 if glazed else 1.2, "picture": 3.0, "cabinet": 2.2,
               "extinguisher": 1.6, "plant": 1.8, "chairs": 2.2, "bin": 1.4, "clock": 0.9,
               "table": 1.3, "sofa": 1.2 if room.half_width > 1.6 else 0.0, "elevator": 0.8,
               "vending": 0.8, "radiator": 0.0, "gap": 2.0}  # fmt: skip
    names, shares = list(weights), list(weights.values())
    z = rng.uniform(0.2, 2.5)
    while z < room.length - 1.5:
        name = rng.choices(names, shares)[0]
        if name == "radiator" or name == "gap":
            z += rng.uniform(0.5, 2.0)
            continue
        z += _wall_item(actors, rng, room, side, z, name) + rng.uniform(0.15, 1.6)


def _wall_item(
    actors: list[Actor], rng: random.Random, room: Room, side: int, z: float, name: str
) -> float:
    """Add one item that starts at z; returns the length of wall it takes."""
    s, seed = side * room.half_width, rng.randrange(1 << 30)
    if name in ("door", "window", "picture", "elevator", "clock", "extinguisher"):
        long = {"door": rng.choice((0.95, 0.95, 1.8)), "window": rng.uniform(1.0, 2.4),
                "picture": rng.uniform(0.4, 1.3), "elevator": 1.3, "clock": 0.4,
                "extinguisher": 0.3}[name]  # fmt: skip
        actors.append(Actor(partial(_on_wall, s=s, seed=seed, what=name, long=long), s, z, long, 1))
        return long
    if name == "chairs":
        count, turn = rng.randint(1, 4), 3 if side > 0 else 1
        for k in range(count):
            paint = partial(_chair, s=s - side * 0.35, seed=seed, turn=turn)
            actors.append(
                Actor(paint, s - side * 0.35, z + 0.3 + 0.6 * k, half_width=0.25, height=0.3)
            )
        return 0.6 * count
    deep, long, tall = {
        "cabinet": (rng.uniform(0.35, 0.5), rng.uniform(0.8, 2.0), rng.uniform(0.8, 2.0)),
        "table": (rng.uniform(0.6, 0.9), rng.uniform(1.0, 1.8), 0.74),
        "sofa": (0.85, rng.uniform(1.4, 2.2), 0.8), "vending": (0.8, 1.0, 1.85),
        "plant": (0.5, 0.6, 1.3), "bin": (0.45, 0.5, 0.8),
    }[name]  # fmt: skip
    middle = s - side * (deep / 2 + 0.03)
    paint = partial(_standing, s=middle, seed=seed, what=name, size=(deep, tall, long), side=side)
    if name in ("plant", "bin"):
        actors.append(Actor(paint, middle, z + long / 2, half_width=deep / 2, height=0.3))
    else:
        actors.append(Actor(paint, middle, z, long, 2, half_width=deep / 2 + 0.1, height=0.2))
    return long


def _fill_floor(actors: list[Actor], rng: random.Random, room: Room) -> None:
    free = room.half_width - 0.9
    for z in np.arange(rng.uniform(2.0, 5.0), room.length - 2, rng.uniform(2.5, 6.0)).tolist():
        name = rng.choices(("person", "table set", "pillar", "rug", "plant", "chair", "bin", "rails", "stairs"),
                           (5, 3, 2, 1.5, 0.8, 1.2, 0.5, 1.0, 0.6))[0]  # fmt: skip
        wide = room.half_width > 2.0
        if name not in ("person", "rug") and not wide:
            continue
        s = rng.uniform(-free, free)
        seed = rng.randrange(1 << 30)
        if name == "table set":
            _table_set(actors, rng, s, z, seed)
        elif name in ("rails", "stairs", "pillar"):
            s = math.copysign(max(0.9, abs(s)), s)
            long = {"rails": rng.uniform(2, 5), "stairs": 2.4, "pillar": 0.6}[name]
            paint = partial(_structure, s=s, seed=seed, what=name, long=long, top=room.height)
            actors.append(Actor(paint, s, z, long if name != "pillar" else 0.0, 2 if name != "pillar" else 3,
                                half_width=0.3, height=0.2))  # fmt: skip
        elif name == "rug":
            actors.append(Actor(partial(_rug, s=s * 0.4, seed=seed), s * 0.4, z, 3.0, 0))
        elif name == "person":
            person = partial(_person, s=s, seed=seed)
            actors.append(
                Actor(person, s, z, speed=rng.choice((0, 0.6, -0.8)), half_width=0.22, height=0.5)
            )
        elif name == "chair":
            paint = partial(_chair, s=s, seed=seed, turn=seed % 4)
            actors.append(Actor(paint, s, z, half_width=0.25, height=0.3))
        else:
            paint = partial(_standing, s=s, seed=seed, what=name, size=(0.5, 1.0, 0.5), side=1)
            actors.append(Actor(paint, s, z, half_width=0.25, height=0.3))


def _table_set(actors: list[Actor], rng: random.Random, s: float, z: float, seed: int) -> None:
    """A table with chairs before, beside and behind it."""
    long = rng.uniform(0.9, 1.6)
    table = partial(_standing, s=s, seed=seed, what="table", size=(0.9, 0.74, long), side=1)
    actors.append(Actor(table, s, z, half_width=0.5, height=0.2))
    for ds, dz, turn in (
        (0.0, -0.45, 0),
        (0.0, long + 0.45, 2),
        (-0.8, long / 2, 1),
        (0.8, long / 2, 3),
    ):
        if rng.random() < 0.7:
            chair = partial(_chair, s=s + ds, seed=seed, turn=turn)
            actors.append(Actor(chair, s + ds, z + dz, half_width=0.25, height=0.3))


def _end_wall(actors: list[Actor], rng: random.Random, room: Room) -> None:
    what = rng.choice(("door", "window", "elevator", "picture", "door"))
    s = rng.uniform(-0.4, 0.4) * room.half_width
    paint = partial(_on_end_wall, s=s, seed=rng.randrange(1 << 30), what=what)
    actors.append(Actor(paint, s, room.length, 0.1, 1))


def _on_wall(
    canvas: Canvas, z: float, _: float, *, s: float, seed: int, what: str, long: float
) -> None:
    side = 1 if s > 0 else -1
    panel = hall_things.Panel(s - side * 0.02, z, 0.0, 1.0, long, inward=-side)
    hall_things.draw_on_wall(canvas, panel, what, seed, ID[_WALL_NAMES[what]])


def _on_end_wall(canvas: Canvas, z: float, _: float, *, s: float, seed: int, what: str) -> None:
    panel = hall_things.Panel(s, z - 0.03, 1.0, 0.0, 1.7, inward=0)
    hall_things.draw_on_wall(canvas, panel, what, seed, ID[_WALL_NAMES[what]])


_WALL_NAMES = {"door": "door", "window": "window", "picture": "picture", "elevator": "elevator",
               "clock": "clock", "extinguisher": "fire extinguisher"}  # fmt: skip


def _standing(
    canvas: Canvas, z: float, _: float, *, s: float, seed: int, what: str,
    size: tuple[float, float, float], side: int,
) -> None:  # fmt: skip
    frame = Frame(s, z)
    if what == "cabinet":
        hall_things.draw_cabinet(canvas, frame, size, seed, ID["cabinet"], side)
    elif what == "table":
        hall_things.draw_table(canvas, frame, size, seed, ID["table"])
    elif what == "sofa":
        hall_things.draw_sofa(canvas, frame, size, seed, ID["sofa"], side)
    elif what == "vending":
        hall_things.draw_vending_machine(canvas, frame, size, seed, ID["vending machine"], side)
    elif what == "plant":
        nature.draw_plant(canvas, s, z, seed, ID["plant"])
    else:
        hall_things.draw_bin(canvas, s, z, seed, ID["trash can"])


def _structure(
    canvas: Canvas, z: float, _: float, *, s: float, seed: int, what: str, long: float, top: float
) -> None:
    if what == "pillar":
        hall_things.draw_pillar(canvas, s, z, seed, ID["pillar"], top)
    elif what == "stairs":
        hall_things.draw_stairs(canvas, s, z, seed, ID["stairs"])
    else:
        hall_things.draw_railing(canvas, s, z, seed, ID["railing"], long)


def _chair(canvas: Canvas, z: float, _: float, *, s: float, seed: int, turn: int) -> None:
    hall_things.draw_chair(canvas, Frame(s, z, turn), seed, ID["chair"])


def _rug(canvas: Canvas, z: float, _: float, *, s: float, seed: int) -> None:
    hall_things.draw_rug(canvas, s, z, seed, ID["rug"])


def _person(canvas: Canvas, z: float, time_s: float, *, s: float, seed: int) -> None:
    nature.draw_person(canvas, s, z, seed, ID["person"], "walk", phase=5.0 * time_s)
