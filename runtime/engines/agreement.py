"""Whether two score maps give the same labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.spec import NONE_UINT8, NONE_UINT16, none_id


def label_agreement(
    expected: NDArray[np.floating[Any]],
    actual: NDArray[np.floating[Any]],
    frame_hw: tuple[int, ...],
) -> float:
    """Return the part of a frame's pixels with the same label; 0 when a score is not a number.

    expected, actual: scores float32 or float16 [K, h, w]; frame_hw: size of the label map.
    """
    if not np.isfinite(actual).all():
        return 0.0
    return float(np.mean(_labels(expected, frame_hw) == _labels(actual, frame_hw)))


def near_agreement(expected: NDArray[np.float32], actual: NDArray[np.float32], tie: float) -> float:
    """Return the part of score cells in which the label of `actual` is nearly as good as the best;
    0 when a score is not a number.

    expected, actual: scores float32 [K, h, w]; tie: how much less than the best `expected` may give
    to the label.
    """
    if not np.isfinite(actual).all():
        return 0.0
    given = np.take_along_axis(expected, actual.argmax(axis=0)[None], axis=0)[0]
    return float(np.mean(expected.max(axis=0) - given <= tie))


def _labels(scores: NDArray[np.floating[Any]], frame_hw: tuple[int, ...]) -> NDArray[Any]:
    """Return the label map [H, W] of the deployed post-processing, without thresholds.

    A threshold would call two graphs equal wherever both leave a pixel unlabelled.
    """
    from dedos_deploy import _native

    slots = len(scores)
    small = none_id(slots) == NONE_UINT8
    labels = np.empty(frame_hw, np.uint8 if small else np.uint16)
    confidence = np.empty(frame_hw, np.uint8)
    counts = np.zeros(slots + 1, np.uint64)
    thresholds = np.zeros(slots, np.float32)
    ids = np.arange(slots, dtype=np.uint16)
    assert slots < NONE_UINT16
    whole = np.ascontiguousarray(scores, np.float32)
    _native.label_map(whole, thresholds, ids, labels, confidence, counts, 1)
    return labels
