"""Foliage drawn once and stamped many times: leafy crowns, bushes, conifers, bare branches."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Foliage = Literal["crown", "bush", "conifer", "bare"]
VARIANTS = 10
_SIDE = 192
_LEVELS = 4


def sprite(kind: Foliage, variant: int, height_px: float) -> NDArray[np.uint8]:
    """Return foliage [side, side, 2] of (shade, cover) for drawing about `height_px` tall.

    Shade 128 stands for the leaf's own colour, with light from the upper left.
    """
    levels = _levels(kind, variant % VARIANTS)
    wanted = math.log2(max(1.0, _SIDE / max(height_px, 1.0)))
    return levels[min(_LEVELS - 1, int(wanted + 0.3))]


@lru_cache(maxsize=64)
def _levels(kind: Foliage, variant: int) -> tuple[NDArray[np.uint8], ...]:
    rng = random.Random(f"{kind} {variant}")
    whole = np.zeros((_SIDE, _SIDE, 2), np.uint8)
    {"crown": _crown, "bush": _bush, "conifer": _conifer, "bare": _bare}[kind](whole, rng)
    levels = [whole]
    for level in range(1, _LEVELS):
        side = _SIDE >> level
        small = np.asarray(cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        if kind == "bare":  # thin branches would fall below half cover
            small[..., 1] = np.minimum(small[..., 1].astype(np.float32) * (1 + level), 255)
        levels.append(small)
    for array in levels:
        array.setflags(write=False)
    return tuple(levels)


def _crown(out: NDArray[np.uint8], rng: random.Random) -> None:
    """Clusters of leaves inside an uneven round outline, gaps between them."""
    clusters = [(0.5, 0.52, 0.3)]
    for _ in range(rng.randint(5, 9)):
        angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.27)
        size = rng.uniform(0.12, 0.21)
        clusters.append((0.5 + reach * math.cos(angle), 0.5 - reach * math.sin(angle), size))
    clusters.sort(key=lambda c: -c[1])
    for x, y, size in clusters:
        _cluster(out, rng, (x, y), (size, size * 0.85), leaves=70)


def _bush(out: NDArray[np.uint8], rng: random.Random) -> None:
    """Leaves that fill the frame's width down to the ground."""
    for _ in range(7):
        x, y = rng.uniform(0.22, 0.78), rng.uniform(0.4, 0.75)
        _cluster(out, rng, (x, y), (rng.uniform(0.16, 0.24), rng.uniform(0.2, 0.3)), leaves=60)


def _cluster(
    out: NDArray[np.uint8],
    rng: random.Random,
    centre: tuple[float, float],
    radii: tuple[float, float],
    leaves: int,
) -> None:
    core = tuple(round(c * _SIDE) for c in centre)
    axes = tuple(round(0.85 * r * _SIDE) for r in radii)
    base = 62 + 38 * (1 - centre[1]) - 22 * (centre[0] - 0.5)
    cv2.ellipse(out, core, axes, 0, 0, 360, (base, 255), -1)
    for nth in range(leaves):
        angle, reach = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random()) * 1.02
        dx, dy = reach * math.cos(angle), -reach * math.sin(angle)
        light = base * 0.75 + 42 * (0.7 - dy - 0.45 * dx) * (0.4 + 0.6 * nth / leaves)
        light += rng.uniform(-16, 16)
        where = (
            round((centre[0] + dx * radii[0]) * _SIDE),
            round((centre[1] + dy * radii[1]) * _SIDE),
        )
        size = round(rng.uniform(0.012, 0.034) * _SIDE)
        cv2.circle(out, where, max(1, size), (min(max(light, 20), 230), 255), -1)


def _conifer(out: NDArray[np.uint8], rng: random.Random) -> None:
    tiers = rng.randint(7, 10)
    half = rng.uniform(0.22, 0.34)
    for tier in range(tiers):
        low, wide = 0.98 - 0.86 * tier / tiers, half * (1 - 0.92 * tier / tiers)
        for _ in range(26):
            dx = rng.uniform(-1, 1)
            y = low - 0.02 + 0.05 * abs(dx) + rng.uniform(-0.02, 0.03)
            light = 62 + 40 * (0.4 - dx * 0.5) + rng.uniform(-14, 14) + 20 * tier / tiers
            tip = (0.5 + dx * wide, y)
            root = (0.5 + dx * wide * 0.25, y - 0.11)
            points = [root, (tip[0] - 0.02, tip[1]), (tip[0] + 0.02, tip[1])]
            pixels = (np.array(points) * _SIDE).astype(np.int32)
            cv2.fillConvexPoly(out, pixels, (light, 255))


def _bare(out: NDArray[np.uint8], rng: random.Random) -> None:
    _branch(out, rng, (0.5, 1.0), math.pi / 2, 0.3, 5.0, 7)


def _branch(
    out: NDArray[np.uint8],
    rng: random.Random,
    start: tuple[float, float],
    angle: float,
    length: float,
    width: float,
    depth: int,
) -> None:
    end = start[0] + length * math.cos(angle), start[1] - length * math.sin(angle)
    first = tuple(round(c * _SIDE) for c in start)
    last = tuple(round(c * _SIDE) for c in end)
    cv2.line(out, first, last, (rng.uniform(95, 140), 255), max(1, round(width)))
    if depth == 0:
        return
    for side in (-1, 1):
        turned = angle + side * rng.uniform(0.2, 0.62) + 0.06 * math.sin(angle)
        _branch(out, rng, end, turned, length * rng.uniform(0.62, 0.82), width * 0.66, depth - 1)
