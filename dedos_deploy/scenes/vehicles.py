"""Cars, lorries and buses as extruded side profiles; bicycles and motorcycles as bars."""

from __future__ import annotations

import itertools
import math
import random
from functools import lru_cache

from dedos_deploy.scenes.canvas import Canvas, Colour, Point
from dedos_deploy.scenes.solids import Frame, Mesh, Outline, draw_boxes, draw_mesh, mesh_from_faces

GLASS: Colour = (70, 55, 45)
TYRE: Colour = (28, 27, 26)
_HUB: Colour = (130, 130, 130)
_WHITE: Colour = (222, 236, 242)
_DARK: Colour = (45, 45, 45)
_PLATE: Colour = (200, 215, 220)
PAINTS: tuple[Colour, ...] = (
    (225, 225, 225),
    (190, 192, 195),
    (60, 60, 62),
    (30, 30, 32),
    (120, 118, 115),
    (150, 60, 35),
    (120, 75, 40),
    (40, 40, 160),
    (35, 35, 110),
    (60, 110, 60),
    (70, 150, 200),
    (150, 170, 190),
)
# kinds of faces of a vehicle's mesh
_PAINT, _GLASS, _TYRE, _HUBS, _REAR, _FRONT, _TRIM, _NUMBER, _LOAD = range(9)

_TINY = 2.6  # pixels per metre below which windows and lamps of a car are smaller than a pixel

_RANKS = (1, 1, 0, 3, 2, 2, 2, 2, 1, 2, 2)  # blocks of tyres, body, what is on it, hubs
_PANE, _RIM = 9, 10  # side windows and the outer face of wheels: glass and tyre on top of the body

_Profile = tuple[tuple[float, float, float], ...]

# (along, up, inset from the side) from the rear bumper over the roof to the front, and the width;
# edges 2 and 4 of a profile are windows
CARS: tuple[tuple[_Profile, float], ...] = (
    (
        (
            (0, 0.3, 0),
            (0, 0.8, 0),
            (0.2, 1.0, 0.05),
            (0.95, 1.42, 0.22),
            (2.3, 1.45, 0.22),
            (3.15, 0.98, 0.05),
            (4.2, 0.8, 0.03),
            (4.35, 0.3, 0),
        ),
        1.78,
    ),
    (
        (
            (0, 0.3, 0),
            (0, 0.9, 0),
            (0.1, 1.0, 0.04),
            (0.5, 1.5, 0.2),
            (2.1, 1.5, 0.2),
            (2.95, 1.0, 0.05),
            (3.8, 0.82, 0.03),
            (3.95, 0.3, 0),
        ),
        1.72,
    ),
    (
        (
            (0, 0.35, 0),
            (0, 1.0, 0),
            (0.05, 1.15, 0.03),
            (0.25, 1.85, 0.14),
            (3.3, 1.85, 0.14),
            (4.1, 1.15, 0.05),
            (4.7, 0.95, 0.03),
            (4.85, 0.35, 0),
        ),
        1.9,
    ),
    (
        (
            (0, 0.42, 0),
            (0, 1.05, 0),
            (0.1, 1.15, 0.03),
            (0.4, 1.72, 0.16),
            (2.9, 1.75, 0.16),
            (3.5, 1.18, 0.05),
            (4.5, 1.02, 0.03),
            (4.6, 0.42, 0),
        ),
        1.88,
    ),
)


def draw_car(canvas: Canvas, s: float, z: float, seed: int, label: int, turn: int) -> None:
    """Draw a car whose middle stands at (s, z); turn as in `Frame`."""
    rng = random.Random(seed)
    kind = rng.choice((0, 0, 1, 1, 2, 3))
    paint = _vary(rng, rng.choice(PAINTS), 14)
    rear: Colour = (40, 35, 190) if rng.random() < 0.6 else (60, 60, 235)
    scale = canvas.pixels_per_metre((s, 0.7, z))
    if scale < _TINY:
        _draw_tiny_car(canvas, Frame(s, z, turn), kind, paint, label)
        return
    mesh = _car_mesh(kind, _detail(scale))
    _draw(canvas, Frame(s, z, turn), mesh, paint, paint, rear, label)


def _draw_tiny_car(canvas: Canvas, frame: Frame, kind: int, paint: Colour, label: int) -> None:
    """Draw a car of a few pixels: dark under the body, the body, and a cabin half of glass."""
    profile, width = CARS[kind]
    (_, low, _), (_, waist, _), (roof_start, roof, inset) = profile[0], profile[2], profile[3]
    roof_end, length = profile[4][0], profile[-1][0]
    cabin = [(p + g) / 2 for p, g in zip(paint, GLASS, strict=True)]
    for (start, end), (base, top), wide, ink in (
        ((0.3, length - 0.3), (0.0, low), width - 0.2, TYRE),
        ((0.0, length), (low, waist), width, paint),
        ((roof_start - 0.3, roof_end + 0.4), (waist, roof), width - inset, cabin),
    ):
        box = (0.0, base, start - length / 2, wide, top - base, end - start)
        draw_boxes(canvas, frame, [box], (ink[0], ink[1], ink[2]), label)


