"""Whether two score maps give the same labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.label_maps import best_slots


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
    # Without thresholds: they would call two graphs equal wherever both leave a pixel unlabelled.
    return float(np.mean(best_slots(expected, frame_hw) == best_slots(actual, frame_hw)))


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
