"""Trees, bushes, potted plants and people: soft shapes that face the camera."""

from __future__ import annotations

import math
import random

from dedos_deploy.scenes.billboard import Billboard
from dedos_deploy.scenes.canvas import Canvas, Colour
from dedos_deploy.scenes.sprites import VARIANTS, Foliage, sprite

LEAVES: tuple[Colour, ...] = (
    (45, 95, 60),
    (40, 80, 45),
    (60, 120, 85),
    (35, 65, 40),
    (50, 110, 110),
    (45, 90, 130),
    (55, 105, 60),
    (40, 75, 70),
    (55, 125, 95),
)
SKIN: tuple[Colour, ...] = ((150, 180, 225), (120, 150, 200), (80, 110, 160), (50, 70, 105))
HAIR: tuple[Colour, ...] = ((25, 25, 30), (35, 50, 75), (60, 110, 150), (130, 130, 130))
CLOTHES: tuple[Colour, ...] = (
    (40, 40, 45),
    (110, 70, 40),
    (60, 50, 140),
    (200, 200, 205),
    (90, 120, 70),
    (60, 130, 190),
    (140, 120, 100),
    (45, 60, 95),
    (150, 90, 150),
    (70, 70, 200),
    (65, 60, 55),
    (95, 75, 55),
)


def draw_tree(canvas: Canvas, s: float, z: float, seed: int, label: int, height: float) -> None:
    """Draw a tree `height` metres tall: leafy, conifer or bare."""
    rng = random.Random(seed)
    board = Billboard(canvas, s, z, reach=0.5 * height)
    if not board.scale:
        return
    kind, variant = rng.random(), rng.randrange(VARIANTS)
    bark: Colour = rng.choice(((45, 60, 75), (60, 75, 90), (70, 75, 80)))
    leaf = rng.choice(LEAVES)
    mirrored = canvas.light.left < canvas.light.right
    size_px = height * board.scale
    if kind < 0.12:
        box = (-0.45 * height, 0.0, 0.45 * height, height)
        board.stamp(sprite("bare", variant, size_px), box, bark, label, mirrored=mirrored)
        return
    width = 0.02 * height + rng.uniform(0.05, 0.12)
    lean = rng.uniform(-0.04, 0.04) * height
    top = 0.6 * height
    outline = (
        (-width * 1.3, 0.0),
        (width * 1.3, 0.0),
        (lean + width * 0.6, top),
        (lean - width * 0.6, top),
    )
    board.polygon(outline, bark, label, 0.9)
    if width * board.scale > 0.5:  # else the lit half of the trunk is thinner than half a pixel
        lit = 1.5 * width if mirrored else -0.3 * width
        high = lean + lit * 0.5
        lit_side = ((lit - width, 0.0), (lit, 0.0), (high, top), (high - width * 0.5, top))
        board.polygon(lit_side, bark, label, 1.15)
    half = height * rng.uniform(0.32, 0.5)
    foliage: Foliage = "conifer" if kind < 0.26 else "crown"
    low = height * (0.06 if foliage == "conifer" else rng.uniform(0.16, 0.34))
    box = (lean - half, low, lean + half, height)
    board.stamp(
        sprite(foliage, variant, size_px),
        box,
        leaf,
        label,
        tone=1.25 * canvas.light.top,
        mirrored=mirrored,
    )


def draw_bush(
    canvas: Canvas, s: float, z: float, seed: int, label: int, size: tuple[float, float]
) -> None:
    """Draw a bush `size` = (half width, height) in metres."""
    rng = random.Random(seed)
    board = Billboard(canvas, s, z, reach=size[0])
    half, height = size[0] * 1.5, size[1] * 1.25
    look = sprite("bush", rng.randrange(VARIANTS), height * board.scale)
    board.stamp(
        look,
        (-half, -0.12 * height, half, height),
        rng.choice(LEAVES),
        label,
        tone=1.2 * canvas.light.top,
        mirrored=canvas.light.left < canvas.light.right,
    )