def draw_truck(canvas: Canvas, s: float, z: float, seed: int, label: int, turn: int) -> None:
    """Draw a lorry: a cab in front of a tall load box."""
    rng = random.Random(seed)
    cab = _vary(rng, rng.choice(PAINTS), 20)
    load = _vary(
        rng,
        rng.choice(
            (
                (230, 230, 230),
                (200, 205, 210),
                (150, 90, 50),
                (60, 60, 170),
                (70, 120, 80),
                (90, 160, 210),
            )
        ),
        15,
    )
    length, height = rng.choice((4.5, 6.0, 8.5)), rng.choice((2.0, 2.3, 2.7))
    detail = _detail(canvas.pixels_per_metre((s, 1, z)))
    box, front = _load_mesh(length, height, detail), _cab_mesh(detail)
    frame = Frame(s, z, turn).moved(0, -(length + 2) / 2)
    parts = [(box, frame), (front, frame.moved(0, length + 0.15))]
    parts.sort(key=lambda part: -canvas.view(part[1].place(0, 1, 1))[2])
    for mesh, where in parts:
        _draw(canvas, where, mesh, cab, load, (40, 40, 200), label)


def draw_bus(canvas: Canvas, s: float, z: float, seed: int, label: int, turn: int) -> None:
    """Draw a bus: one long box with bands of windows."""
    rng = random.Random(seed)
    length = rng.choice((8.5, 10.0, 11.5))
    paint = _vary(
        rng,
        rng.choice(
            (
                (40, 40, 190),
                (60, 170, 220),
                (190, 120, 50),
                (220, 220, 225),
                (80, 140, 70),
                (140, 60, 90),
            )
        ),
        15,
    )
    mesh = _bus_mesh(length, _detail(canvas.pixels_per_metre((s, 1, z))))
    frame = Frame(s, z, turn).moved(0, -length / 2)
    _draw(canvas, frame, mesh, paint, paint, (40, 40, 200), label)


def _detail(scale: float) -> int:
    """0: body only; 1: windows, lamps and wheels; 2: round wheels with hubs."""
    return 0 if scale < 4 else 1 if scale < 11 else 2


def _draw(
    canvas: Canvas, frame: Frame, mesh: Mesh, paint: Colour, load: Colour, rear: Colour, label: int
) -> None:
    colours = (paint, GLASS, TYRE, _HUB, rear, _WHITE, _DARK, _PLATE, load, GLASS, TYRE)
    draw_mesh(canvas, frame, mesh, colours, label)


@lru_cache(maxsize=32)
def _car_mesh(kind: int, detail: int) -> Mesh:
    profile, width = CARS[kind]
    length, half = profile[-1][0], width / 2
    faces: list[tuple[Outline, int]] = []
    for index, ((a0, y0, i0), (a1, y1, i1)) in enumerate(itertools.pairwise(profile)):
        outline = (
            (i0 - half, y0, a0),
            (half - i0, y0, a0),
            (half - i1, y1, a1),
            (i1 - half, y1, a1),
        )
        faces.append((outline, _GLASS if index in (2, 4) else _PAINT))
    low = [point for k, point in enumerate(profile) if k not in (3, 4)]
    for side in (-1.0, 1.0):
        for part in (low, profile[2:6]):
            faces.append(([(side * (half - i), y, a) for a, y, i in part], _PAINT))
    if detail:
        faces += _side_windows(profile, half)
        for along, lamp in ((-0.015, _REAR), (length - 0.065, _FRONT)):
            for side in (-1.0, 1.0):
                faces.append(_plate(side * (half - 0.2), 0.75, along, 0.17, 0.07, lamp))
            faces.append(_plate(0.0, 0.58, along, 0.26, 0.06, _NUMBER))
            faces.append(_plate(0.0, 0.36, along, half, 0.06, _TRIM))
    faces += _wheels(half, 0.33, (length * 0.19, length * 0.81), detail)
    return mesh_from_faces(_shifted(faces, -length / 2), (0.0, 0.7, 0.0), _RANKS)


