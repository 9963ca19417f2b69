"""Layouts of street scenes: city, suburb, campus and highway."""

from __future__ import annotations

import math
import random
from functools import partial

import numpy as np

from dedos_deploy.scenes import nature, street_things, vehicles
from dedos_deploy.scenes.actors import Actor
from dedos_deploy.scenes.canvas import Canvas, Colour, Light
from dedos_deploy.scenes.street import ID, Sky, Street, StreetScene, paint_skyline

_TREE = partial(nature.draw_tree, label=ID["tree"])
_BUSH = partial(nature.draw_bush, label=ID["bush"])
_WALKER = partial(nature.draw_walker, label=ID["person"])
_FIXED = {
    "pole": partial(street_things.draw_lamp_post, label=ID["pole"]),
    "sign": partial(street_things.draw_sign, labels=(ID["traffic sign"], ID["pole"])),
    "light": partial(street_things.draw_traffic_light, labels=(ID["traffic light"], ID["pole"])),
    "bench": partial(street_things.draw_bench, label=ID["bench"]),
    "bin": partial(street_things.draw_bin, label=ID["trash can"]),
}
_VEHICLES = {
    "car": partial(vehicles.draw_car, label=ID["car"]),
    "truck": partial(vehicles.draw_truck, label=ID["truck"]),
    "bus": partial(vehicles.draw_bus, label=ID["bus"]),
}


def plan_street(seed: int, length: float) -> StreetScene:
    """Return a street scene of `length` metres from its seed."""
    rng = random.Random(seed)
    kind = rng.choices(("city", "suburb", "campus", "highway"), (0.4, 0.25, 0.2, 0.15))[0]
    street = _plan_ground(rng, kind, length)
    light, sky = _plan_light(rng)
    actors: list[Actor] = []
    for side in (-1, 1):
        _line_side(actors, rng, kind, street, side, length)
    _traffic(actors, rng, kind, street, length)
    if kind != "city" or rng.random() < 0.3:
        actors.append(_skyline(rng, length))
    return StreetScene(street, sky, light, tuple(actors))


