"""Words by example: a region of one to five pictures is what a word means."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.runtime.frame import check_frame

MOST_EXAMPLES = 5

STROKE = 1 / 80
"""Width of a scribble, of the picture's shorter side."""

_REGIONS = "bool [H, W], a box (x0, y0, x1, y1) as a tuple, or points of a scribble as whole numbers [P, 2]"

Frames = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
Mask = NDArray[Any] | tuple[int, int, int, int] | list[NDArray[Any]]
Masks = Mask | Sequence[Mask]


@dataclass(frozen=True, eq=False)
class LearnedWord:
    """What became of a word that was learned from examples."""

    name: str
    row: NDArray[np.float32]
    """float32 [D], of length 1: what stands in the engine's text input."""
    margin: float
    """In [-1, 1]: the part of the regions that the segmenter labels with the word now, less the part of
    the rest that it labels so, mean over the examples. Of a frame that it was made from, so a little rosy."""
    overlap: float
    """In [0, 1]: IoU of what it labels so with the regions, mean over the examples; of rows that could be
    taken the one with the larger overlap was. Low with a good margin: it labels much else beside a small thing."""
    separates: bool
    """Whether margin and overlap are at least `learning.LEAST_MARGIN` and `learning.LEAST_OVERLAP`."""
    added: bool
    """Whether the word is among the segmenter's now; else nothing has changed."""
    examples: int
    """How many pictures it was made from."""
    from_text: bool
    """Whether the row is blended with what the text tower makes of the name."""


@dataclass(frozen=True, eq=False)
class Example:
    """A picture with what is the word there and what is not; other pixels say nothing."""

    frame_bgr: NDArray[np.uint8]
    """[H, W, 3]."""
    inside: NDArray[np.bool_]
    """[H, W]."""
    outside: NDArray[np.bool_]
    """[H, W]."""
    stroke: bool = False
    """Whether the region reaches beyond `inside`, as that of a scribble."""


def examples_of(frames: Frames, masks: Masks) -> tuple[Example, ...]:
    """Return what `SegmenterView.learn` takes, checked. Raises BadInputError."""
    if isinstance(frames, np.ndarray) and frames.ndim != 4:
        given: list[Any] = [frames]
        regions: list[Any] = [masks]
    else:
        given, regions = _listed(frames, "frames"), _listed(masks, "masks")
    if not 1 <= len(given) <= MOST_EXAMPLES:
        raise BadInputError(
            f"a word is learned from 1 to {MOST_EXAMPLES} frames, not {len(given)}; choose those that differ"
        )
    if len(given) != len(regions):
        raise BadInputError(
            f"there are {len(given)} frames and {len(regions)} masks; give one mask for each frame"
        )
    found = tuple(
        _example(frame, region, "" if len(given) == 1 else f" {number}")
        for number, (frame, region) in enumerate(zip(given, regions, strict=True), 1)
    )
    _check_different(found)
    return found


def _listed(several: Any, what: str) -> list[Any]:
    if isinstance(several, Iterable) and not isinstance(several, str | bytes):
        return list(several)
    raise BadInputError(
        f"{what} must be one array or a sequence of them, not {shown(several)}; read pictures first, and give "
        "a mask for each"
    )


def _check_different(examples: Sequence[Example]) -> None:
    seen: dict[bytes, int] = {}
    for number, example in enumerate(examples, 1):
        picture = hashlib.sha256(example.frame_bgr.tobytes()).digest()
        first = seen.setdefault(picture, number)
        if first == number:
            continue
        same = np.array_equal(examples[first - 1].inside, example.inside)
        advice = "leave one out" if same else "give it once, with one mask of all that is meant"
        raise BadInputError(
            f"frames {first} and {number} are the same picture with "
            f"{'the same mask' if same else 'different masks'}; {advice}"
        )


def _example(frame: Any, region: Any, number: str) -> Example:
    pixels = check_frame(frame)
    height, width = pixels.shape[:2]
    stroke = False
    if isinstance(region, tuple):
        inside, outside = _box(region, (height, width), number)
    else:
        arrays = _arrays(region, number)
        stroke = all(
            array.ndim == 2 and array.shape[1] == 2 and array.dtype.kind in "iu" for array in arrays
        )
        if stroke:
            inside = _strokes(arrays, (height, width), number)
        else:
            inside = _mask(_array(region, number), (height, width), number)
        outside = ~inside
    if not inside.any():
        raise BadInputError(f"mask{number} is empty; mark what the word means")
    if not outside.any():
        raise BadInputError(
            f"mask{number} covers the whole frame; leave out what the word does not mean"
        )
    return Example(pixels, inside, outside, stroke)


def _arrays(region: Any, number: str) -> list[NDArray[Any]]:
    return [_array(one, number) for one in (region if isinstance(region, list) else [region])]


def _array(region: Any, number: str) -> NDArray[Any]:
    try:
        return np.asarray(region)
    except ValueError:  # rows of several lengths
        raise BadInputError(
            f"mask{number} is {shown(region)}, which is no array; give {_REGIONS}"
        ) from None


def _mask(array: NDArray[Any], size_hw: tuple[int, int], number: str) -> NDArray[np.bool_]:
    if array.dtype != np.bool_:
        raise BadInputError(
            f"mask{number} must be {_REGIONS}, not {array.dtype} {list(array.shape)}"
        )
    if array.shape != size_hw:
        raise BadInputError(
            f"mask{number} is {list(array.shape)}, but its frame is {list(size_hw)}; give a mask of the "
            "frame's own size"
        )
    return array


def _box(
    box: tuple[Any, ...], size_hw: tuple[int, int], number: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Inside is the ellipse in the box, since corners rarely are the thing; outside is beyond the box."""
    height, width = size_hw
    numbers = len(box) == 4 and all(isinstance(side, int | np.integer) for side in box)
    if not numbers or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise BadInputError(
            f"box{number} is {str(box)[:80]}, but a box is (x0, y0, x1, y1) in whole pixels with "
            f"0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
        )
    x0, y0, x1, y1 = map(int, box)
    outside = np.ones(size_hw, dtype=bool)
    outside[y0:y1, x0:x1] = False
    x = (np.arange(width) + 0.5 - (x0 + x1) / 2) / (x1 - x0)
    y = (np.arange(height) + 0.5 - (y0 + y1) / 2) / (y1 - y0)
    return (x * x)[None] + (y * y)[:, None] <= 0.25, outside


def _strokes(
    strokes: Sequence[NDArray[Any]], size_hw: tuple[int, int], number: str
) -> NDArray[np.bool_]:
    """Return the strokes through the points of each, in their order."""
    import cv2

    height, width = size_hw
    drawn = np.zeros(size_hw, dtype=np.uint8)
    thickness = max(1, round(STROKE * min(size_hw)))
    for points in strokes:
        if len(points) and ((points < 0) | (points >= (width, height))).any():
            raise BadInputError(
                f"scribble{number} leaves its frame of {width}x{height}; give points x, y within it"
            )
        if len(points):
            line = points.astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(drawn, [line], False, 1, thickness)
    return drawn.astype(bool)
