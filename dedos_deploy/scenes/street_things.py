"""What stands along a street: buildings, walls, fences, poles, lights, signs, benches, bins."""

from __future__ import annotations

import math
import random

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.scenes.billboard import Billboard
from dedos_deploy.scenes.canvas import Canvas, Colour
from dedos_deploy.scenes.solids import Frame, draw_boxes

_Array = NDArray[np.float64]

FACADES: tuple[Colour, ...] = (
    (75, 90, 140),
    (95, 115, 165),
    (170, 190, 205),
    (200, 205, 210),
    (150, 155, 160),
    (120, 150, 185),
    (130, 120, 110),
    (90, 100, 120),
    (180, 175, 150),
    (140, 170, 200),
)
METAL: Colour = (95, 97, 98)
_RED, _BLUE, _WHITE, _YELLOW = (45, 40, 200), (175, 90, 30), (235, 235, 235), (60, 205, 245)

# signs as layers of regular polygons: corners, share of the radius, first corner's angle, colour
_SIGNS: tuple[tuple[tuple[int, float, float, Colour], ...], ...] = (
    ((14, 1.0, 0.0, _RED), (14, 0.72, 0.0, _WHITE)),
    ((3, 1.15, math.pi / 2, _RED), (3, 0.72, math.pi / 2, _WHITE)),
    ((8, 1.0, math.pi / 8, _RED), (4, 0.4, 0.0, _WHITE)),
    ((14, 1.0, 0.0, _BLUE), (3, 0.5, math.pi / 2, _WHITE)),
    ((4, 1.1, 0.0, _YELLOW), (4, 0.5, 0.0, (40, 45, 45))),
    ((14, 1.0, 0.0, _RED), (4, 0.6, 0.0, _WHITE)),
)


def draw_building(
    canvas: Canvas,
    s: float,
    z: float,
    seed: int,
    label: int,
    size: tuple[float, float, float],
    *,
    hidden: float = 0.0,
) -> None:
    """Draw a building whose street corner nearest the camera stands at (s, z).

    size: (depth away from the street, height, length along it) in metres;
    hidden: height up to which the neighbour before it hides its front.
    """
    rng = random.Random(seed)
    depth, height, length = size
    side = 1 if s > 0 else -1
    paint, glass = rng.choice(FACADES), rng.choice(((80, 65, 55), (120, 105, 90), (55, 50, 48)))
    frame = Frame(s + side * depth / 2, z)
    # short pieces follow the bend of the street
    away = z - canvas.camera.z
    pieces = 3 if canvas.camera.bend_m and away < 60 else 1
    for part in reversed(range(pieces)):
        piece = Frame(frame.s, z + length * part / pieces)
        draw_boxes(canvas, piece, [(0, 0, 0, depth, height, length / pieces + 0.05)], paint, label)
    if height < 8 and rng.random() < 0.75:
        _gable(canvas, s, z, (side * depth, height, length), rng, label)
    tone_side = canvas.light.left if side > 0 else canvas.light.right
    floor = rng.uniform(2.8, 3.6)
    first = floor * (1.15 if height > 7 else 0.35)
    frames: Colour = rng.choice(((215, 220, 222), (90, 90, 90), (60, 80, 100)))
    pane = (rng.uniform(1.0, 1.7), rng.uniform(1.3, 1.9))
    gap = pane[0] + rng.uniform(0.7, 1.6)
    rows = _spread(first + 0.7, int((height - first - 0.4) / floor), floor, pane[1])
    along = _centred(length, gap, pane[0])
    across = _centred(min(depth, 9.0) if away < 60 else 0.0, gap, pane[0])
    walls = (
        (_foot(s - side * 0.03, z + along), rows, tone_side),
        (_foot(s + side * across, z - 0.03), rows[:, rows[1] > hidden], canvas.light.front),
    )
    for grown, ink, tone in ((0.12, frames, 0.9), (0.0, glass, 1.0)):
        if grown and away > 20:
            continue
        for foot, rows, light in walls:
            if foot.size and rows.size:
                edge = np.array([[-grown], [grown]])
                canvas.panes(_widened(foot, grown), rows + edge, ink, tone * light)
    if height > 7 and away < 45:
        _ground_floor(canvas, s, z, side, length, first, rng, label)


