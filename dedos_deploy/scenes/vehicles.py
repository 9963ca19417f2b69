"""Cars, trucks, buses, bicycles and motorcycles as extruded side profiles."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from dedos_deploy.scenes.canvas import Canvas, Colour, Point
from dedos_deploy.scenes.solids import Face, Frame, draw_box, draw_solid

GLASS: Colour = (70, 55, 45)
TYRE: Colour = (28, 27, 26)
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


@dataclass(frozen=True)
class Shape:
    """Side profile of a car from the rear bumper over the roof to the front, in metres.

    outline: (along, up, inset from the side); glass: indices of the outline's edges that are
    windows; length, width, height; wheel: radius.
    """

    outline: tuple[tuple[float, float, float], ...]
    glass: tuple[int, ...]
    width: float
    wheel: float = 0.33

    @property
    def length(self) -> float:
        return self.outline[-1][0]


_SEDAN = Shape(
    ((0, 0.3, 0), (0, 0.8, 0), (0.2, 1.0, 0.05), (0.95, 1.42, 0.22), (2.3, 1.45, 0.22),
     (3.15, 0.98, 0.05), (4.2, 0.8, 0.03), (4.35, 0.3, 0)),
    (2, 4), 1.78,
)  # fmt: skip
_HATCH = Shape(
    ((0, 0.3, 0), (0, 0.9, 0), (0.1, 1.0, 0.04), (0.5, 1.5, 0.2), (2.1, 1.5, 0.2),
     (2.95, 1.0, 0.05), (3.8, 0.82, 0.03), (3.95, 0.3, 0)),
    (2, 4), 1.72,
)  # fmt: skip
_VAN = Shape(
    ((0, 0.35, 0), (0, 1.0, 0), (0.05, 1.15, 0.03), (0.25, 1.85, 0.14), (3.3, 1.85, 0.14),
     (4.1, 1.15, 0.05), (4.7, 0.95, 0.03), (4.85, 0.35, 0)),
    (2, 4), 1.9, 0.36,
)  # fmt: skip
CARS = (_SEDAN, _SEDAN, _HATCH, _HATCH, _VAN)


def car_length(seed: int) -> float:
    """Return the length of the car that `seed` draws, in metres."""
    return random.Random(seed).choice(CARS).length


def draw_car(canvas: Canvas, s: float, z: float, seed: int, label: int, turn: int) -> None:
    """Draw a car whose middle stands at (s, z); turn as in `Frame`."""
    rng = random.Random(seed)
    shape = rng.choice(CARS)
    paint = _vary(rng, rng.choice(PAINTS), 14)
    middle = Frame(s, z, turn).place(0, 0, -shape.length / 2)
    frame = Frame(middle[0], middle[2], turn)
    centre = frame.place(0, 0.7, shape.length / 2)
    scale = canvas.pixels_per_metre(centre)
    if scale == 0:
        return
    _tyre_blocks(canvas, frame, shape, label)
    draw_solid(canvas, _body(frame, shape, paint), centre, label)
    if scale > 4:
        draw_solid(canvas, _trim(frame, shape, paint, rng), centre, label)
        _wheels(canvas, frame, shape, label)


def _body(frame: Frame, shape: Shape, paint: Colour) -> list[Face]:
    half = shape.width / 2
    faces = []
    for index, ((a0, y0, i0), (a1, y1, i1)) in enumerate(
        zip(shape.outline, shape.outline[1:], strict=False)
    ):
        points = (
            frame.place(i0 - half, y0, a0),
            frame.place(half - i0, y0, a0),
            frame.place(half - i1, y1, a1),
            frame.place(i1 - half, y1, a1),
        )
        faces.append(Face(points, GLASS if index in shape.glass else paint))
    for side in (-1, 1):
        low = [p for k, p in enumerate(shape.outline) if k not in (3, 4)]
        cabin = shape.outline[2:6]
        for outline in (low, cabin):
            points = tuple(frame.place(side * (half - inset), y, a) for a, y, inset in outline)
            faces.append(Face(points, paint, 0.95))
    return faces


def _trim(frame: Frame, shape: Shape, paint: Colour, rng: random.Random) -> list[Face]:
    """Side windows, lamps, plate and bumper of one car, a finger's width outside the body."""
    half, out = shape.width / 2, 0.015
    (a2, y2, i2), (a3, y3, i3), (a4, y4, i4), (a5, y5, i5) = shape.outline[2:6]
    middle = (a3 + a4) / 2
    faces = []
    for side in (-1.0, 1.0):
        for start, top_start, top_end, end in (
            (a2 + 0.28, a3 + 0.08, middle - 0.04, middle - 0.04),
            (middle + 0.04, middle + 0.04, a4 - 0.05, a5 - 0.28),
        ):
            faces.append(
                Face(
                    (
                        frame.place(side * (half - i2 + out), y2 + 0.03, start),
                        frame.place(side * (half - i3 + out), y3 - 0.08, top_start),
                        frame.place(side * (half - i4 + out), y4 - 0.08, top_end),
                        frame.place(side * (half - i5 + out), y5 + 0.03, end),
                    ),
                    GLASS,
                )
            )
    end = shape.length + out
    front_lamp: Colour = (225, 240, 245)
    rear_lamp: Colour = (40, 35, 190) if rng.random() < 0.6 else (60, 60, 235)
    for along, lamp in ((-out, rear_lamp), (end - 0.08, front_lamp)):
        for side in (-1.0, 1.0):
            faces.append(_plate(frame, side * (half - 0.2), 0.72, along, 0.17, 0.07, lamp))
        faces.append(_plate(frame, 0.0, 0.55, along, 0.26, 0.06, (200, 215, 220)))
        faces.append(_plate(frame, 0.0, 0.36, along, half, 0.06, (45, 45, 45)))
    return faces