def _plan_ground(rng: random.Random, kind: str, length: float) -> Street:
    grey = rng.uniform(70, 135)
    warm = rng.uniform(-6, 8)
    asphalt = (grey - warm, grey, grey + warm * 0.6)
    light = rng.uniform(125, 190)
    paving = (light - rng.uniform(0, 25), light, light + rng.uniform(-5, 20))
    lawn = rng.choice(((60, 125, 85), (55, 105, 75), (75, 135, 120), (70, 120, 140)))
    lanes_each = {"city": rng.choice((1, 1, 2)), "suburb": 1, "campus": 1, "highway": 2}[kind]
    lane_width = 3.6 if kind == "highway" else rng.uniform(2.6, 3.4)
    road = lanes_each * lane_width + (rng.uniform(0, 2.2) if kind == "city" else 0.3)
    lanes = [lane_width * k for k in range(1 - lanes_each, lanes_each)]
    solid: list[float] = (
        [road - 0.35, 0.35 - road] if rng.random() < 0.5 or kind == "highway" else []
    )
    if rng.random() < 0.3 and 0.0 in lanes:
        lanes.remove(0.0)
        solid += [-0.15, 0.15]
    if kind == "campus" and rng.random() < 0.6:
        lanes, solid = [], []
    verge = (0.0, 0.0)
    if kind in ("suburb", "campus") or rng.random() < 0.2:
        verge = (rng.uniform(0.5, 2.0), rng.uniform(0.5, 2.0))
    walk = (0.0, 0.0) if kind == "highway" else (rng.uniform(1.4, 4.0), rng.uniform(1.4, 4.0))
    crossings: list[float] = []
    if kind in ("city", "suburb") and rng.random() < 0.6:
        crossings = [k * 60 + rng.uniform(8, 45) for k in range(int(length // 60) + 1)]
    junctions = (
        []
        if kind == "highway"
        else [
            k * 80 + rng.uniform(20, 70) for k in range(int(length // 80) + 1) if rng.random() < 0.5
        ]
    )
    return Street(
        road,
        verge,
        walk,
        tuple(lanes),
        tuple(solid),
        tuple(crossings),
        tuple(junctions),
        asphalt,
        paving,
        lawn,
        rng.choice(((225, 228, 230), (205, 210, 212), (110, 190, 225))),
        rng.uniform(0.4, 1.2),
        rng.choice((0.0, 0.5, 0.8, 1.2)),
        "grass" if kind != "city" else "sidewalk",
    )


def _plan_light(rng: random.Random) -> tuple[Light, Sky]:
    mood = rng.choices(("clear", "overcast", "dusk", "hazy"), (0.45, 0.25, 0.12, 0.18))[0]
    table: dict[str, tuple[Colour, Colour, float, float, float]] = {
        "clear": ((225, 205, 175), (215, 150, 85), rng.uniform(0.1, 0.6), 260.0, 0.5),
        "overcast": ((215, 215, 212), (190, 185, 180), rng.uniform(0.5, 0.9), 170.0, 0.8),
        "dusk": ((150, 185, 235), (150, 105, 85), rng.uniform(0.2, 0.7), 220.0, 0.7),
        "hazy": ((225, 222, 218), (215, 200, 185), 0.1, 85.0, 0.7),
    }
    low, high, clouds, haze_m, shadow = table[mood]
    sun = rng.uniform(-1, 1)
    contrast = 0.35 if mood == "clear" else 0.12
    light = Light(
        left=0.8 - contrast * sun,
        right=0.8 + contrast * sun,
        front=rng.uniform(0.65, 0.95),
        top=1.0,
        haze=low,
        haze_m=haze_m,
        shadow=shadow,
        sun_s=-sun * (0.9 if mood == "clear" else 0.15),
        sun_z=rng.uniform(-0.4, 0.4),
    )
    return light, Sky(low, high, clouds, rng.randrange(1 << 30))


def _line_side(
    actors: list[Actor], rng: random.Random, kind: str, street: Street, side: int, length: float
) -> None:
    """Put buildings, barriers, trees and street furniture on one side."""
    k = 0 if side < 0 else 1
    kerb = street.road + street.verge[k]
    edge = kerb + street.walk[k]
    blocked = street.junctions
    z = -14.0
    before, ended = 0.0, -math.inf  # height and end of the last building
    while z < length and kind != "highway":
        depth = rng.uniform(8, 14)
        tall = rng.uniform(9, 24) if kind == "city" else rng.uniform(4.5, 8.0)
        long = rng.uniform(9, 22) if kind == "city" else rng.uniform(8, 13)
        back = 0.0 if kind == "city" else rng.uniform(4, 9)
        open_gap = any(z - 1 < j + 7 and j < z + long + 1 for j in blocked)
        if not open_gap and rng.random() < {"city": 0.92, "suburb": 0.8, "campus": 0.35}[kind]:
            paint = partial(
                street_things.draw_building,
                s=side * (edge + back),
                seed=rng.randrange(1 << 30),
                label=ID["building"],
                size=(depth, tall, long),
                hidden=before if z == ended else 0.0,
            )
            before, ended = tall, z + long
            actors.append(
                Actor(
                    paint,
                    side * (edge + back + depth / 2),
                    z,
                    long,
                    1,
                    half_width=depth / 2,
                    height=tall * 0.45,
                    reach=depth / 2 + 1,
                )
            )
        z = z + long + (rng.choice((0.0, 0.0, 3.0)) if kind == "city" else rng.uniform(2, 9))
    if kind != "city":
        _green(actors, rng, kind, edge, side, length)
        _barriers(actors, rng, kind, edge, side, length, blocked)
    _furniture(actors, rng, kind, (kerb, edge), side, length, blocked)


def _green(
    actors: list[Actor], rng: random.Random, kind: str, edge: float, side: int, length: float
) -> None:
    dense = rng.choice((4.0, 7.0, 14.0))
    z = rng.uniform(-2, 5)
    while z < length:
        back = rng.uniform(1.5, 9.0) + (3 if kind == "highway" else 0)
        tall = rng.uniform(4, 11)
        paint = partial(_TREE, s=side * (edge + back), seed=rng.randrange(1 << 30), height=tall)
        actors.append(
            Actor(
                paint,
                side * (edge + back),
                z,
                0.5,
                1,
                half_width=tall * 0.25,
                height=tall * 0.5,
                far_m=100.0,
                reach=0.5 * tall,
            )
        )
        z += dense * rng.uniform(0.4, 1.8)


def _barriers(
    actors: list[Actor],
    rng: random.Random,
    kind: str,
    edge: float,
    side: int,
    length: float,
    blocked: tuple[float, ...],
) -> None:
    material = rng.choice(("brick", "plaster", "planks", "railing", "hedge", "hedge", "none"))
    if kind == "highway":
        material = rng.choice(("guardrail", "guardrail", "plaster", "none"))
    if material == "none":
        return
    height, step = rng.uniform(0.9, 1.9), 6.0
    if material == "guardrail":
        height = 0.8
    name = "wall" if material in ("brick", "plaster") else "fence"
    s = side * (edge + 0.4)
    for z in np.arange(-6.0, length, step).tolist():
        if any(z < j + 7 and j < z + step for j in blocked) or rng.random() < 0.08:
            continue
        if material == "hedge":
            for along in (1.0, 3.0, 5.0):
                size = (rng.uniform(0.9, 1.2), height * rng.uniform(0.75, 0.95))
                paint = partial(_BUSH, s=s, seed=7 if rng.random() < 0.6 else 8, size=size)
                actors.append(
                    Actor(paint, s, z + along, 0.5, 2, half_width=0.6, height=height, far_m=70.0)
                )
            continue
        barrier = partial(
            street_things.draw_barrier,
            s=s,
            seed=side,
            label=ID[name],
            size=(height, step),
            kind=material,
        )
        actors.append(Actor(barrier, s, z, step, 2, half_width=0.15, height=height, far_m=90.0))


def _furniture(
    actors: list[Actor],
    rng: random.Random,
    kind: str,
    band: tuple[float, float],
    side: int,
    length: float,
    blocked: tuple[float, ...],
) -> None:
    kerb, edge = band[0] * side, band[1] * side
    rates = {
        "pole": 22.0,
        "sign": 35.0,
        "light": 70.0 if kind == "city" else 160.0,
        "bench": 60.0,
        "bin": 40.0,
        "person": 11.0 if kind == "city" else 20.0,
        "bicycle": 40.0,
        "tree": 16.0,
    }
    if kind == "highway":
        rates = {"pole": 40.0, "sign": 45.0}
    elif rng.random() < 0.3:
        rates.pop("tree")
    for what, gap in rates.items():
        z = rng.uniform(3, gap)
        while z < length:
            if not any(j - 0.5 < z < j + 7.5 for j in blocked):
                share = {"pole": 0.12, "sign": 0.1, "light": 0.08, "tree": 0.3}.get(
                    what, rng.uniform(0.2, 0.95)
                )
                s = kerb + share * (edge - kerb) + (0.5 * side if kind == "highway" else 0.0)
                actors.append(_prop(what, rng, s, z))
            z += gap * rng.uniform(0.4, 1.7)


def _prop(what: str, rng: random.Random, s: float, z: float) -> Actor:
    seed = rng.randrange(1 << 30)
    if what == "person":
        speed = rng.choice((-1.2, -1.0, 0.0, 1.0, 1.3))
        walker = partial(_WALKER, s=s, seed=seed)
        return Actor(walker, s, z, speed=speed, half_width=0.25, height=1.7, far_m=60.0)
    if what == "tree":
        tall = rng.uniform(4.0, 9.0)
        return Actor(
            partial(_TREE, s=s, seed=seed, height=tall),
            s,
            z,
            half_width=tall * 0.22,
            height=tall * 0.4,
            far_m=100.0,
            reach=0.5 * tall,
        )
    if what == "bicycle":
        bike = partial(_bike, s=s, seed=seed, rider=False, turn=seed % 2)
        return Actor(bike, s, z, half_width=0.3, far_m=40.0)
    height = {"pole": 6.0, "sign": 2.4, "light": 3.4, "bench": 0.8, "bin": 0.8}[what]
    paint = partial(_FIXED[what], s=s, seed=seed)
    far_m = 45.0 if what in ("bench", "bin") else 80.0
    half = 0.4 if what in ("bench", "bin") else 0.08
    return Actor(paint, s, z, half_width=half, height=height, far_m=far_m)


def _bike(canvas: Canvas, z: float, *, s: float, seed: int, rider: bool, turn: int) -> None:
    vehicles.draw_bicycle(canvas, s, z, seed, ID["bicycle"], turn)
    if rider:
        nature.draw_person(canvas, s, z, seed, ID["person"], "ride", phase=6.0 * canvas.time_s)


def _motorbike(canvas: Canvas, z: float, *, s: float, seed: int, turn: int) -> None:
    vehicles.draw_motorcycle(canvas, s, z, seed, ID["motorcycle"], turn)
    nature.draw_person(canvas, s, z, seed, ID["person"], "ride")


def _traffic(
    actors: list[Actor], rng: random.Random, kind: str, street: Street, length: float
) -> None:
    lane = street.road / 2 if not street.lanes or len(street.lanes) == 1 else 3.2
    offsets = [lane] if len(street.lanes) < 2 else [lane * 0.5, lane * 1.5]
    busy = {"city": 24.0, "suburb": 34.0, "campus": 45.0, "highway": 22.0}[kind]
    for side in (-1, 1):
        for offset in offsets:
            z = rng.uniform(6, busy)
            pace = rng.uniform(2.0, 6.0) * side
            while z < length:
                actors.append(_road_user(rng, side * offset, z, 0 if side > 0 else 2, pace, kind))
                z += 7 + busy * rng.uniform(0.2, 1.6)
    if kind in ("city", "suburb"):
        for side in (-1, 1):
            if rng.random() < 0.65:
                _parked(actors, rng, street, side, length)
    for start in street.crossings:
        for _ in range(rng.randint(0, 3)):
            s = rng.uniform(-street.road, street.road)
            actors.append(
                Actor(
                    partial(_WALKER, s=s, seed=rng.randrange(1 << 30)),
                    s,
                    start + rng.uniform(0, 3),
                    half_width=0.25,
                    height=1.7,
                    far_m=60.0,
                )
            )


def _road_user(rng: random.Random, s: float, z: float, turn: int, pace: float, kind: str) -> Actor:
    seed = rng.randrange(1 << 30)
    weights = (0.58, 0.14, 0.1, 0.09, 0.09) if kind != "highway" else (0.68, 0.24, 0.08, 0.0, 0.0)
    what = rng.choices(("car", "truck", "bus", "bicycle", "motorcycle"), weights)[0]
    if what == "bicycle":
        s = s * 1.35
        paint = partial(_bike, s=s, seed=seed, rider=True, turn=turn)
        return Actor(paint, s, z, speed=pace * 0.5, half_width=0.3, height=1.6, far_m=60.0)
    if what == "motorcycle":
        bike = partial(_motorbike, s=s, seed=seed, turn=turn)
        return Actor(bike, s, z, speed=pace, half_width=0.35, height=1.5, far_m=70.0)
    long, tall = {"car": (4.2, 1.4), "truck": (8.5, 3.2), "bus": (10.0, 3.1)}[what]
    s += rng.uniform(-0.3, 0.3)
    body = partial(_VEHICLES[what], s=s, seed=seed, turn=turn)
    return Actor(body, s, z, long, speed=pace, half_width=0.95, height=tall, far_m=110.0)


def _parked(
    actors: list[Actor], rng: random.Random, street: Street, side: int, length: float
) -> None:
    s = side * (street.road - 1.0)
    z = rng.uniform(0, 12)
    while z < length:
        if not any(abs(z - c - 1.5) < 5 for c in street.crossings + street.junctions):
            turn = 0 if (side > 0) == (rng.random() < 0.85) else 2
            body = partial(_VEHICLES["car"], s=s, seed=rng.randrange(1 << 30), turn=turn)
            actors.append(Actor(body, s, z, 4.2, half_width=0.95, height=1.4, far_m=80.0))
        z += rng.uniform(5.2, 14)


def _skyline(rng: random.Random, length: float) -> Actor:
    """Hills or a far line of trees along the horizon."""
    seed, is_hill = rng.randrange(1 << 30), rng.random() < 0.55
    paint = partial(paint_skyline, seed=seed, name="mountain" if is_hill else "tree")
    return Actor(paint, 0.0, -1.0, length + 300.0, 0, reach=1e6)
