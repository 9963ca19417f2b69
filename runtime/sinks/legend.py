"""Legends: the words of a vocabulary in its order, those that are not in the picture greyed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.lettering import draw_text, text_width
from dedos_deploy.runtime.sinks.palette import Colour

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

LINE = 0.035
"""Height of a line as a part of the picture's height."""
LINES = 12, 48
"""Pixels of the lowest and the highest line: below, letters cannot be read."""
LETTERS = 0.72
"""Size of the letters as a part of the line's height."""
FINER = 3
"""Legends are drawn so many times as large, for letters that stand where they should."""
MOST_WIDTH, MOST_AREA = 0.5, 0.34
"""Largest part of a picture's width and of its area that a legend in it may take."""

UNLABELLED = "unlabelled"
GROUND = 18, 20, 24
GROUND_OPACITY = 190
PRESENT, ABSENT = (255, 255, 255, 255), (138, 142, 150, 255)


@dataclass(frozen=True)
class Line:
    """One line of a legend."""

    text: str
    colour: Colour | None
    """Of its swatch, None for what has no colour."""

    present: bool = True
    """Whether it occurs in the picture; greyed otherwise."""


def legend_lines(result: Segmentation, *, most: int) -> list[Line]:
    """Return at most `most` lines: every word in the vocabulary's order, then "unlabelled".

    Where they do not all fit, the last of those that do not occur are left out, then of those that do;
    "+ n more" says how many.
    """
    lines = [
        Line(
            result.classes[class_id],
            result.colours_bgr[class_id],
            present=bool(result.counts[class_id] > 0),
        )
        for class_id in result.class_ids
    ]
    lines.append(Line(UNLABELLED, None, present=int(result.counts.sum()) < result.label_map.size))
    if len(lines) <= most:
        return lines
    kept = sorted(lines, key=lambda line: not line.present)[: max(0, most - 1)]
    shown = [line for line in lines if line in kept]
    return [*shown, Line(f"+ {len(lines) - len(shown)} more", None)] if most > 0 else []


def line_height(height: int) -> int:
    """Return the height of a legend's line in a picture of that height, in pixels."""
    least, most = LINES
    return min(max(round(LINE * height), least), most)


def legend_inside(result: Segmentation) -> NDArray[np.uint8] | None:
    """Return a legend to be laid over a corner of the picture, uint8 BGRA [h, w, 4].

    None where it would hide too much of it.
    """
    height, width = result.label_map.shape
    line = line_height(height)
    widest = MOST_WIDTH * width
    lines = legend_lines(result, most=int(MOST_AREA * height * width / (widest * line)) - 1)
    if not lines or _column_width(lines, line) > widest:
        return None
    return _panel(tuple(lines), line, None)


def legend_beside(result: Segmentation) -> NDArray[np.uint8] | None:
    """Return a legend to stand beside the picture, uint8 BGRA [H, w, 4] with even w.

    It is as wide whatever occurs. None where the picture is lower than a line of it.
    """
    height = result.label_map.shape[0]
    line = line_height(height)
    rows = (height - line) // line
    lines = legend_lines(result, most=max(0, rows))
    if not lines:
        return None
    every = legend_lines(result, most=len(result.class_ids) + 1)
    width = _column_width([*every, *lines], line)
    return _panel(tuple(lines), line, (height, width + width % 2))


def _column_width(lines: Sequence[Line], line: int) -> int:
    size = round(LETTERS * FINER * line)
    widest = max(text_width(one.text, size) for one in lines)
    return 2 * line + line // 2 + math.ceil(widest / FINER)


@lru_cache(maxsize=32)
def _panel(
    lines: tuple[Line, ...], line: int, size_hw: tuple[int, int] | None
) -> NDArray[np.uint8]:
    """Return lines on dark ground; size_hw: None for as large as they are, with round corners."""
    from PIL import Image
    from PIL.ImageDraw import Draw

    height, width = size_hw or (len(lines) * line + line // 2, _column_width(lines, line))
    size_wh, tall = (FINER * width, FINER * height), FINER * line
    panel = Image.new("RGBA", size_wh, (*GROUND, 255 if size_hw else 0))
    draw = Draw(panel)
    if size_hw is None:
        corner = (0, 0, size_wh[0] - 1, size_wh[1] - 1)
        draw.rounded_rectangle(corner, radius=tall // 3, fill=(*GROUND, GROUND_OPACITY))
    for row, one in enumerate(lines):
        top = tall // 4 + row * tall
        _draw_swatch(draw, one, top, tall)
        place = round(1.6 * tall), top + round(0.75 * tall)
        draw_text(draw, one.text, place, round(LETTERS * tall), PRESENT if one.present else ABSENT)
    bgra = np.asarray(panel.reduce(FINER))[..., [2, 1, 0, 3]]
    return np.ascontiguousarray(bgra)


def _draw_swatch(draw: ImageDraw, one: Line, top: int, line: int) -> None:
    """Draw a square in the line's colour, only its frame where that is absent; unlabelled pixels have
    a crossed one."""
    side, left = round(0.62 * line), round(0.6 * line)
    top += (line - side) // 2
    square = (left, top, left + side - 1, top + side - 1)
    width = max(1, line // 16)
    if one.colour is not None:
        colour = one.colour[::-1]
        draw.rectangle(square, fill=colour if one.present else None, outline=colour, width=width)
    elif one.text == UNLABELLED:
        grey = PRESENT if one.present else ABSENT
        draw.rectangle(square, outline=grey, width=width)
        draw.line((left, top + side - 1, left + side - 1, top), fill=grey, width=width)
