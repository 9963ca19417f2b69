"""What stands in a hall: furniture and fixtures."""

from __future__ import annotations

import random

from dedos_deploy.scenes.canvas import Canvas, Colour, Point
from dedos_deploy.scenes.solids import Frame, draw_box, draw_boxes

WOODS: tuple[Colour, ...] = (
    (70, 105, 150),
    (90, 135, 185),
    (50, 70, 105),
    (185, 190, 195),
    (215, 218, 220),
    (80, 85, 90),
)
STEEL: Colour = (150, 152, 154)


def draw_cabinet(
    canvas: Canvas, frame: Frame, size: Point, seed: int, label: int, side: int
) -> None:
    """Draw a cabinet, locker or bookcase `size` = (deep, tall, long) against the wall at `side`."""
    rng = random.Random(seed)
    wood: Colour = rng.choice((*WOODS, (140, 120, 90), (120, 135, 120)))
    deep, tall, long = size
    draw_box(canvas, frame, size, 0.0, wood, label)
    front = frame.s - side * (deep / 2 + 0.01)
    tone = canvas.light.left if side > 0 else canvas.light.right
    books = rng.random() < 0.25
    count = max(1, round(long / 0.5))
    rows = max(2, round(tall / 0.38)) if books or rng.random() < 0.35 else 1
    for k in range(count):
        for r in range(rows):
            a0, a1 = frame.z + (k + 0.06) * long / count, frame.z + (k + 0.94) * long / count
            y0, y1 = (0.08 + (tall - 0.12) * (r + share) / rows for share in (0.06, 0.94))
            cell = (front, a0, a1, y0, y1)
            if books:
                _books(canvas, cell, rng, label, tone)
                continue
            canvas.polygon(_upright(*cell), wood, label, tone * 0.9)
            y = (y0 + y1) / 2
            knob = _upright(front - side * 0.02, a1 - 0.09, a1 - 0.05, y - 0.06, y + 0.06)
            canvas.polygon(knob, STEEL, label, 0.6)


def _upright(s: float, a0: float, a1: float, low: float, high: float) -> list[Point]:
    return [(s, low, a0), (s, low, a1), (s, high, a1), (s, high, a0)]


def _books(
    canvas: Canvas,
    cell: tuple[float, float, float, float, float],
    rng: random.Random,
    label: int,
    tone: float,
) -> None:
    s, a0, a1, low, high = cell
    canvas.polygon(_upright(*cell), (45, 50, 55), label, tone)
    a = a0
    while a < a1 - 0.04:
        wide = rng.uniform(0.03, 0.09)
        ink = (rng.uniform(40, 190), rng.uniform(40, 190), rng.uniform(40, 190))
        top = low + (high - low) * rng.uniform(0.65, 0.95)
        canvas.polygon(_upright(s, a, min(a + wide, a1), low, top), ink, label, tone)
        a += wide + 0.005


def draw_table(canvas: Canvas, frame: Frame, size: Point, seed: int, label: int) -> None:
    """Draw a table `size` = (across, tall, long)."""
    rng = random.Random(seed)
    wood: Colour = rng.choice(WOODS)
    legs: Colour = rng.choice((wood, (60, 62, 64), STEEL))
    across, tall, long = size
    feet = [
        (x, 0.0, a, 0.06, tall - 0.05, 0.06)
        for a in (long - 0.09, 0.03)
        for x in (-across / 2 + 0.06, across / 2 - 0.06)
    ]
    draw_boxes(canvas, frame, feet, legs, label)
    draw_box(canvas, frame, (across, 0.05, long), tall - 0.05, wood, label)
    if rng.random() < 0.5:
        z = frame.z + long * rng.uniform(0.3, 0.7)
        screen: Colour = (60, 55, 50)
        draw_box(canvas, Frame(frame.s, z), (0.4, 0.28, 0.04), tall + 0.02, screen, label)


