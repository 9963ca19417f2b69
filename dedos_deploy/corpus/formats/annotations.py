"""What an annotation tool's file says of each picture, and how its shapes become masks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.corpus.formats.outlines import filled
from dedos_deploy.corpus.formats.run_lengths import DamagedRunsError
from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.picture_sizes import MOST_PIXELS

Mask = NDArray[np.bool_]

_WHOLE = re.compile(r"-?[0-9]{1,9}")
_MOST = 2**63


@dataclass(frozen=True, eq=False)
class Shape:
    """One region that somebody drew."""

    label: str
    """What it was called."""

    draw: Callable[[], Mask]
    """Returns its mask, bool [H, W], of the whole picture. Raises BadInputError for what is damaged."""

    layer: int = 0
    """What lies on what: a higher one covers a lower one, and of one layer a later shape an earlier one."""


@dataclass(frozen=True, eq=False)
class AnnotatedPicture:
    """One picture with its shapes."""

    name: str
    """Name of its file, with folders if the annotation file has them."""

    size_hw: tuple[int, int] | None
    """As the annotation file states it, None for a picture without shapes of which it says nothing."""

    shapes: Sequence[Shape]
    """In the order of the file."""


@dataclass(frozen=True)
class Annotations:
    """What one annotation file holds."""

    labels: tuple[str, ...]
    """Names of all its labels, each once."""

    pictures: Iterable[AnnotatedPicture]
    """In the order of the file; may be read once. Raises BadInputError for what is damaged."""

    left_out: dict[str, int]
    """What is not taken over, such as boxes, and how many there were; grows while pictures are read."""


@dataclass(frozen=True)
class Place:
    """Where something is in an annotation file, for messages."""

    file: Path
    what: str
    """Such as "image 'a.jpg'"."""

    def refused(self, why: str) -> BadInputError:
        """Return the error of this place. why: what is wrong, in a few words."""
        return BadInputError(
            f"{str(self.file)!r} cannot be used: {self.what} {why}; export it again, or take that part out"
        )


def size_of(width: object, height: object, place: Place) -> tuple[int, int]:
    """Return a picture's size as (height, width). Raises BadInputError for what is none, or too large."""
    sides = [whole(side) for side in (height, width)]
    if sides[0] is None or sides[1] is None or min(sides[0], sides[1]) < 1:
        raise place.refused(f"has no size, but {shown(width)} x {shown(height)}")
    if sides[0] * sides[1] > MOST_PIXELS:
        raise place.refused(f"has more than {MOST_PIXELS} pixels")
    return sides[0], sides[1]


def whole(value: object) -> int | None:
    """Return a whole number that a file has as a number or a text, None for anything else.

    >>> whole("640"), whole(640.0), whole("6.5"), whole(True)
    (640, 640, None, None)
    """
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # JSON's numbers may have as many digits as they like.
    return int(value) if abs(value) < _MOST and value == int(value) else None


def polygon_mask(
    polygons: Sequence[Sequence[float]], size_hw: tuple[int, int], place: Place
) -> Mask:
    """Return, bool [H, W], what polygons enclose together. polygons: x, y, x, y, … in pixels, each.

    Raises BadInputError for fewer than three points, and numbers that are none or far outside.
    """
    outlines = [_points(numbers, size_hw, place) for numbers in polygons]
    return filled(outlines, size_hw)


def _points(
    numbers: Sequence[float], size_hw: tuple[int, int], place: Place
) -> NDArray[np.float64]:
    try:
        values = np.asarray(numbers, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise place.refused("has a polygon whose points are no numbers") from None
    if values.ndim != 1 or values.size < 6 or values.size % 2:
        raise place.refused("has a polygon of fewer than three points")
    # Tools let people draw beyond the edge, and what is there is cut off.
    if not np.isfinite(values).all() or np.abs(values).max() > 2 * max(size_hw):
        raise place.refused("has a polygon far outside of the picture")
    return values.reshape(-1, 2)


def decoded(make: Callable[[], Mask], place: Place) -> Callable[[], Mask]:
    """Return a `Shape.draw` for run lengths, whose damage becomes an error of their place."""

    def draw() -> Mask:
        try:
            return make()
        except DamagedRunsError as error:
            raise place.refused(f"has a mask that is damaged: {error}") from error

    return draw


def counted(left_out: dict[str, int], what: str) -> None:
    """Count one more of what is not taken over."""
    left_out[what] = left_out.get(what, 0) + 1


def record(value: object, place: Place) -> dict[str, Any]:
    """Return a JSON object. Raises BadInputError for anything else."""
    if not isinstance(value, dict):
        raise place.refused("is no object")
    return value


def items(values: dict[str, Any], key: str, place: Place) -> list[Any]:
    """Return the list that a JSON object has under a key. Raises BadInputError for anything else."""
    found = values.get(key)
    if not isinstance(found, list):
        raise place.refused(f"has no list {key!r}")
    return found


def text_of(value: object, what: str, place: Place) -> str:
    """Return a text that is on one line and not empty. Raises BadInputError for anything else."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise place.refused(f"has no {what}, but {shown(value)}")
    return value
