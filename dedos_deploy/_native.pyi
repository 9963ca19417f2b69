from collections.abc import Sequence

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

    `counts` has any number of cells from the largest class id + 2 on; cells that no id names become
    0. All arrays are C-contiguous, aligned and in this machine's byte order, and outputs share no
    memory with anything else. `threads` is at least 1; no more are started than this process has
    cores. The GIL is released meanwhile, so the arrays must not be changed by another thread.

    Raises:
        ValueError: a dtype, shape, layout or class id does not fit, memory is shared, or a score is
            NaN or infinite (the message names slot, row and column; the outputs are then
            meaningless).
        TypeError: an argument is not an array or not a whole number, or an output is read-only.
    """

def pixel_scores(
    scores: NDArray[np.float32],
    pixels: NDArray[np.int32],
    height: int,
    width: int,
    out: NDArray[np.float32],
) -> None:
    """Fill `out` with the scores of some pixels of a frame, those that `label_map` compares, to the bit.

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | scores | [K, h, w] | float32 | |
    | pixels | [P, 2] | int32 | row and column of each, in a frame of `height` x `width` |
    | out (out) | [P, K] | float32 | score of every slot |

    All arrays are C-contiguous, aligned, in this machine's byte order, and share no memory. The GIL is
    released meanwhile.

    Raises:
        IndexError: a pixel lies outside of the frame.
        ValueError: a dtype, shape, layout or size does not fit, or memory is shared.
        TypeError: an argument is not an array or not a whole number, or `out` is read-only.
    """

def blend_window(
    scores: NDArray[np.float32],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    down: NDArray[np.float32],
    across: NDArray[np.float32],
    blended: NDArray[np.float32],
    threads: int,
) -> None:
    """Add the scores of a window of a frame, as much as each counts, to those of the whole frame.

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | scores | [K, h, w] | float32 | of the window |
    | rows, columns | [h'], [w'] | float64 | where the cells of `blended` lie in `scores`, in its cells, whole at their centres: in [0, h - 1] and [0, w - 1] |
    | down, across | [h'], [w'] | float32 | weights, whose products count; cells outside of the window have 0 |
    | blended (in, out) | [K, h', w'] | float32 | `scores[k]` at (rows[i], columns[j]), bilinear, times down[i] * across[j], is added to cell (i, j) of slot k |

    All arrays are C-contiguous, aligned and in this machine's byte order, and `blended` shares no memory
    with the others. The GIL is released meanwhile. Scores that are no numbers stay so. `threads`: as
    `label_map` takes it; the result does not depend on it.

    Raises:
        ValueError: a dtype, shape or layout does not fit, memory is shared, a coordinate lies outside of
            the scores, or a weight is not finite.
        TypeError: an argument is not an array or not a whole number, or `blended` is read-only.
    """

def confusion(
    labels: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int32],
    predictions: NDArray[np.uint8] | NDArray[np.uint16],
    matrix: NDArray[np.int64],
    ignore: int,
    unlabelled: int,
) -> None:
    """Add the pixels of one image to `matrix`, by label (row) and prediction (column).

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | labels | [H, W] | uint8, uint16 or int32 | id in [0, N), or `ignore`: not counted |
    | predictions | [H, W] | uint8 or uint16 | id in [0, N), or `unlabelled`: the last column |
    | matrix (out) | [N, N + 1] | int64 | pixels counted so far |

    All arrays are C-contiguous, aligned and in this machine's byte order, and the matrix shares no
    memory with the others. The GIL is released meanwhile. Predictions under ignored labels are
    not looked at.

    Raises:
        IndexError: an id that means nothing; the matrix is unchanged and the message names value,
            row and column.
        ValueError: a dtype, shape or layout does not fit, memory is shared, or a cell of the matrix
            has no room for more pixels.
        TypeError: an argument is not an array or not a whole number, or the matrix is read-only.
    """

def majority(
    ids: NDArray[np.uint8] | NDArray[np.uint16], out: NDArray[np.uint8] | NDArray[np.uint16]
) -> None:
    """Fill `out` with the id that is most frequent in each of its cells.

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | ids | [H, W] | uint8 or uint16 | ids of pixels |
    | out (out) | [h, w] | as ids | cell [i, j] has the rows from `i * H // h` to `(i + 1) * H // h` and the columns likewise; of equally frequent ids the lowest |

    h is at most H and w at most W. Both arrays are C-contiguous, aligned, in this machine's byte order,
    and share no memory. The GIL is released meanwhile.

    Raises:
        ValueError: a dtype, shape or layout does not fit, or memory is shared.
        TypeError: an argument is not an array, or `out` is read-only.
    """

def read_curves(
    ids: NDArray[np.uint8] | NDArray[np.uint16],
    curves: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
) -> None:
    """Replace every confidence by what the curve of its pixel has for it, in place.

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | ids | [H, W] | uint8 or uint16 | ids of pixels |
    | curves | [N, 256] | uint8 | a curve per id below N - 1, the last one for all other ids |
    | confidence (out) | [H, W] | uint8 | of pixels |

    All arrays are C-contiguous, aligned, in this machine's byte order, and share no memory. The GIL is
    released meanwhile.

    Raises:
        ValueError: a dtype, shape or layout does not fit, or memory is shared.
        TypeError: an argument is not an array, or `confidence` is read-only.
    """

def connect(ids: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.int64]:
    """Measure the regions of a label map: pixels of one id that hang together, corners counted.

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | ids | [H, W] | uint8 or uint16 | ids of pixels |
    | returned | [R, 8] | int64 | of each region, in the order of their first pixels: id, pixels, left, top, right and bottom (the last two beyond), sum of its pixels' columns, of their rows |

    The array is C-contiguous, aligned and in this machine's byte order. The GIL is released meanwhile.

    Raises:
        ValueError: a dtype, shape or layout does not fit, or there are 2^31 pixels or more.
        TypeError: an argument is not an array.
    """

def outline(
    ids: NDArray[np.uint8] | NDArray[np.uint16], wanted: NDArray[np.uint8], min_area: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the outlines of the regions of a label map, as `connect` finds them.

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | ids | [H, W] | uint8 or uint16 | ids of pixels |
    | wanted | [C] | uint8 | whether each id's regions count, those of at least `min_area` pixels; ids from C on do not |
    | returned points | [P, 2] | int32 | columns and rows where outlines turn |
    | returned lines | [L, 4] | int64 | id, 0 around the region or 1 around a hole of it, first point, first point beyond |

    Lines are in the order of the regions' first pixels, each region's holes after what is around it.
    Points of a region are those that OpenCV's findContours tells of its mask alone (RETR_CCOMP,
    CHAIN_APPROX_SIMPLE). Arrays are C-contiguous, aligned and in this machine's byte order. The GIL is
    released meanwhile.

    Raises:
        ValueError: a dtype, shape or layout does not fit, or there are 2^31 pixels or more.
        TypeError: an argument is not an array, or no whole number.
    """

