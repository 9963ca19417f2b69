"""Colours of classes: decided by the class id alone, so they stay when classes come and go."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

GOLDEN_RATIO = 0.618033988749895
SHADES = ((0.85, 1.0), (0.55, 1.0), (0.9, 0.7))
"""Saturation and brightness of successive rounds."""
ROUND = 8

Colour = tuple[int, int, int]
"""Blue, green and red, each in [0, 255]."""


def class_colour_bgr(class_id: int) -> Colour:
    """Return the colour of a class, each part in [0, 255].

    Hues advance by the golden ratio, which keeps neighbouring ids far apart however many there
    are; every eight ids the shade changes too.

    >>> class_colour_bgr(0), class_colour_bgr(1)
    ((38, 38, 255), (255, 101, 38))
    """
    saturation, brightness = SHADES[class_id // ROUND % len(SHADES)]
    rgb = colorsys.hsv_to_rgb(class_id * GOLDEN_RATIO % 1.0, saturation, brightness)
    red, green, blue = (round(255 * part) for part in rgb)
    return blue, green, red


def css_colour(colour_bgr: Colour) -> str:
    """Return a colour as CSS has it.

    >>> css_colour((38, 38, 255))
    '#ff2626'
    """
    blue, green, red = colour_bgr
    return f"#{red:02x}{green:02x}{blue:02x}"


def palette_bgr(classes: int) -> NDArray[np.uint8]:
    """Return the colours of class ids 0 to `classes` - 1, uint8 [classes, 3]."""
    colours = [class_colour_bgr(class_id) for class_id in range(classes)]
    return np.array(colours, dtype=np.uint8).reshape(classes, 3)