def _side_windows(profile: _Profile, half: float) -> list[tuple[Outline, int]]:
    (a2, y2, i2), (a3, y3, i3), (a4, y4, i4), (a5, y5, i5) = profile[2:6]
    middle, out = (a3 + a4) / 2, 0.015
    faces: list[tuple[Outline, int]] = []
    for side in (-1.0, 1.0):
        for start, top_start, top_end, end in (
            (a2 + 0.28, a3 + 0.08, middle - 0.04, middle - 0.04),
            (middle + 0.04, middle + 0.04, a4 - 0.05, a5 - 0.28),
        ):
            outline = (
                (side * (half - i2 + out), y2 + 0.03, start),
                (side * (half - i3 + out), y3 - 0.08, top_start),
                (side * (half - i4 + out), y4 - 0.08, top_end),
                (side * (half - i5 + out), y5 + 0.03, end),
            )
            faces.append((outline, _PANE))
    return faces


@lru_cache(maxsize=32)
def _load_mesh(length: float, height: float, detail: int) -> Mesh:
    faces = _box(2.4, 0.9, 0.9 + height, 0.0, length, _LOAD)
    faces += _box(2.1, 0.5, 0.9, 0.0, length + 1.5, _TYRE)
    if detail:
        faces += [_plate(x, 0.75, -0.02, 0.15, 0.09, _REAR) for x in (-1.0, 1.0)]
        faces.append(_plate(0.0, 0.95 + height / 2, -0.02, 0.02, height / 2, _TRIM))
    faces += _wheels(1.2, 0.48, (length * 0.2, length * 0.36), detail)
    return mesh_from_faces(faces, (0.0, 1.2, length / 2), _RANKS)


@lru_cache(maxsize=3)
def _cab_mesh(detail: int) -> Mesh:
    faces = _box(2.3, 0.55, 2.65, 0.0, 1.7, _PAINT)
    if detail:
        faces += [*_bands(2.3, 1.7, 1.75, 0.6, 1), _plate(0, 1.98, 1.72, 1.0, 0.4, _PANE)]
        faces += [_plate(x, 0.85, 1.72, 0.16, 0.1, _FRONT) for x in (-0.9, 0.9)]
        faces.append(_plate(0, 1.2, 1.72, 0.8, 0.15, _TRIM))
    faces += _wheels(1.17, 0.48, (0.9,), detail)
    return mesh_from_faces(faces, (0.0, 1.4, 0.85), _RANKS)


@lru_cache(maxsize=16)
def _bus_mesh(length: float, detail: int) -> Mesh:
    faces = _box(2.5, 0.35, 3.1, 0.0, length, _PAINT)
    if detail:
        faces += _bands(2.5, length, 1.6, 1.0, int(length / 1.5))
        faces.append(_plate(0, 2.05, -0.02, 1.05, 0.5, _PANE))
        faces.append(_plate(0, 1.95, length + 0.02, 1.12, 0.75, _PANE))
        faces += [_plate(0, 2.88, end, 0.7, 0.13, _NUMBER) for end in (-0.02, length + 0.02)]
        for x in (-1.0, 1.0):
            faces.append(_plate(x, 0.85, -0.02, 0.13, 0.16, _REAR))
            faces.append(_plate(x, 0.75, length + 0.02, 0.16, 0.1, _FRONT))
    faces += _wheels(1.25, 0.46, (length * 0.2, length * 0.78), detail)
    return mesh_from_faces(faces, (0.0, 1.7, length / 2), _RANKS)


def _box(
    width: float, low: float, high: float, start: float, end: float, kind: int
) -> list[tuple[Outline, int]]:
    a, b = -width / 2, width / 2
    return [
        (((a, low, start), (b, low, start), (b, high, start), (a, high, start)), kind),
        (((a, low, end), (b, low, end), (b, high, end), (a, high, end)), kind),
        (((a, low, start), (a, low, end), (a, high, end), (a, high, start)), kind),
        (((b, low, start), (b, low, end), (b, high, end), (b, high, start)), kind),
        (((a, high, start), (b, high, start), (b, high, end), (a, high, end)), kind),
    ]


def _plate(
    across: float, up: float, along: float, half: float, tall: float, kind: int
) -> tuple[Outline, int]:
    corners = ((-half, -tall), (half, -tall), (half, tall), (-half, tall))
    return [(across + x, up + y, along) for x, y in corners], kind


def _bands(
    width: float, length: float, base: float, tall: float, count: int
) -> list[tuple[Outline, int]]:
    step = (length - 0.4) / count
    faces: list[tuple[Outline, int]] = []
    for across in (-width / 2 - 0.015, width / 2 + 0.015):
        for k in range(count):
            a0, a1 = 0.26 + k * step, 0.14 + (k + 1) * step
            corners = ((base, a0), (base, a1), (base + tall, a1), (base + tall, a0))
            faces.append(([(across, y, a) for y, a in corners], _PANE))
    return faces