def _ground_floor(
    canvas: Canvas,
    s: float,
    z: float,
    side: int,
    length: float,
    top: float,
    rng: random.Random,
    label: int,
) -> None:
    """Shop fronts, doors and a ledge under the first row of windows."""
    shop = rng.random() < 0.6
    sign: Colour = rng.choice(
        ((60, 60, 170), (150, 90, 40), (70, 130, 60), (60, 150, 210), (50, 50, 50))
    )
    out, count = s - side * 0.05, max(2, int(length / 4))
    step = length / count
    for k in range(count):
        a0, a1 = z + k * step + 0.4, z + (k + 1) * step - 0.4
        up = top - 1.0 if shop else 2.1
        if not shop and k % 3:
            continue
        end = a1 if shop else a0 + 1.1
        ink: Colour = (85, 75, 65) if shop else (50, 60, 80)
        canvas.polygon(
            [
                (out, 0.3 if shop else 0.0, a0),
                (out, 0.3 if shop else 0.0, end),
                (out, up, end),
                (out, up, a0),
            ],
            ink,
            label,
            0.9,
        )
        if shop:
            canvas.polygon(
                [
                    (out, top - 0.85, a0),
                    (out, top - 0.85, a1),
                    (out, top - 0.2, a1),
                    (out, top - 0.2, a0),
                ],
                sign,
                label,
                canvas.light.front,
            )
    ledge = [
        (out, top - 0.12, z),
        (out, top - 0.12, z + length),
        (out, top + 0.08, z + length),
        (out, top + 0.08, z),
    ]
    canvas.polygon(ledge, (190, 195, 198), label, canvas.light.front)


def _centred(length: float, gap: float, wide: float) -> _Array:
    """Starts and ends [2, C] of the windows that fit on a wall, every `gap` metres."""
    columns = int((length - 0.6) / gap)
    return _spread((length - columns * gap) / 2 + (gap - wide) / 2, columns, gap, wide)


def _spread(start: float, count: int, step: float, size: float) -> _Array:
    """Starts and ends [2, count] of equal pieces, every `step` metres from `start`."""
    ends: _Array = start + step * np.arange(max(0, count)) + np.array([[0.0], [size]])
    return ends


def _foot(s: _Array | float, z: _Array | float) -> _Array:
    """Return where columns start and end on the ground, [2, C, 2]."""
    foot = np.empty((*(z if isinstance(z, np.ndarray) else np.asarray(s)).shape, 2))
    foot[..., 0], foot[..., 1] = s, z
    return foot


def _widened(foot: _Array, by: float) -> _Array:
    """Move the starts of columns [2, C, 2] back and their ends on by `by` metres."""
    if not by:
        return foot
    step = foot[1, :1] - foot[0, :1]
    away = step * (by / float(np.abs(step).sum()))
    return np.stack([foot[0] - away, foot[1] + away])


def _gable(
    canvas: Canvas,
    s: float,
    z: float,
    size: tuple[float, float, float],
    rng: random.Random,
    label: int,
) -> None:
    depth, height, length = size
    tiles: Colour = rng.choice(((60, 70, 125), (70, 75, 85), (55, 60, 70), (70, 90, 140)))
    ridge = height + rng.uniform(1.5, 3.0)
    middle, eave = s + depth / 2, 0.3 * math.copysign(1, -depth)
    wall = [(s, height, z), (s + depth, height, z), (middle, ridge, z)]
    canvas.polygon(wall, rng.choice(FACADES), label, canvas.light.front)
    slope = [
        (s + eave, height - 0.15, z - 0.3),
        (s + eave, height - 0.15, z + length),
        (middle, ridge, z + length),
        (middle, ridge, z - 0.3),
    ]
    canvas.polygon(slope, tiles, label, canvas.light.top * 0.9)