def _plate(
    frame: Frame, across: float, up: float, along: float, half: float, tall: float, colour: Colour
) -> Face:
    corners = ((-half, -tall), (half, -tall), (half, tall), (-half, tall))
    return Face(tuple(frame.place(across + x, up + y, along) for x, y in corners), colour)


def _tyre_blocks(canvas: Canvas, frame: Frame, shape: Shape, label: int) -> None:
    half = shape.width / 2
    for along in (shape.length * 0.19, shape.length * 0.81):
        for side in (-1, 1):
            corner = frame.place(side * (half - 0.12), 0, along - shape.wheel * 0.8)
            block = Frame(corner[0], corner[2], frame.turn)
            draw_box(canvas, block, (0.2, 0.4, 1.6 * shape.wheel), 0.0, TYRE, label)


def _wheels(canvas: Canvas, frame: Frame, shape: Shape, label: int) -> None:
    hub: Colour = (130, 130, 130)
    half = shape.width / 2 + 0.01
    for side in (-1, 1):
        inner = canvas.view(frame.place(side * (half - 0.3), 0.3, shape.length / 2))
        outer = canvas.view(frame.place(side * half, 0.3, shape.length / 2))
        if outer[0] * (outer[0] - inner[0]) + outer[2] * (outer[2] - inner[2]) >= 0:
            continue
        for along in (shape.length * 0.19, shape.length * 0.81):
            for radius, colour in ((shape.wheel, TYRE), (shape.wheel * 0.6, hub)):
                ring = _ring(frame, side * half, shape.wheel, along, radius)
                canvas.polygon(ring, colour, label)


def _ring(frame: Frame, across: float, up: float, along: float, radius: float) -> list[Point]:
    return [
        frame.place(across, up + radius * math.sin(t), along + radius * math.cos(t))
        for t in (k * math.pi / 6 for k in range(12))
    ]


def draw_truck(canvas: Canvas, s: float, z: float, seed: int, label: int, turn: int) -> None:
    """Draw a lorry: a cab in front of a tall load box."""
    rng = random.Random(seed)
    cab = _vary(rng, rng.choice(PAINTS), 20)
    load = _vary(rng, rng.choice(((230, 230, 230), (200, 205, 210), (150, 90, 50), (60, 60, 170),
                                  (70, 120, 80), (90, 160, 210))), 15)  # fmt: skip
    length, width, height = rng.uniform(4.5, 9.0), 2.4, rng.uniform(2.0, 2.7)
    rear = Frame(s, z, turn).place(0, 0, -(length + 2) / 2)
    frame = Frame(rear[0], rear[2], turn)
    nose = frame.place(0, 0, length + 0.15)
    cab_frame = Frame(nose[0], nose[2], turn)
    parts = [
        (canvas.view(frame.place(0, 1, length / 2))[2], False),
        (canvas.view(cab_frame.place(0, 1, 1))[2], True),
    ]
    low = Shape(((0, 0.5, 0), (length + 1.6, 0.5, 0)), (), width, 0.48)
    _tyre_blocks(canvas, frame, low, label)
    draw_box(canvas, frame, (width - 0.3, 0.35, length + 1.5), 0.55, (45, 45, 45), label)
    for _, is_cab in sorted(parts, reverse=True):
        if is_cab:
            draw_box(canvas, cab_frame, (2.3, 2.0, 1.7), 0.6, cab, label)
            centre = cab_frame.place(0, 1.6, 0.85)
            windows = _windows(cab_frame, 2.3, 1.7, 1.75, 0.6, 1) + [
                _plate(cab_frame, 0, 1.95, 1.72, 1.0, 0.38, GLASS)
            ]
            draw_solid(canvas, windows, centre, label)
        else:
            draw_box(canvas, frame, (width, height, length), 0.9, load, label)
            lamps = [
                _plate(frame, x, 0.75, -0.02, 0.15, 0.09, (40, 40, 200)) for x in (-1.0, 1.0)
            ] + [_plate(frame, 0, 1.0 + height / 2, -0.02, 0.02, height / 2, (110, 110, 110))]
            draw_solid(canvas, lamps, frame.place(0, 1.6, length / 2), label)
    _wheels(canvas, frame, low, label)


