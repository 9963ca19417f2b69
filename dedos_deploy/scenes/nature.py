"""Trees, bushes, potted plants and people: soft shapes that face the camera."""

from __future__ import annotations

import math
import random

import numpy as np

from dedos_deploy.scenes.canvas import Canvas, Colour, Point

LEAVES: tuple[Colour, ...] = (
    (45, 95, 60),
    (40, 80, 45),
    (60, 120, 85),
    (35, 65, 40),
    (50, 110, 110),
    (45, 90, 130),
    (55, 105, 60),
)
SKIN: tuple[Colour, ...] = ((150, 180, 225), (120, 150, 200), (80, 110, 160), (50, 70, 105))
HAIR: tuple[Colour, ...] = ((25, 25, 30), (35, 50, 75), (60, 110, 150), (130, 130, 130))
CLOTHES: tuple[Colour, ...] = (
    (40, 40, 45), (110, 70, 40), (60, 50, 140), (200, 200, 205), (90, 120, 70),
    (60, 130, 190), (140, 120, 100), (45, 60, 95), (150, 90, 150), (70, 70, 200),
)  # fmt: skip


def draw_tree(canvas: Canvas, s: float, z: float, seed: int, label: int, height: float) -> None:
    """Draw a tree `height` metres tall: leafy, conifer or bare."""
    rng = random.Random(seed)
    kind = rng.random()
    bark: Colour = rng.choice(((45, 60, 75), (60, 75, 90), (70, 75, 80)))
    width = 0.02 * height + rng.uniform(0.05, 0.12)
    leaf = rng.choice(LEAVES)
    if kind < 0.12:
        _branches(canvas, (s, 0.0, z), (0.0, 1.0), height * 0.42, width, 5, rng, bark, label)
        return
    trunk_top = height * rng.uniform(0.35, 0.55)
    canvas.line((s, 0, z), (s + rng.uniform(-0.2, 0.2), trunk_top, z), 2 * width, bark, label)
    if kind < 0.28:
        _conifer(canvas, (s, 0.1 * height, z), height * 0.9, leaf, rng, label)
        return
    for _ in range(2):
        lean = rng.uniform(-0.18, 0.18) * height
        canvas.line((s, trunk_top * 0.8, z), (s + lean, height * 0.7, z), width, bark, label)
    radius = height * rng.uniform(0.26, 0.36)
    crown_base = height * rng.uniform(0.2, 0.36)
    _blobs(canvas, (s, (crown_base + height) / 2, z),
           (radius, (height - crown_base) / 2), leaf, rng, label)  # fmt: skip


def draw_bush(
    canvas: Canvas, s: float, z: float, seed: int, label: int, size: tuple[float, float]
) -> None:
    """Draw a bush `size` = (half width, height) in metres."""
    rng = random.Random(seed)
    half, height = size
    _blobs(canvas, (s, height * 0.45, z), (half, height * 0.55), rng.choice(LEAVES), rng, label)


def draw_plant(canvas: Canvas, s: float, z: float, seed: int, label: int) -> None:
    """Draw a potted plant as it stands in halls."""
    rng = random.Random(seed)
    pot: Colour = rng.choice(((230, 232, 235), (60, 90, 150), (60, 60, 65), (90, 140, 190)))
    tall, wide = rng.uniform(0.3, 0.6), rng.uniform(0.16, 0.26)
    leaf = rng.choice(((50, 110, 60), (40, 85, 45), (70, 140, 95), (55, 120, 100)))
    top = tall + rng.uniform(0.4, 1.1)
    canvas.line((s, tall, z), (s, tall + 0.5 * (top - tall), z), 0.05, (50, 75, 85), label)
    if rng.random() < 0.5:
        _blobs(canvas, (s, (tall + top) / 2 + 0.05, z),
               (wide * rng.uniform(1.2, 2.2), (top - tall) / 2), leaf, rng, label)  # fmt: skip
    else:
        _fronds(canvas, (s, tall, z), top - tall, leaf, rng, label)
    pot_points = ((-0.75, 0.0), (0.75, 0.0), (1.0, tall), (-1.0, tall))
    canvas.polygon([(s + wide * x, y, z) for x, y in pot_points], pot, label, 0.85)
    lit = ((-0.75, 0.0), (0.0, 0.0), (0.1, tall), (-1.0, tall))
    canvas.polygon([(s + wide * x, y, z) for x, y in lit], pot, label, canvas.light.left)