def _wheels(
    half: float, radius: float, places: tuple[float, ...], detail: int
) -> list[tuple[Outline, int]]:
    """Tyres as blocks under the body, and round on the outside where that can be seen."""
    faces: list[tuple[Outline, int]] = []
    corners = 10 if detail == 2 else 6
    for along in places:
        for side in (-1, 1):
            x0, x1 = side * (half - 0.24), side * (half - 0.02)
            for end in (along - radius * 0.8, along + radius * 0.8):
                faces.append(
                    (((x0, 0, end), (x1, 0, end), (x1, radius, end), (x0, radius, end)), _TYRE)
                )
            rings = ((radius, _RIM), (radius * 0.6, _HUBS)) if detail == 2 else ((radius, _RIM),)
            for nth, (size, kind) in enumerate(rings):
                x = side * (half + 0.01 + 0.01 * nth)
                faces.append((_ring(x, radius, along, size, corners), kind))
    return faces


def _ring(across: float, up: float, along: float, radius: float, corners: int) -> list[Point]:
    turns = (2 * math.pi * k / corners for k in range(corners))
    return [(across, up + radius * math.sin(t), along + radius * math.cos(t)) for t in turns]


def _shifted(faces: list[tuple[Outline, int]], along: float) -> list[tuple[Outline, int]]:
    return [([(x, y, a + along) for x, y, a in outline], kind) for outline, kind in faces]


def draw_bicycle(canvas: Canvas, s: float, z: float, seed: int, label: int, turn: int) -> None:
    """Draw a bicycle: two open wheels and a frame of bars."""
    rng = random.Random(seed)
    paint: Colour = rng.choice(
        ((40, 40, 180), (160, 80, 30), (50, 50, 50), (60, 140, 60), (200, 200, 200))
    )
    frame = Frame(s, z, turn)
    corners = 12 if canvas.pixels_per_metre((s, 0.5, z)) > 15 else 7
    for along in (-0.52, 0.52):
        ring = [frame.place(*point) for point in _ring(0.0, 0.34, along, 0.34, corners)]
        for a, b in zip(ring, [*ring[1:], ring[0]], strict=True):
            canvas.line(a, b, 0.05, TYRE, label)
    for (y0, a0), (y1, a1) in (
        ((0.35, -0.5), (0.35, 0.0)),
        ((0.35, 0.0), (0.85, 0.35)),
        ((0.85, -0.15), (0.85, 0.38)),
        ((0.35, 0.0), (0.95, -0.2)),
        ((0.35, -0.5), (0.85, -0.15)),
        ((0.35, 0.55), (1.05, 0.4)),
    ):
        canvas.line(frame.place(0, y0, a0), frame.place(0, y1, a1), 0.05, paint, label)
    canvas.line(frame.place(-0.28, 1.05, 0.4), frame.place(0.28, 1.05, 0.4), 0.05, TYRE, label)
    canvas.line(frame.place(0, 0.97, -0.32), frame.place(0, 0.97, -0.08), 0.1, TYRE, label)


@lru_cache(maxsize=1)
def _motorcycle_mesh() -> Mesh:
    faces: list[tuple[Outline, int]] = []
    for along in (-0.62, 0.62):
        for side in (-0.07, 0.07):
            faces.append((_ring(side, 0.31, along, 0.31, 10), _RIM))
            faces.append((_ring(side * 1.1, 0.31, along, 0.14, 10), _HUBS))
        for end in (along - 0.28, along + 0.28):
            faces.append(_plate(0.0, 0.3, end, 0.08, 0.28, _TYRE))
    faces += _box(0.32, 0.38, 0.78, -0.55, 0.45, _PAINT)
    faces += _box(0.3, 0.78, 0.88, -0.55, 0.1, _TRIM)
    faces.append(_plate(0.0, 0.88, 0.55, 0.1, 0.1, _FRONT))
    faces.append(_plate(0.0, 0.62, -0.57, 0.09, 0.05, _REAR))
    return mesh_from_faces(faces, (0.0, 0.5, 0.0), _RANKS)


def draw_motorcycle(canvas: Canvas, s: float, z: float, seed: int, label: int, turn: int) -> None:
    """Draw a motorcycle or scooter: two thick wheels under a compact body."""
    rng = random.Random(seed)
    paint: Colour = rng.choice(
        ((40, 40, 190), (30, 30, 30), (180, 90, 40), (210, 210, 210), (60, 150, 70))
    )
    frame = Frame(s, z, turn)
    _draw(canvas, frame, _motorcycle_mesh(), paint, paint, (40, 40, 200), label)
    canvas.line(frame.place(0, 0.35, 0.62), frame.place(0, 1.05, 0.38), 0.09, paint, label)
    canvas.line(frame.place(-0.33, 1.05, 0.36), frame.place(0.33, 1.05, 0.36), 0.06, TYRE, label)


def _vary(rng: random.Random, colour: Colour, amount: float) -> Colour:
    b, g, r = (min(255.0, max(5.0, c + rng.uniform(-amount, amount))) for c in colour)
    return b, g, r