def draw_bus(canvas: Canvas, s: float, z: float, seed: int, label: int, turn: int) -> None:
    """Draw a bus: one long box with bands of windows."""
    rng = random.Random(seed)
    length, width = rng.uniform(8.5, 11.5), 2.5
    paint = _vary(rng, rng.choice(((40, 40, 190), (60, 170, 220), (190, 120, 50), (220, 220, 225),
                                   (80, 140, 70), (140, 60, 90))), 15)  # fmt: skip
    rear = Frame(s, z, turn).place(0, 0, -length / 2)
    frame = Frame(rear[0], rear[2], turn)
    low = Shape(((0, 0.4, 0), (length, 0.4, 0)), (), width, 0.46)
    _tyre_blocks(canvas, frame, low, label)
    centre = frame.place(0, 1.7, length / 2)
    draw_box(canvas, frame, (width, 2.75, length), 0.35, paint, label)
    trim = _windows(frame, width, length, 1.6, 1.0, max(3, int(length / 1.5)))
    trim += [_plate(frame, 0, 2.05, -0.02, 1.05, 0.5, GLASS)]
    trim += [_plate(frame, 0, 1.95, length + 0.02, 1.12, 0.75, GLASS)]
    sign: Colour = (60, 190, 240)
    trim += [_plate(frame, 0, 2.85, end, 0.7, 0.13, sign) for end in (-0.02, length + 0.02)]
    for x in (-1.0, 1.0):
        trim += [_plate(frame, x, 0.85, -0.02, 0.13, 0.16, (40, 40, 200))]
        trim += [_plate(frame, x, 0.75, length + 0.02, 0.16, 0.1, (225, 240, 245))]
    draw_solid(canvas, trim, centre, label)
    _wheels(canvas, frame, low, label)


def _windows(
    frame: Frame, width: float, length: float, base: float, tall: float, count: int
) -> list[Face]:
    step = (length - 0.4) / count
    faces = []
    for side in (-1, 1):
        across = side * (width / 2 + 0.015)
        for k in range(count):
            a0, a1 = 0.2 + k * step + 0.06, 0.2 + (k + 1) * step - 0.06
            corners = ((base, a0), (base, a1), (base + tall, a1), (base + tall, a0))
            faces.append(Face(tuple(frame.place(across, y, a) for y, a in corners), GLASS))
    return faces


def draw_bicycle(canvas: Canvas, s: float, z: float, seed: int, label: int, turn: int) -> None:
    """Draw a bicycle: two open wheels and a frame of bars."""
    rng = random.Random(seed)
    paint = rng.choice(((40, 40, 180), (160, 80, 30), (50, 50, 50), (60, 140, 60), (200, 200, 200)))
    frame = Frame(s, z, turn)
    bars = (
        ((0.35, -0.5), (0.35, 0.0)), ((0.35, 0.0), (0.85, 0.35)), ((0.85, -0.15), (0.85, 0.38)),
        ((0.35, 0.0), (0.95, -0.2)), ((0.35, -0.5), (0.85, -0.15)), ((0.35, 0.55), (1.05, 0.4)),
    )  # fmt: skip
    for along in (-0.52, 0.52):
        ring = _ring(frame, 0.0, 0.34, along, 0.34)
        for a, b in zip(ring, [*ring[1:], ring[0]], strict=True):
            canvas.line(a, b, 0.05, TYRE, label)
    for (y0, a0), (y1, a1) in bars:
        canvas.line(frame.place(0, y0, a0), frame.place(0, y1, a1), 0.05, paint, label)
    canvas.line(frame.place(-0.28, 1.05, 0.4), frame.place(0.28, 1.05, 0.4), 0.05, TYRE, label)
    canvas.line(frame.place(0, 0.97, -0.32), frame.place(0, 0.97, -0.08), 0.1, TYRE, label)


def draw_motorcycle(canvas: Canvas, s: float, z: float, seed: int, label: int, turn: int) -> None:
    """Draw a motorcycle or scooter: two thick wheels under a compact body."""
    rng = random.Random(seed)
    paint = rng.choice(((40, 40, 190), (30, 30, 30), (180, 90, 40), (210, 210, 210), (60, 150, 70)))
    frame = Frame(s, z, turn)
    for along in (-0.62, 0.62):
        canvas.polygon(_ring(frame, 0.0, 0.31, along, 0.31), TYRE, label)
        canvas.polygon(_ring(frame, 0.0, 0.31, along, 0.14), (140, 140, 140), label)
    start = frame.place(0, 0, -0.55)
    body = Frame(start[0], start[2], turn)
    draw_box(canvas, body, (0.32, 0.4, 1.0), 0.38, paint, label)
    draw_box(canvas, body, (0.3, 0.1, 0.65), 0.78, TYRE, label)
    canvas.line(frame.place(0, 0.35, 0.62), frame.place(0, 1.05, 0.38), 0.09, paint, label)
    canvas.line(frame.place(-0.33, 1.05, 0.36), frame.place(0.33, 1.05, 0.36), 0.06, TYRE, label)
    lamp: Colour = (225, 235, 240)
    canvas.disc(frame.place(0, 0.88, 0.52), 0.1, lamp, label)


def _vary(rng: random.Random, colour: Colour, amount: float) -> Colour:
    b, g, r = (min(255.0, max(5.0, c + rng.uniform(-amount, amount))) for c in colour)
    return b, g, r