def draw_barrier(
    canvas: Canvas, s: float, z: float, seed: int, label: int, size: tuple[float, float], kind: str
) -> None:
    """Draw a piece of wall or fence along the street; size: (height, length); kind by material."""
    rng = random.Random(seed)
    height, length = size
    tone = canvas.light.left if s > 0 else canvas.light.right

    def strip(low: float, high: float, colour: Colour, factor: float) -> None:
        canvas.polygon(
            [(s, low, z), (s, low, z + length), (s, high, z + length), (s, high, z)],
            colour,
            label,
            factor * tone,
        )

    if kind in ("brick", "plaster"):
        paint: Colour = (85, 100, 150) if kind == "brick" else (175, 185, 190)
        strip(0.0, height, paint, 1.0)
        if canvas.camera.z > z - 30:  # the coping is thinner than a pixel farther away
            strip(height - 0.12, height, (160, 165, 168), 1.1)
        return
    if kind == "planks":
        strip(0.05, height, (75, 110, 150), 0.9)
        posts = z + np.arange(0.0, length, 0.3)
    elif kind == "guardrail":
        strip(0.45, 0.78, (175, 178, 180), 1.0)
        strip(0.57, 0.63, (110, 112, 115), 1.0)
        posts = z + np.arange(0.0, length, 2.0)
    else:  # railing
        strip(height - 0.08, height, METAL, 0.8)
        strip(0.15, 0.22, METAL, 0.8)
        posts = z + np.arange(0.0, length, 0.25 if canvas.camera.z > z - 14 else 0.6)
    half = 0.035 if kind != "planks" else 0.02
    top = height if kind != "guardrail" else 0.6
    ink: Colour = METAL if kind != "planks" else (55, 80, 110)
    if rng.random() < 0.3 and kind == "railing":
        ink = (55, 85, 50)
    foot = _foot(s, posts + np.array([[-half], [half]]))
    canvas.panes(foot, np.array([[0.0], [top]]), ink, tone, label=label)


def draw_lamp_post(canvas: Canvas, s: float, z: float, seed: int, label: int) -> None:
    """Draw a street lamp or plain mast."""
    rng = random.Random(seed)
    board = Billboard(canvas, s, z, reach=2.5)
    tall = rng.uniform(4.5, 8.5)
    ink: Colour = rng.choice((METAL, (60, 62, 62), (140, 142, 143), (50, 70, 55)))
    board.line((0, 0), (0, tall), rng.uniform(0.12, 0.2), ink, label)
    if rng.random() < 0.75:
        arm = -math.copysign(rng.uniform(0.8, 1.8), s)
        board.line((0, tall), (arm, tall + 0.25), 0.1, ink, label)
        head: Colour = (190, 195, 196)
        board.line((arm * 0.75, tall + 0.2), (arm * 1.2, tall + 0.28), 0.22, head, label)


def draw_traffic_light(
    canvas: Canvas, s: float, z: float, seed: int, labels: tuple[int, int]
) -> None:
    """Draw signal heads on a mast; labels: ids of (light, pole)."""
    rng = random.Random(seed)
    board = Billboard(canvas, s, z, reach=4.0)
    lit = rng.randrange(3)
    mast: Colour = (70, 72, 72)
    heads = [(0.0, 2.5)]
    board.line((0, 0), (0, 3.4), 0.14, mast, labels[1])
    if rng.random() < 0.5:
        arm = -math.copysign(rng.uniform(2.5, 3.5), s)
        board.line((0, 0), (0, 5.4), 0.16, mast, labels[1])
        board.line((0, 5.4), (arm, 5.5), 0.12, mast, labels[1])
        heads.append((arm, 4.75))
    for x, base in heads:
        board.polygon(_rectangle(x - 0.22, base, x + 0.22, base + 1.1), (32, 34, 34), labels[0])
        for k, on in enumerate(((90, 230, 90), (60, 190, 250), (50, 50, 245))):
            ink: Colour = on if k == lit else (on[0] * 0.2, on[1] * 0.2, on[2] * 0.2)
            board.ellipse((x, base + 0.22 + 0.33 * k), (0.13, 0.13), ink, labels[0], 1.1)


