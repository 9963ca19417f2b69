"""What somebody draws on a frame, as pixels: strokes of a brush, boxes, and an eraser for both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError

MOST_POINTS = 5000
"""Of all strokes on a frame."""
MOST_RADIUS = 256
MOST_MARKS = 512

Mask = NDArray[np.bool_]
"""bool [H, W]."""


@dataclass(frozen=True)
class Stroke:
    """A line of a round brush, or of an eraser, which takes away what was drawn before."""

    points: tuple[tuple[int, int], ...]
    """x, y of one pixel or more, also outside of the frame; lines go from each to the next."""

    radius: int
    """Of the brush in pixels, in [0, MOST_RADIUS]."""

    erases: bool = False
    """Whether it takes away."""


@dataclass(frozen=True)
class Box:
    """A filled box."""

    box_xyxy: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels, half-open; what lies outside of the frame does not count."""


Example = Mask | tuple[int, int, int, int] | list[NDArray[np.int64]]
"""As `SegmenterView.learn` takes it: pixels, a box x0, y0, x1, y1, or strokes int64 [P, 2] of x, y."""

Marks = Sequence[Stroke | Box]
"""In the order in which they were drawn."""


def check_points(marks: Iterable[Stroke | Box]) -> None:
    """Raise BadInputError where the strokes on a frame have more than MOST_POINTS."""
    points = sum(len(mark.points) for mark in marks if isinstance(mark, Stroke))
    if points > MOST_POINTS:
        raise BadInputError(
            f"the drawing has {points} points, at most {MOST_POINTS} are possible; draw less, or a box"
        )


def mask_of_marks(marks: Marks, size_hw: tuple[int, int]) -> Mask:
    """Return which pixels of a frame are drawn on. Raises BadInputError for more than MOST_POINTS."""
    check_points(marks)
    drawn = np.zeros(size_hw, np.uint8)
    for mark in marks:
        if isinstance(mark, Box):
            x0, y0, x1, y1 = (max(0, value) for value in mark.box_xyxy)
            drawn[y0:y1, x0:x1] = 1
        else:
            _draw(drawn, mark)
    return drawn.astype(np.bool_)


def example_of(marks: Marks, size_hw: tuple[int, int]) -> Example:
    """Return a drawing as what a word is learned from. Raises as `mask_of_marks`.

    A single box is a box around the thing, strokes of the brush alone are scribbles on it, which goes on
    beyond them; of anything else, what is drawn is the thing and all else is not.
    """
    mask = mask_of_marks(marks, size_hw)
    height, width = size_hw
    if len(marks) == 1 and isinstance(marks[0], Box) and mask.any():
        x0, y0, x1, y1 = marks[0].box_xyxy
        return max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    strokes = [mark for mark in marks if isinstance(mark, Stroke) and not mark.erases]
    if len(strokes) < len(marks):
        return mask
    return [np.clip(stroke.points, 0, (width - 1, height - 1)) for stroke in strokes]


def _draw(drawn: NDArray[np.uint8], stroke: Stroke) -> None:
    import cv2

    value = 0 if stroke.erases else 1
    # Filled circles at the points, since those that end a thick line are not round in OpenCV.
    for point in stroke.points:
        cv2.circle(drawn, point, stroke.radius, value, cv2.FILLED)
    if len(stroke.points) > 1:
        line = np.array(stroke.points, np.int32).reshape(-1, 1, 2)
        cv2.polylines(drawn, [line], False, value, thickness=max(1, 2 * stroke.radius))
