"""Label maps as masks, pictures and smaller label maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.runtime.arguments import as_whole
from dedos_deploy.spec import NONE_UINT16, none_id


def best_slots(
    scores: NDArray[np.floating[Any]], size_hw: tuple[int, ...], *, threads: int = 1
) -> NDArray[Any]:
    """Return the slot of the highest score of every pixel, uint8 [H, W], uint16 of more than 254 slots,
    as the label map finds it, without thresholds and names.

    scores: float32 or float16 [K, h, w]. Raises ValueError where one of them is not a number.
    """
    from dedos_deploy import _native

    slots = len(scores)
    assert slots < NONE_UINT16
    best = np.empty(size_hw, np.uint16 if none_id(slots) == NONE_UINT16 else np.uint8)
    _native.label_map(
        np.ascontiguousarray(scores, np.float32),
        np.full(slots, np.finfo(np.float32).min, np.float32),
        np.arange(slots, dtype=np.uint16),
        best,
        np.empty(size_hw, np.uint8),
        np.zeros(slots + 1, np.uint64),
        threads,
    )
    return best


def mask_of(label_map: NDArray[Any], class_ids: Sequence[int]) -> NDArray[np.bool_]:
    """Return, bool [H, W], where a label map uint8 or uint16 [H, W] has one of some ids."""
    mask: NDArray[np.bool_] = label_map == class_ids[0]
    for class_id in class_ids[1:]:
        mask |= label_map == class_id
    return mask


def painted(label_map: NDArray[Any], colours_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture, uint8 [H, W, 3], of a label map.

    colours_bgr: uint8 [N, 3] of the ids 0 to N - 1; others are black.
    """
    import cv2

    table = np.zeros((np.iinfo(label_map.dtype).max + 1, 3), np.uint8)
    table[: len(colours_bgr)] = colours_bgr
    if label_map.dtype == np.uint8:
        picture: NDArray[Any] = cv2.applyColorMap(label_map, table[:, None])
        return picture
    wide: NDArray[np.uint8] = table[label_map]
    return wide


def majority(label_map: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[Any]:
    """Return a smaller label map of the same dtype, of the id most frequent in each cell.

    Cell [i, j] of h x w has the rows from `i * H // h` to `(i + 1) * H // h` and the columns
    likewise; of equally frequent ids the lowest. Raises BadInputError for a size that is larger, or
    empty.
    """
    height, width = label_map.shape
    sides = [as_whole(side) or 0 for side in size_hw] if isinstance(size_hw, Iterable) else []
    if len(sides) != 2 or not (1 <= sides[0] <= height and 1 <= sides[1] <= width):
        raise BadInputError(
            f"a majority is of 1x1 to {height}x{width} cells here, not {shown(size_hw)}; give height "
            "and width in whole numbers"
        )
    from dedos_deploy import _native

    smaller = np.empty(sides, label_map.dtype)
    _native.majority(np.ascontiguousarray(label_map), smaller)
    return smaller


def fitted(size_hw: tuple[int, ...], most_wh: tuple[int, int]) -> tuple[int, int]:
    """Return height and width within `most_wh`: as they are, or smaller by one factor.

    >>> fitted((480, 640), (400, 200)), fitted((100, 100), (400, 200)), fitted((10, 8000), (400, 200))
    ((200, 267), (100, 100), (1, 400))
    """
    height, width = size_hw
    factor = min(1.0, most_wh[0] / width, most_wh[1] / height)
    return max(1, round(factor * height)), max(1, round(factor * width))
