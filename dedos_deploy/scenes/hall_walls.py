"""What hangs on or breaks the walls of a hall: doors, windows, pictures, clocks."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from dedos_deploy.scenes.canvas import Canvas, Colour, Point
from dedos_deploy.scenes.hall_things import STEEL, WOODS


@dataclass(frozen=True)
class Panel:
    """A strip of wall that starts at (s, z) and runs `long` metres along (ds, dz)."""

    s: float
    z: float
    ds: float
    dz: float
    long: float
    inward: int
    """Sign of the direction into the room for side walls, 0 for an end wall."""

    def point(self, a: float, y: float) -> Point:
        """Return the point `a` metres along the strip, `y` above the floor."""
        return self.s + a * self.ds, y, self.z + a * self.dz

    def quad(self, a0: float, a1: float, low: float, high: float, out: float = 0.0) -> list[Point]:
        """Return the corners of a rectangle from a0 to a1 along and low to high, `out` proud."""
        s, z = self.s + self.inward * out, self.z - (out if self.inward == 0 else 0.0)
        return [
            (s + a * self.ds, y, z + a * self.dz)
            for a, y in ((a0, low), (a1, low), (a1, high), (a0, high))
        ]


def draw_on_wall(canvas: Canvas, panel: Panel, what: str, seed: int, label: int) -> None:
    """Draw a door, window, picture, elevator, clock or fire extinguisher on a wall."""
    rng = random.Random(seed)
    tone = canvas.light.front
    if panel.inward:
        tone = canvas.light.left if panel.inward < 0 else canvas.light.right
    {
        "door": _door,
        "window": _window,
        "picture": _picture,
        "elevator": _elevator,
        "clock": _clock,
        "extinguisher": _extinguisher,
    }[what](canvas, panel, rng, label, tone)


def _door(canvas: Canvas, panel: Panel, rng: random.Random, label: int, tone: float) -> None:
    wood: Colour = rng.choice((*WOODS, (120, 90, 60), (90, 130, 100)))
    tall, long = rng.uniform(2.0, 2.2), panel.long
    frame = (wood[0] * 0.6, wood[1] * 0.6, wood[2] * 0.6)
    if rng.random() < 0.4:
        frame = (205, 208, 210)
    canvas.polygon(panel.quad(0, long, 0, tall + 0.08), frame, label, tone)
    leaves = (
        [(0.06, long - 0.06)]
        if long < 1.3
        else [(0.06, long / 2 - 0.02), (long / 2 + 0.02, long - 0.06)]
    )
    style = rng.randrange(4)
    for a0, a1 in leaves:
        canvas.polygon(panel.quad(a0, a1, 0.02, tall, 0.005), wood, label, tone)
        wide = a1 - a0
        if style == 0:  # glass pane above
            canvas.polygon(
                panel.quad(a0 + 0.2 * wide, a1 - 0.2 * wide, 1.15, tall - 0.2, 0.01),
                (150, 140, 125),
                label,
                tone,
            )
        elif style == 1:  # two panels
            for low, high in ((0.2, 0.95), (1.1, tall - 0.2)):
                canvas.polygon(
                    panel.quad(a0 + 0.15 * wide, a1 - 0.15 * wide, low, high, 0.01),
                    wood,
                    label,
                    tone * 0.85,
                )
        elif style == 2:  # all glass
            canvas.polygon(
                panel.quad(a0 + 0.08, a1 - 0.08, 0.12, tall - 0.1, 0.01),
                (165, 160, 145),
                label,
                tone * 0.9,
            )
        knob = a1 - 0.12 if rng.random() < 0.5 else a0 + 0.06
        canvas.polygon(panel.quad(knob, knob + 0.07, 0.95, 1.08, 0.03), STEEL, label, 0.7)


def _window(canvas: Canvas, panel: Panel, rng: random.Random, label: int, tone: float) -> None:
    low, high = rng.choice(((0.9, 2.1), (0.7, 2.3), (1.0, 2.0), (0.15, 2.3)))
    frame: Colour = rng.choice(((220, 222, 224), (95, 97, 98), (60, 85, 120)))
    canvas.polygon(panel.quad(0, panel.long, low, high), frame, label, tone)
    panes = max(1, round(panel.long / 0.8))
    wide = panel.long / panes
    night = rng.random() < 0.15
    sky: Colour = (
        (70, 55, 50) if night else rng.choice(((245, 235, 220), (235, 215, 190), (250, 250, 248)))
    )
    green: Colour = (
        (50, 45, 40) if night else rng.choice(((120, 160, 130), (150, 155, 155), (110, 140, 120)))
    )
    split = low + (high - low) * rng.uniform(0.25, 0.55)
    for k in range(panes):
        a0, a1 = k * wide + 0.05, (k + 1) * wide - 0.05
        canvas.polygon(panel.quad(a0, a1, split, high - 0.06, 0.005), sky, label)
        canvas.polygon(panel.quad(a0, a1, low + 0.06, split, 0.005), green, label)
    canvas.polygon(panel.quad(-0.05, panel.long + 0.05, low - 0.06, low, 0.06), frame, label, 0.9)


def _picture(canvas: Canvas, panel: Panel, rng: random.Random, label: int, tone: float) -> None:
    low = rng.uniform(1.1, 1.4)
    high = low + min(0.9, panel.long * rng.uniform(0.6, 1.3))
    frame: Colour = rng.choice(((40, 40, 45), (60, 110, 150), (225, 228, 230), (70, 140, 180)))
    canvas.polygon(panel.quad(0, panel.long, low, high, 0.01), frame, label, tone)
    colours = [tuple(rng.uniform(40, 230) for _ in range(3)) for _ in range(5)]
    b, g, r = colours[0]
    canvas.polygon(
        panel.quad(0.05, panel.long - 0.05, low + 0.05, high - 0.05, 0.012), (b, g, r), label, tone
    )
    for b, g, r in colours[1:]:
        a0, a1 = sorted(rng.uniform(0.08, panel.long - 0.08) for _ in range(2))
        y0, y1 = sorted(rng.uniform(low + 0.08, high - 0.08) for _ in range(2))
        canvas.polygon(panel.quad(a0, a1, y0, y1, 0.015), (b, g, r), label, tone)


def _elevator(canvas: Canvas, panel: Panel, rng: random.Random, label: int, tone: float) -> None:
    metal: Colour = rng.choice(((175, 178, 180), (140, 145, 150), (120, 150, 170)))
    canvas.polygon(panel.quad(0, panel.long, 0, 2.3), (95, 98, 100), label, tone)
    half = panel.long / 2
    for a0, a1, shade in ((0.1, half - 0.008, 1.0), (half + 0.008, panel.long - 0.1, 0.93)):
        canvas.polygon(panel.quad(a0, a1, 0.0, 2.12, 0.005), metal, label, tone * shade)
        third = (a1 - a0) / 3
        canvas.polygon(
            panel.quad(a0 + third, a1 - third, 0, 2.12, 0.008), metal, label, tone * shade * 1.12
        )
    canvas.polygon(panel.quad(half - 0.14, half + 0.14, 2.17, 2.27, 0.01), (40, 40, 200), label)


def _clock(canvas: Canvas, panel: Panel, rng: random.Random, label: int, tone: float) -> None:
    y, radius, middle = rng.uniform(2.0, 2.25), rng.uniform(0.16, 0.24), panel.long / 2
    rim: Colour = rng.choice(((40, 40, 40), (150, 150, 150), (60, 60, 170)))
    for size, ink in ((radius, rim), (radius * 0.86, (240, 242, 243))):
        turns = (2 * math.pi * k / 16 for k in range(16))
        ring = [panel.point(middle + size * math.cos(a), y + size * math.sin(a)) for a in turns]
        canvas.polygon(ring, ink, label, tone)
    for da, dy in ((0.0, 0.7), (0.5, 0.15)):
        end = panel.point(middle + da * radius, y + dy * radius)
        canvas.line(panel.point(middle, y), end, 0.02, (30, 30, 30), label)


def _extinguisher(
    canvas: Canvas, panel: Panel, rng: random.Random, label: int, tone: float
) -> None:
    base = rng.choice((0.02, 0.5, 0.8))
    foot = panel.quad(panel.long / 2, panel.long / 2, base, base, 0.12)[0]
    s, y, z = foot
    red: Colour = (45 + rng.uniform(-15, 20), 35, 190 + rng.uniform(-30, 30))
    half, tall = 0.085, rng.uniform(0.42, 0.55)
    body = [
        (s - half, y, z),
        (s + half, y, z),
        (s + half, y + tall * 0.85, z),
        (s + half * 0.5, y + tall, z),
        (s - half * 0.5, y + tall, z),
        (s - half, y + tall * 0.85, z),
    ]
    canvas.polygon(body, red, label, tone)
    shine = [
        (s - half * 0.6, y + 0.04, z),
        (s - half * 0.2, y + 0.04, z),
        (s - half * 0.2, y + tall * 0.8, z),
        (s - half * 0.6, y + tall * 0.8, z),
    ]
    canvas.polygon(shine, (120, 110, 240), label, tone)
    tag = [
        (s - half, y + tall * 0.35, z),
        (s + half, y + tall * 0.35, z),
        (s + half, y + tall * 0.6, z),
        (s - half, y + tall * 0.6, z),
    ]
    canvas.polygon(tag, (200, 215, 225), label, tone)
    canvas.line((s, y + tall, z), (s, y + tall + 0.1, z), 0.05, (40, 40, 40), label)
    canvas.line((s, y + tall + 0.08, z), (s + 0.14, y + tall * 0.7, z), 0.03, (35, 35, 35), label)