def draw_chair(canvas: Canvas, frame: Frame, seed: int, label: int) -> None:
    """Draw a chair centred on the frame's origin; its back is at the near end of its turn."""
    rng = random.Random(seed)
    seat: Colour = rng.choice(
        (
            (150, 80, 50),
            (60, 60, 160),
            (70, 70, 75),
            (80, 120, 170),
            (90, 130, 70),
            (185, 188, 190),
            (60, 90, 120),
        )
    )
    legs: Colour = rng.choice((STEEL, (50, 50, 52), (60, 90, 125)))
    half, high = 0.22, rng.uniform(0.42, 0.48)
    feet = [
        (x, 0.0, along, 0.035, high, 0.035)
        for x in (-half + 0.02, half - 0.02)
        for along in (-half, half - 0.035)
    ]
    cushion = (0.0, high, -half, 2 * half, 0.06, 2 * half)
    low = high + rng.choice((0.06, 0.16))
    back = (0.0, low, -half - 0.03, 2 * half, high + 0.48 - low, 0.05)
    posts = [(x, high, -half - 0.01, 0.03, 0.3, 0.03) for x in (-half + 0.03, half - 0.03)]
    draw_boxes(canvas, frame, [*feet, *posts], legs, label)
    middle = canvas.view(frame.place(0, high, 0))[2]
    parts = [cushion, back]
    if canvas.view(frame.place(0, high, -half))[2] > middle:
        parts.reverse()
    for part in parts:
        draw_boxes(canvas, frame, [part], seat, label)


def draw_sofa(canvas: Canvas, frame: Frame, size: Point, seed: int, label: int, side: int) -> None:
    """Draw a sofa `size` = (deep, tall, long) with its back to the wall at `side`."""
    rng = random.Random(seed)
    cloth: Colour = rng.choice(
        ((60, 60, 65), (50, 70, 110), (130, 90, 60), (90, 110, 120), (60, 60, 150), (150, 155, 160))
    )
    deep, tall, long = size
    draw_box(
        canvas,
        Frame(frame.s + side * (deep / 2 - 0.12), frame.z),
        (0.24, tall, long),
        0.0,
        cloth,
        label,
    )
    draw_box(canvas, Frame(frame.s, frame.z + long - 0.2), (deep, 0.6, 0.2), 0.0, cloth, label)
    count = max(1, round(long / 0.7))
    step = (long - 0.4) / count
    for k in reversed(range(count)):
        z = frame.z + 0.2 + k * step
        draw_box(
            canvas,
            Frame(frame.s - side * 0.1, z),
            (deep - 0.2, 0.42, step - 0.03),
            0.02,
            cloth,
            label,
        )
    draw_box(canvas, Frame(frame.s, frame.z), (deep, 0.6, 0.2), 0.0, cloth, label)


def draw_vending_machine(
    canvas: Canvas, frame: Frame, size: Point, seed: int, label: int, side: int
) -> None:
    """Draw a vending machine `size` = (deep, tall, long) against the wall at `side`."""
    rng = random.Random(seed)
    paint: Colour = rng.choice(((40, 40, 180), (150, 80, 40), (50, 50, 52), (60, 130, 70)))
    deep, tall, long = size
    draw_box(canvas, frame, size, 0.0, paint, label)
    front = frame.s - side * (deep / 2 + 0.01)

    def plate(a0: float, a1: float, y0: float, y1: float, ink: Colour, tone: float) -> None:
        z = frame.z
        points = [
            (front, y0, z + a0),
            (front, y0, z + a1),
            (front, y1, z + a1),
            (front, y1, z + a0),
        ]
        canvas.polygon(points, ink, label, tone)

    plate(0.08, long * 0.7, 0.55, tall - 0.12, (235, 230, 215), 1.0)
    for row in range(4):
        for column in range(5):
            ink = (rng.uniform(30, 230), rng.uniform(30, 230), rng.uniform(30, 230))
            a, y = 0.11 + column * (long * 0.7 - 0.16) / 5, 0.6 + row * 0.28
            plate(a, a + 0.08, y, y + 0.19, ink, 1.0)
    plate(long * 0.76, long * 0.92, 0.9, 1.4, (60, 60, 60), 1.0)
    plate(0.1, long * 0.7, 0.18, 0.4, (35, 35, 35), 1.0)


