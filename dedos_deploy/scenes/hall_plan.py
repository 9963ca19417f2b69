"""Layouts of hall scenes: corridors, offices and lobbies."""

from __future__ import annotations

import math
import random
from functools import partial

import numpy as np

from dedos_deploy.scenes import hall_things, hall_walls, nature, street_things
from dedos_deploy.scenes.actors import Actor
from dedos_deploy.scenes.canvas import Canvas, Light
from dedos_deploy.scenes.hall import ID, HallScene, Room
from dedos_deploy.scenes.solids import Frame


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
    light = Light(
        tone - sun,
        tone + sun,
        rng.uniform(0.7, 1.0),
        1.05,
        room.wall,
        400.0,
        rng.uniform(0.6, 0.85),
        rng.uniform(-0.15, 0.15),
        rng.uniform(-0.1, 0.1),
    )
    return HallScene(room, light, tuple(actors))


def _plan_room(rng: random.Random, length: float) -> Room:
    kind = rng.choice(("corridor", "corridor", "hall", "lobby"))
    half = {
        "corridor": rng.uniform(1.1, 1.9),
        "hall": rng.uniform(2.2, 3.6),
        "lobby": rng.uniform(3.5, 6.5),
    }[kind]
    deep = (
        length
        if length > 160
        else {
            "corridor": rng.uniform(14, 40),
            "hall": rng.uniform(12, 26),
            "lobby": rng.uniform(14, 26),
        }[kind]
    )
    light = rng.uniform(175, 238)
    wall = (light - rng.uniform(0, 40), light - rng.uniform(0, 12), light)
    if rng.random() < 0.2:
        wall = rng.choice(((200, 180, 150), (170, 205, 180), (165, 195, 225), (140, 150, 150)))
    floor = rng.choice(
        (
            (150, 160, 165),
            (185, 192, 195),
            (120, 125, 128),
            (95, 125, 160),
            (70, 100, 145),
            (150, 175, 195),
            (105, 110, 100),
            (110, 85, 70),
            (80, 75, 110),
        )
    )
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
        half,
        high,
        deep,
        floor,
        joint,
        wall,
        low,
        rng.choice((0.0, 0.0, 1.0, 1.3)),
        (top, top, top),
        rng.choice(((70, 75, 80), (200, 205, 208), (50, 70, 100))),
        tile,
        rng.choice((0.0, 0.6, 0.6, 1.2)),
        (*lamp, rng.uniform(2.0, 4.2)),
        rng.choice((0.0, 0.12, 0.25, 0.4)),
        rng.uniform(0.3, 1.2),
        rng.uniform(0.15, 0.4) if not wood and rng.random() < 0.2 else 0.0,
    )


def _line_wall(actors: list[Actor], rng: random.Random, room: Room, side: int) -> None:
    """Doors, windows, pictures and furniture along one wall, without overlaps."""
    glazed = rng.random() < 0.35
    weights = {
        "door": 5.0,
        "window": 9.0 if glazed else 1.2,
        "picture": 3.0,
        "cabinet": 2.2,
        "extinguisher": 1.6,
        "plant": 1.8,
        "chairs": 2.2,
        "bin": 1.4,
        "clock": 0.9,
        "table": 1.3,
        "sofa": 1.2 if room.half_width > 1.6 else 0.0,
        "elevator": 0.8,
        "vending": 0.8,
        "radiator": 0.0,
        "gap": 2.0,
    }
    names, shares = list(weights), list(weights.values())
    z = rng.uniform(0.2, 2.5)
    while z < room.length - 1.5:
        name = rng.choices(names, shares)[0]
        if name in {"radiator", "gap"}:
            z += rng.uniform(0.5, 2.0)
            continue
        z += _wall_item(actors, rng, room, side, z, name) + rng.uniform(0.15, 1.6)


def _wall_item(
    actors: list[Actor], rng: random.Random, room: Room, side: int, z: float, name: str
) -> float:
    """Add one item that starts at z; returns the length of wall it takes."""
    s, seed = side * room.half_width, rng.randrange(1 << 30)
    if name in ("door", "window", "picture", "elevator", "clock", "extinguisher"):
        long = {
            "door": rng.choice((0.95, 0.95, 1.8)),
            "window": rng.uniform(1.0, 2.4),
            "picture": rng.uniform(0.4, 1.3),
            "elevator": 1.3,
            "clock": 0.4,
            "extinguisher": 0.3,
        }[name]
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
        "sofa": (0.85, rng.uniform(1.4, 2.2), 0.8),
        "vending": (0.8, 1.0, 1.85),
        "plant": (0.5, 0.6, 1.3),
        "bin": (0.45, 0.5, 0.8),
    }[name]
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
        name = rng.choices(
            ("person", "table set", "pillar", "rug", "plant", "chair", "bin", "rails", "stairs"),
            (5, 3, 2, 1.5, 0.8, 1.2, 0.5, 1.0, 0.6),
        )[0]
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
            actors.append(
                Actor(
                    paint,
                    s,
                    z,
                    long if name != "pillar" else 0.0,
                    2 if name != "pillar" else 3,
                    half_width=0.3,
                    height=0.2,
                )
            )
        elif name == "rug":
            actors.append(
                Actor(
                    partial(hall_things.draw_rug, s=s * 0.4, seed=seed, label=ID["rug"]),
                    s * 0.4,
                    z,
                    3.0,
                    0,
                )
            )
        elif name == "person":
            person = partial(nature.draw_walker, s=s, seed=seed, label=ID["person"])
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


def _on_wall(canvas: Canvas, z: float, *, s: float, seed: int, what: str, long: float) -> None:
    side = 1 if s > 0 else -1
    panel = hall_walls.Panel(s - side * 0.02, z, 0.0, 1.0, long, inward=-side)
    hall_walls.draw_on_wall(canvas, panel, what, seed, ID[_WALL_NAMES[what]])


def _on_end_wall(canvas: Canvas, z: float, *, s: float, seed: int, what: str) -> None:
    panel = hall_walls.Panel(s, z - 0.03, 1.0, 0.0, 1.7, inward=0)
    hall_walls.draw_on_wall(canvas, panel, what, seed, ID[_WALL_NAMES[what]])


_WALL_NAMES = {
    "door": "door",
    "window": "window",
    "picture": "picture",
    "elevator": "elevator",
    "clock": "clock",
    "extinguisher": "fire extinguisher",
}


def _standing(
    canvas: Canvas,
    z: float,
    *,
    s: float,
    seed: int,
    what: str,
    size: tuple[float, float, float],
    side: int,
) -> None:
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
        street_things.draw_bin(canvas, s, z, seed, ID["trash can"])


def _structure(
    canvas: Canvas, z: float, *, s: float, seed: int, what: str, long: float, top: float
) -> None:
    if what == "pillar":
        hall_things.draw_pillar(canvas, s, z, seed, ID["pillar"], top)
    elif what == "stairs":
        hall_things.draw_stairs(canvas, s, z, seed, ID["stairs"])
    else:
        hall_things.draw_railing(canvas, s, z, seed, ID["railing"], long)


def _chair(canvas: Canvas, z: float, *, s: float, seed: int, turn: int) -> None:
    hall_things.draw_chair(canvas, Frame(s, z, turn), seed, ID["chair"])