def draw_plant(canvas: Canvas, s: float, z: float, seed: int, label: int) -> None:
    """Draw a potted plant as it stands in halls."""
    rng = random.Random(seed)
    board = Billboard(canvas, s, z, reach=1.0)
    if not board.scale:
        return
    pot: Colour = rng.choice(((230, 232, 235), (60, 90, 150), (60, 60, 65), (90, 140, 190)))
    tall, wide = rng.uniform(0.3, 0.6), rng.uniform(0.16, 0.26)
    leaf: Colour = rng.choice(((50, 110, 60), (40, 85, 45), (70, 140, 95), (55, 120, 100)))
    top = tall + rng.uniform(0.4, 1.1)
    board.line((0, tall), (0, tall + 0.5 * (top - tall)), 0.05, (50, 75, 85), label)
    if rng.random() < 0.5:
        half = wide * rng.uniform(1.6, 2.6)
        look = sprite("crown", rng.randrange(VARIANTS), (top - tall) * board.scale)
        board.stamp(look, (-half, tall - 0.12, half, top + 0.1), leaf, label, tone=1.3)
    else:
        _fronds(board, tall, top - tall, leaf, rng, label)
    outline = ((-0.75 * wide, 0.0), (0.75 * wide, 0.0), (wide, tall), (-wide, tall))
    board.polygon(outline, pot, label, 0.85)
    lit = ((-0.75 * wide, 0.0), (-0.1 * wide, 0.0), (0.0, tall), (-wide, tall))
    board.polygon(lit, pot, label, canvas.light.left)
    board.polygon(
        (
            (-1.08 * wide, tall - 0.05),
            (1.08 * wide, tall - 0.05),
            (1.08 * wide, tall),
            (-1.08 * wide, tall),
        ),
        pot,
        label,
        0.95,
    )


def _fronds(
    board: Billboard, base: float, tall: float, leaf: Colour, rng: random.Random, label: int
) -> None:
    count = rng.randint(9, 15)
    for nth in range(count):
        lean, tip = rng.uniform(-0.6, 0.6) * tall, rng.uniform(0.5, 1.0) * tall
        wide = 0.03 + 0.04 * rng.random()
        blade = (
            (0.0, base),
            (lean * 0.45 - wide, base + tip * 0.75),
            (lean, base + tip * 0.95),
            (lean * 0.45 + wide, base + tip * 0.65),
        )
        board.polygon(blade, leaf, label, 0.55 + 0.75 * nth / count)


def draw_walker(canvas: Canvas, s: float, z: float, seed: int, label: int) -> None:
    """Draw a person who walks as the canvas's time goes on."""
    draw_person(canvas, s, z, seed, label, "walk", phase=5.0 * canvas.time_s)


def draw_person(
    canvas: Canvas, s: float, z: float, seed: int, label: int, pose: str, phase: float = 0.0
) -> None:
    """Draw a person; pose "walk" or "ride" (seated), phase: of the step in radians."""
    rng = random.Random(seed)
    board = Billboard(canvas, s, z, reach=0.8)
    if not board.scale:
        return
    child = rng.random() < 0.08 and pose == "walk"
    tall = rng.uniform(1.5, 1.9) * (0.65 if child else 1.0)
    coat, legs = rng.choice(CLOTHES), rng.choice(CLOTHES)
    skin, hair = rng.choice(SKIN), rng.choice(HAIR)
    base = 0.35 if pose == "ride" else 0.0
    half = rng.uniform(0.105, 0.145) * tall
    tone = canvas.light.front + 0.08
    if board.scale < 3.5:
        outline = ((-half, base), (half, base), (half, base + tall), (-half, base + tall))
        board.polygon(outline, coat, label, 0.8)
        return
    side_view = rng.random() < 0.5
    swing = math.sin(phase + rng.uniform(0, 6.28)) * (0.1 if pose == "ride" else 0.15) * tall
    reach = swing if side_view else 0.25 * swing
    hip, neck = base + 0.5 * tall, base + 0.83 * tall
    _legs(
        board, (base, hip), (half, reach), legs, skin, tall, rng.random() < 0.15, coat, label, tone
    )
    _torso(board, (hip, neck), (half, reach), coat, skin, side_view, label, tone)
    if rng.random() < 0.3:
        pack = (
            (-0.6 * half, hip + 0.1),
            (0.6 * half, hip + 0.1),
            (0.55 * half, neck - 0.08),
            (-0.55 * half, neck - 0.08),
        )
        board.polygon(pack, rng.choice(CLOTHES), label, tone)
    _head(board, neck, tall, skin, hair, rng, label, tone)