def _rectangle(
    left: float, low: float, right: float, high: float
) -> tuple[tuple[float, float], ...]:
    return (left, low), (right, low), (right, high), (left, high)


def draw_sign(canvas: Canvas, s: float, z: float, seed: int, labels: tuple[int, int]) -> None:
    """Draw a traffic sign on a pole; labels: ids of (sign, pole)."""
    rng = random.Random(seed)
    board = Billboard(canvas, s, z, reach=1.5)
    if not board.scale:
        return
    tall = rng.uniform(2.0, 2.8)
    board.line((0, 0), (0, tall), 0.08, (130, 132, 133), labels[1])
    kind, radius = rng.randrange(len(_SIGNS) + 1), rng.uniform(0.32, 0.45)
    tone = canvas.light.front + 0.1
    if kind < len(_SIGNS):
        for corners, size, start, ink in _SIGNS[kind]:
            turns = (start + 2 * math.pi * k / corners for k in range(corners))
            points = [
                (size * radius * math.cos(t), tall + size * radius * math.sin(t)) for t in turns
            ]
            board.polygon(points, ink, labels[0], tone)
        return
    wide, up = rng.uniform(0.5, 1.2), rng.uniform(0.3, 0.6)
    ink = rng.choice((_BLUE, (60, 110, 40), _WHITE))
    for grow, paint in ((0.06, _WHITE), (0.0, ink)):
        outline = _rectangle(-wide - grow, tall - up - grow, wide + grow, tall + up + grow)
        board.polygon(outline, paint, labels[0], tone)
    text = _WHITE if ink != _WHITE else (60, 60, 60)
    for y, end in ((-0.4, 0.4), (0.2, 0.7)):
        board.line((-wide * 0.7, tall + y * up), (wide * end, tall + y * up), 0.09, text, labels[0])


def draw_bench(canvas: Canvas, s: float, z: float, seed: int, label: int) -> None:
    """Draw a bench that looks towards the street."""
    rng = random.Random(seed)
    wood: Colour = rng.choice(((60, 95, 140), (70, 80, 90), (60, 100, 60)))
    side, frame = (1 if s > 0 else -1), Frame(s, z)
    legs = [(0.0, 0.0, along, 0.45, 0.42, 0.08) for along in (0.1, 1.45)]
    draw_boxes(canvas, frame, legs, METAL, label)
    seat = [(0.0, 0.42, 0.0, 0.5, 0.07, 1.6), (side * 0.24, 0.5, 0.0, 0.06, 0.45, 1.6)]
    draw_boxes(canvas, frame, seat, wood, label)


def draw_bin(canvas: Canvas, s: float, z: float, seed: int, label: int) -> None:
    """Draw a trash can, round or square."""
    rng = random.Random(seed)
    ink: Colour = rng.choice(
        ((60, 100, 55), (60, 60, 60), (140, 90, 50), (50, 110, 200), (120, 122, 122))
    )
    wide, tall = rng.uniform(0.18, 0.3), rng.uniform(0.5, 1.05)
    if rng.random() < 0.5:
        frame = Frame(s, z)
        draw_boxes(canvas, frame, [(0, 0, 0, 2 * wide, tall, 2 * wide)], ink, label)
        lid = [(0, tall, -0.02, 2 * wide + 0.05, 0.07, 2 * wide + 0.05)]
        draw_boxes(canvas, frame, lid, (45, 45, 45), label)
        return
    board = Billboard(canvas, s, z, reach=0.5)
    light = canvas.light
    body = ((-wide * 0.85, 0), (wide * 0.85, 0), (wide, tall), (-wide, tall))
    board.polygon(body, ink, label, light.front)
    lit = ((-wide * 0.85, 0), (-wide * 0.2, 0), (-wide * 0.25, tall), (-wide, tall))
    board.polygon(lit, ink, label, light.left)
    board.ellipse((0, tall), (wide, 0.06), (50, 50, 50), label)