def draw_pillar(canvas: Canvas, s: float, z: float, seed: int, label: int, top: float) -> None:
    """Draw a round or square pillar from floor to ceiling."""
    rng = random.Random(seed)
    stone: Colour = rng.choice(((205, 212, 216), (170, 190, 205), (150, 155, 158), (225, 228, 228)))
    half = rng.uniform(0.2, 0.38)
    if rng.random() < 0.5:
        draw_box(canvas, Frame(s, z - half), (2 * half, top, 2 * half), 0.0, stone, label)
        draw_box(
            canvas,
            Frame(s, z - half - 0.02),
            (2 * half + 0.04, 0.15, 2 * half + 0.04),
            0.0,
            (110, 112, 115),
            label,
        )
        return
    strips = 9
    for k in range(strips):
        x0, x1 = -1 + 2 * k / strips, -1 + 2 * (k + 1) / strips
        mix = (x0 + x1) / 2
        tone = canvas.light.left * (1 - mix) / 2 + canvas.light.right * (1 + mix) / 2
        tone *= 1.05 - 0.35 * mix * mix
        points = [
            (s + half * x0, 0, z),
            (s + half * x1, 0, z),
            (s + half * x1, top, z),
            (s + half * x0, top, z),
        ]
        canvas.polygon(points, stone, label, tone)
        skirt = [(x * 1.01 - s * 0.01, y * 0.15 / top, a - 0.01) for x, y, a in points]
        canvas.polygon(skirt, (120, 122, 125), label, tone)


def draw_stairs(canvas: Canvas, s: float, z: float, seed: int, label: int) -> None:
    """Draw a flight of steps that climbs away from the camera."""
    rng = random.Random(seed)
    stone: Colour = rng.choice(((180, 184, 186), (140, 150, 158), (110, 135, 165)))
    wide, steps = rng.uniform(1.2, 1.8), rng.randint(5, 9)
    for k in reversed(range(steps)):
        frame = Frame(s, z + 0.28 * k)
        draw_box(canvas, frame, (wide, 0.17 * (k + 1), 0.29), 0.0, stone, label)


def draw_railing(canvas: Canvas, s: float, z: float, seed: int, label: int, long: float) -> None:
    """Draw a railing along the hall."""
    rng = random.Random(seed)
    ink: Colour = rng.choice((STEEL, (50, 52, 54), (60, 95, 140), (70, 75, 80)))
    bars = rng.random() < 0.6
    for y in (1.0, 0.12) if bars else (1.0, 0.7, 0.4):
        canvas.line((s, y, z), (s, y, z + long), 0.05, ink, label)
    step = 0.14 if bars else 1.0
    for k in range(int(long / step) + 1):
        canvas.line(
            (s, 0, z + k * step), (s, 1.0, z + k * step), 0.025 if bars else 0.05, ink, label
        )


def draw_rug(canvas: Canvas, s: float, z: float, seed: int, label: int) -> None:
    """Draw a rug with a border and stripes, flat on the floor."""
    rng = random.Random(seed)
    half, long = rng.uniform(0.5, 1.0), rng.uniform(1.5, 3.0)
    for inset in (0.0, 0.12, 0.24):
        ink = (rng.uniform(40, 150), rng.uniform(40, 150), rng.uniform(60, 190))
        w, z0, z1 = half - inset, z + inset, z + long - inset
        canvas.polygon([(s - w, 0, z0), (s + w, 0, z0), (s + w, 0, z1), (s - w, 0, z1)], ink, label)