def _legs(
    board: Billboard,
    level: tuple[float, float],
    stance: tuple[float, float],
    legs: Colour,
    skin: Colour,
    tall: float,
    skirt: bool,
    coat: Colour,
    label: int,
    tone: float,
) -> None:
    (base, hip), (half, reach) = level, stance
    for side in (-1, 1):
        top, foot = side * half * 0.42, side * half * 0.42 + side * reach
        knee = (top + foot) / 2 + 0.03 * tall * (1 if reach > 0 else -1)
        middle = base + 0.27 * tall
        wide = half * (0.34 if skirt else 0.5)
        shade = tone * (0.82 if side < 0 else 1.0)
        ink = skin if skirt else legs
        board.polygon(
            (
                (top - wide, hip + 0.02),
                (top + wide, hip + 0.02),
                (knee + wide * 0.75, middle),
                (knee - wide * 0.75, middle),
            ),
            ink,
            label,
            shade,
        )
        board.polygon(
            (
                (knee - wide * 0.75, middle),
                (knee + wide * 0.75, middle),
                (foot + wide * 0.5, base + 0.04),
                (foot - wide * 0.5, base + 0.04),
            ),
            ink,
            label,
            shade * 0.95,
        )
        board.ellipse((foot + 0.02, base + 0.035), (0.1, 0.042), (35, 35, 40), label)
    if skirt:
        low = base + 0.26 * tall
        board.polygon(
            ((-half, hip + 0.1), (half, hip + 0.1), (1.25 * half, low), (-1.25 * half, low)),
            coat,
            label,
            tone,
        )


def _torso(
    board: Billboard,
    level: tuple[float, float],
    stance: tuple[float, float],
    coat: Colour,
    skin: Colour,
    side_view: bool,
    label: int,
    tone: float,
) -> None:
    (hip, neck), (half, reach) = level, stance
    wide = 0.72 if side_view else 1.0
    for side in (-1, 1):
        shoulder = side * half * (0.3 if side_view else 1.0)
        hand = shoulder + side * half * 0.2 - side * reach * 0.8
        board.polygon(
            (
                (shoulder - 0.06, neck - 0.05),
                (shoulder + 0.06, neck - 0.05),
                (hand + 0.042, hip + 0.02),
                (hand - 0.042, hip + 0.02),
            ),
            coat,
            label,
            tone * 0.8,
        )
        board.ellipse((hand, hip), (0.045, 0.055), skin, label, tone)
    outline = (
        (-0.92 * half * wide, hip - 0.06),
        (0.92 * half * wide, hip - 0.06),
        (1.08 * half * wide, neck - 0.09),
        (0.5 * half, neck),
        (-0.5 * half, neck),
        (-1.08 * half * wide, neck - 0.09),
    )
    board.polygon(outline, coat, label, tone)
    shade = (
        (0.15 * half, hip - 0.06),
        (0.92 * half * wide, hip - 0.06),
        (1.08 * half * wide, neck - 0.09),
        (0.5 * half, neck),
    )
    board.polygon(shade, coat, label, tone * 0.85)


def _head(
    board: Billboard,
    neck: float,
    tall: float,
    skin: Colour,
    hair: Colour,
    rng: random.Random,
    label: int,
    tone: float,
) -> None:
    size = 0.066 * tall
    board.ellipse((0, neck + 0.4 * size), (size * 0.48, size * 0.8), skin, label, tone * 0.85)
    board.ellipse((0, neck + 1.35 * size), (size * 0.88, size * 1.12), hair, label, tone)
    if rng.random() < 0.25:
        board.ellipse((0, neck + 0.8 * size), (size * 0.95, size * 1.2), hair, label, tone)
    if rng.random() < 0.6:
        board.ellipse(
            (0.08 * size, neck + 1.15 * size), (size * 0.7, size * 0.85), skin, label, tone
        )