SCORE_LANES: int
"""Scores of a cell are kept in whole lanes of so many."""

def remember(scores: NDArray[np.float32], past: NDArray[np.float32]) -> None:
    """Fill `past` with the scores of one frame, for `stabilise` of the next.

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | scores | [K, h, w] | float32 | |
    | past (out) | [h, w, S] | float32 | S is K, rounded up to whole lanes of SCORE_LANES |

    Raises ValueError and TypeError as `stabilise` does.
    """

def stabilise(
    scores: NDArray[np.float32],
    grey: NDArray[np.uint8],
    past_grey: NDArray[np.uint8],
    flow: NDArray[np.float32],
    past: NDArray[np.float32],
    smoothed: NDArray[np.float32],
    next: NDArray[np.float32],
) -> float:
    """Blend the scores of the frame before, moved with the picture, into those of this frame.

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | scores | [K, h, w] | float32 | of this frame, in [0, 1] |
    | grey, past_grey | [H, W] | uint8 | this picture and the one before, in grey, of any size |
    | flow | [H, W, 2] | float32 | pixel (y, x) was at (y + flow[y, x, 1], x + flow[y, x, 0]) |
    | past | [h, w, S] | float32 | `next` of the frame before, or what `remember` made of it |
    | smoothed (out) | [K, h, w] | float32 | scores that are stable in time |
    | next (out) | [h, w, S] | float32 | the same, as the past of the next frame |

    A cell takes over up to 85 % of its past: less, the more the moved picture differs around it (all
    up to 6 grey levels, nothing from 18 on) or its scores do (0.6 and 0.9), and nothing where it came
    from outside of the picture. Scores that are no numbers stay so. All arrays are C-contiguous,
    aligned and in this machine's byte order, and outputs share no memory with anything else. The
    GIL is released meanwhile.

    Returns the part of the cells, in [0, 1], whose picture the motion explains; below 0.45 the
    picture was cut, and `smoothed` equals `scores`.

    Raises:
        ValueError: a dtype, shape or layout does not fit, or memory is shared.
        TypeError: an argument is not an array, or an output is read-only.
    """

def nv12_to_bgr(
    luma: NDArray[np.uint8], chroma: NDArray[np.uint8], bgr: NDArray[np.uint8], matrix: int
) -> None:
    """Write an NV12 image into `bgr`, in fixed point as OpenCV converts.

    | array | shape | dtype | meaning |
    |---|---|---|---|
    | luma | [H, W] | uint8 | H and W even |
    | chroma | [H / 2, W] | uint8 | U and V in turn, a pair for 2x2 pixels |
    | bgr (out) | [H, W, 3] | uint8 | C-contiguous |

    Rows of the planes may be apart. `matrix`: 0 and 1 BT.601 in limited and full range, 2 and 3
    BT.709. The GIL is released meanwhile.

    Raises:
        ValueError: a dtype, shape, layout or matrix does not fit.
        TypeError: an argument is not an array or not a whole number, or `bgr` is read-only.
    """

def end_with_parent(grace_s: int) -> None:
    """End this process `grace_s` seconds after its parent, by exit code 1 and without any clean-up.

    A thread looks every second who the parent is, and needs no lock of Python's: a process in which the
    GIL is held for ever ends, too. Only the first call of a process counts, and a parent that was gone
    before it is not missed.

    Raises:
        ValueError: grace_s lies outside of [0, 3600].
        TypeError: it is not a whole number.
    """

def dlpack_take(
    capsule: object,
) -> tuple[int, tuple[int, ...], tuple[int, ...], bool, int, int, bool, object]:
    """Take a tensor out of its DLPack capsule, of version 1 or before versions.

    Returns the address of its first element, shape, strides in bytes, whether its elements are
    uint8, DLPack's type and index of its device, whether it is read-only, and the object that keeps
    it: the tensor's deleter is called once, when that dies.

    Raises:
        TypeError: no capsule, or one that was taken before.
        ValueError: a version that is not understood; the capsule keeps its tensor.
    """

def dlpack_give(
    owner: object,
    address: int,
    shape: Sequence[int],
    item: int,
    device_type: int,
    device_id: int,
    versioned: bool,
) -> object:
    """Return a DLPack capsule of contiguous unsigned integers of `item` bytes each.

    owner: held until the last consumer has let go; versioned: of version 1, else before versions.
    """