def draw_person(
    canvas: Canvas, s: float, z: float, seed: int, label: int, pose: str, phase: float = 0.0
) -> None:
    """Draw a person; pose "walk" or "ride" (seated, no ground contact), phase of the step in radians."""
    rng = random.Random(seed)
    tall = rng.uniform(1.5, 1.9) * (0.65 if rng.random() < 0.08 and pose == "walk" else 1.0)
    coat, legs = rng.choice(CLOTHES), rng.choice(CLOTHES)
    skin, hair = rng.choice(SKIN), rng.choice(HAIR)
    base = 0.35 if pose == "ride" else 0.0
    hip, neck = base + 0.5 * tall, base + 0.82 * tall
    half = rng.uniform(0.17, 0.25)
    swing = math.sin(phase + rng.uniform(0, 6.28)) * (0.25 if pose == "walk" else 0.12)
    side_view = rng.random() < 0.5
    reach = swing if side_view else swing * 0.35
    if canvas.pixels_per_metre((s, 1, z)) < 3:
        canvas.polygon(_billboard(s, z, base, half, tall), coat, label, 0.8)
        return
    shade = canvas.light.front
    skirt = rng.random() < 0.15
    for side in (-1, 1):
        foot = s + side * half * 0.45 + side * reach
        width = half * (0.55 if not skirt else 0.35)
        canvas.polygon(
            _limb((s + side * half * 0.4, hip), (foot, base + 0.03), width * 1.15, width * 0.75, z),
            legs if not skirt else skin, label, shade * (0.9 if side < 0 else 1.05),
        )  # fmt: skip
        canvas.ellipse((foot, base + 0.04, z), (0.1, 0.045), (35, 35, 40), label)
    if skirt:
        knee = base + 0.28 * tall
        canvas.polygon(
            _limb((s, hip + 0.1), (s, knee), half * 1.7, half * 2.4, z), coat, label, shade
        )
    torso = [(-0.95, hip - 0.06), (0.95, hip - 0.06), (1.05, neck - 0.06), (0.55, neck + 0.02),
             (-0.55, neck + 0.02), (-1.05, neck - 0.06)]  # fmt: skip
    if side_view:
        torso = [(0.7 * x, y) for x, y in torso]
    for side in (-1, 1):
        hand = (s + side * half * 1.25 - side * reach * 0.7, hip + 0.02)
        shoulder = (s + side * half * (0.5 if side_view else 1.0), neck - 0.08)
        canvas.polygon(_limb(shoulder, hand, 0.11, 0.08, z), coat, label, shade * 0.85)
        canvas.disc((hand[0], hand[1], z), 0.05, skin, label, shade)
    canvas.polygon([(s + half * x, y, z) for x, y in torso], coat, label, shade)
    if rng.random() < 0.3:
        bag = rng.choice(CLOTHES)
        pack = [(s + half * x, y, z) for x, y in
                ((-0.6, hip + 0.1), (0.6, hip + 0.1), (0.6, neck - 0.1), (-0.6, neck - 0.1))]  # fmt: skip
        canvas.polygon(pack, bag, label, shade)
    head = 0.068 * tall
    canvas.ellipse((s, neck + 0.5 * head, z), (head * 0.5, head), skin, label, shade * 0.9)
    middle = (s, neck + 1.45 * head, z)
    canvas.ellipse(middle, (head * 0.95, head * 1.15), hair, label, shade)
    if rng.random() < 0.55:
        face = (s, neck + 1.3 * head, z)
        canvas.ellipse(face, (head * 0.75, head * 0.9), skin, label, shade)


