import numpy as np
from numpy.typing import NDArray

def label_map(
    scores: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    slot_ids: NDArray[np.uint16],
    ids: NDArray[np.uint8] | NDArray[np.uint16],
    confidence: NDArray[np.uint8],
    counts: NDArray[np.uint64],
    threads: int,
) -> None:
    """Fill `ids`, `confidence` and `counts` with the label map of one frame.

    Each pixel gets the class id of the slot with the highest bilinearly enlarged score
    (half-pixel centres, corners not aligned; ties go to the lowest slot).

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | scores | [K, h, w] | float32 | finite |
    | thresholds | [K] | float32 | a pixel won with less than its slot's threshold is unlabelled |
    | slot_ids | [K] | uint16 | class id of each slot, 65535 for a slot that labels nothing |
    | ids (out) | [H, W] | uint8 or uint16 | class id, or 255 respectively 65535 if unlabelled |
    | confidence (out) | [H, W] | uint8 | winning score clipped to [0, 1], times 255, rounded |
    | counts (out) | [M] | uint64 | pixels per class id, unlabelled ones in the last cell |

    All arrays are C-contiguous; `threads` is at least 1. The GIL is released meanwhile, so the
    arrays must not be changed by another thread.

    Raises:
        ValueError: a dtype, shape, layout or class id does not fit, or a score is NaN or
            infinite (the message names slot, row and column; the outputs are then meaningless).
        TypeError: an argument is not an array, or an output is read-only.
    """
