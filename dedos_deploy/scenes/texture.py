"""Noise, gradients and the last touches that make a drawing look photographed."""

from __future__ import annotations

import random
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 512
"""Side of the periodic noise tiles, a power of two so that wrapping is a bit mask."""


@lru_cache(maxsize=4)
def noise(cell: int) -> NDArray[np.float32]:
    """Return a periodic noise tile [SIDE, SIDE] in about [-1, 1] whose grains are `cell` wide."""
    rng = np.random.default_rng(1000 + cell)
    total = np.zeros((SIDE, SIDE), np.float32)
    size, weight = cell, 1.0
    while size >= 1 and weight > 0.1:
        grid = rng.standard_normal((SIDE // size, SIDE // size)).astype(np.float32)
        wrapped = np.pad(grid, 2, mode="wrap")
        smooth: NDArray[np.float32] = np.asarray(
            cv2.resize(wrapped, None, fx=size, fy=size, interpolation=cv2.INTER_CUBIC), np.float32
        )
        edge = 2 * size
        total += weight * smooth[edge : edge + SIDE, edge : edge + SIDE]
        size, weight = size // 2, weight * 0.6
    result: NDArray[np.float32] = np.clip(total / (2.2 * total.std()), -1, 1)
    result.setflags(write=False)
    return result


def sample(
    tile: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the tile's values at real positions (in grains), repeated endlessly."""
    index = (rows.astype(np.int32) & (SIDE - 1)) * SIDE + (columns.astype(np.int32) & (SIDE - 1))
    values: NDArray[np.float32] = tile.ravel().take(index)
    return values


def phase(values: NDArray[np.float32], period: float) -> NDArray[np.float32]:
    """Return values modulo `period`; several times faster than numpy's `%` on floats."""
    turns: NDArray[np.float32] = values * np.float32(1 / period)
    turns -= np.floor(turns)
    turns *= np.float32(period)
    return turns


def window(
    tile: NDArray[np.float32], size_hw: tuple[int, int], rng: random.Random
) -> NDArray[np.float32]:
    """Return a random cut [H, W] of the tile, stretched when the picture is larger than it."""
    height, width = size_hw
    if max(height, width) <= SIDE:
        top = rng.randrange(SIDE - height + 1)
        left = rng.randrange(SIDE - width + 1)
        return tile[top : top + height, left : left + width]
    stretched = cv2.resize(tile, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(stretched, np.float32)


def finish(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    roughness: NDArray[np.float32],
    tint: tuple[float, float, float],
    gamma: float,
    vignette: float,
    grain: float,
    blur: float,
    texture_seed: int,
    grain_seed: int,
) -> NDArray[np.uint8]:
    """Return the picture with surface texture, lens falloff, white balance, blur and grain.

    roughness: relative texture amplitude per class id [256]; tint: BGR gains; vignette: share of
    light lost in the corners; grain: sensor noise in grey levels; blur: sigma in pixels.
    """
    size_hw = labels.shape[0], labels.shape[1]
    rng = random.Random(texture_seed)
    gain = window(noise(4), size_hw, rng) * roughness[labels]
    gain += _falloff(size_hw, vignette)
    bright = cv2.LUT(image, _tone_table(gamma, tint))
    lit = cv2.multiply(bright, cv2.merge([gain] * 3), dtype=cv2.CV_32F)
    if grain > 0:
        rng = random.Random(grain_seed)
        speckle = np.float32(grain) * window(noise(1), size_hw, rng)
        colour = np.float32(grain) * window(noise(1), size_hw, rng)
        lit = cv2.add(lit, cv2.merge([speckle, colour, speckle - np.float32(0.5) * colour]))
    rounded = cv2.addWeighted(lit, 1.0, lit, 0.0, 0.0, dtype=cv2.CV_8U)
    return np.asarray(cv2.GaussianBlur(rounded, (0, 0), blur) if blur > 0.3 else rounded, np.uint8)


@lru_cache(maxsize=8)
def _radius_squared(size_hw: tuple[int, int]) -> NDArray[np.float32]:
    rows = np.linspace(-1, 1, size_hw[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, size_hw[1], dtype=np.float32)[None]
    return np.asarray((rows * rows + columns * columns) / 2, np.float32)


def _falloff(size_hw: tuple[int, int], vignette: float) -> NDArray[np.float32]:
    return np.asarray(1.0 - np.float32(vignette) * _radius_squared(size_hw), np.float32)


def _tone_table(gamma: float, tint: tuple[float, float, float]) -> NDArray[np.uint8]:
    ramp = np.linspace(0, 1, 256) ** gamma * 255
    table = np.clip(ramp[:, None] * np.array(tint)[None], 0, 255)
    return np.asarray(table, np.uint8).reshape(256, 1, 3)