def _billboard(s: float, z: float, base: float, half: float, tall: float) -> list[Point]:
    return [
        (s - half, base, z), (s + half, base, z), (s + half, base + tall, z), (s - half, base + tall, z),
    ]  # fmt: skip


def _limb(
    start: tuple[float, float], end: tuple[float, float], wide: float, narrow: float, z: float
) -> list[Point]:
    return [
        (start[0] - wide / 2, start[1], z),
        (start[0] + wide / 2, start[1], z),
        (end[0] + narrow / 2, end[1], z),
        (end[0] - narrow / 2, end[1], z),
    ]


def _blobs(
    canvas: Canvas,
    centre: Point,
    radii: tuple[float, float],
    leaf: Colour,
    rng: random.Random,
    label: int,
) -> None:
    """A crown: discs inside an ellipse, dark ones below and behind, light ones towards the sun."""
    s, y, z = centre
    across, up = radii
    scale = canvas.pixels_per_metre(centre)
    if scale == 0:
        return
    count = max(5, min(44, int(across * scale * 0.9)))
    sun = 0.35 if canvas.light.left > canvas.light.right else -0.35
    canvas.ellipse(centre, (across * 0.8, up * 0.8), leaf, label, 0.5)
    for k in range(count):
        angle, reach = rng.uniform(0, 6.283), math.sqrt(rng.random()) * 0.85
        dx, dy = math.cos(angle) * reach, math.sin(angle) * reach
        light = 0.62 + 0.38 * (dy - sun * dx) + 0.18 * rng.random() + 0.2 * k / count
        size = (across + up) / 2 * rng.uniform(0.14, 0.3)
        where = (s + dx * across, y + dy * up, z)
        canvas.disc(where, size, leaf, label, light * canvas.light.top)


def _conifer(
    canvas: Canvas, base: Point, tall: float, leaf: Colour, rng: random.Random, label: int
) -> None:
    s, y, z = base
    half = tall * rng.uniform(0.16, 0.24)
    tiers = 5
    for k in range(tiers):
        low, high = k / tiers, min(1.0, (k + 1.9) / tiers)
        wide = half * (1 - 0.85 * low)
        points = [
            (s - wide, y + low * tall, z),
            (s + wide, y + low * tall, z),
            (s, y + high * tall, z),
        ]
        canvas.polygon(points, leaf, label, 0.6 + 0.06 * k)
        canvas.polygon([points[0], (s, y + low * tall, z), points[2]], leaf, label, 0.8 + 0.06 * k)


def _branches(
    canvas: Canvas,
    start: Point,
    way: tuple[float, float],
    length: float,
    width: float,
    depth: int,
    rng: random.Random,
    bark: Colour,
    label: int,
) -> None:
    end = (start[0] + way[0] * length, start[1] + way[1] * length, start[2])
    canvas.line(start, end, 2 * width, bark, label)
    if depth == 0 or width * canvas.pixels_per_metre(start) < 0.15:
        return
    for turn in (rng.uniform(-0.8, -0.2), rng.uniform(0.2, 0.8)):
        angle = math.atan2(way[1], way[0]) + turn
        turned = (math.cos(angle), math.sin(angle))
        _branches(canvas, end, turned, length * rng.uniform(0.6, 0.8), width * 0.6, depth - 1,
                  rng, bark, label)  # fmt: skip


def _fronds(
    canvas: Canvas, base: Point, tall: float, leaf: Colour, rng: random.Random, label: int
) -> None:
    s, y, z = base
    count = rng.randint(7, 12)
    blades = []
    for _ in range(count):
        lean = rng.uniform(-0.6, 0.6) * tall
        tip = rng.uniform(0.55, 1.0) * tall
        wide = 0.05 + 0.03 * rng.random()
        blades.append([
            (s, y, z), (s + lean * 0.5 - wide, y + tip * 0.75, z),
            (s + lean, y + tip, z), (s + lean * 0.5 + wide, y + tip * 0.65, z),
        ])  # fmt: skip
    for k, blade in enumerate(blades):
        points = np.array([blade], np.float32)
        canvas.polygons(points, leaf, label, 0.65 + 0.5 * k / count)
