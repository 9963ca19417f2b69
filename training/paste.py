"""Things of other pictures pasted into a picture, farther away than they were, so that small ones are met.

Copy-paste (Ghiasi et al., CVPR 2021) for label maps without instances: a thing is one connected piece of a
rare word (rare.py draws it) that the border of its picture does not cut off on the left, on the right or at
the top. It is made smaller by a factor s about a vanishing point halfway up the picture, at

    p' = v + s (p - u)

with u the point below which it stood and v one of the same height anywhere across: a thing that moves away
along a plane looks like that, feet and all, whatever the camera. Nothing else about it is changed; colours
vary with the picture's own. Only words that the folder of the picture annotates are pasted, since the rest of
the picture says nothing about others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.pictures import Picture

Labels = NDArray[np.int64]

HORIZON = 0.5
"""Height of the vanishing point, as a part of the picture's."""

SMALLEST, LARGEST = 0.15, 1.0
"""Range of s, against the size that the thing has where its picture has the height of the other."""

LEAST_PX = 6
"""Smaller things, by either side, are no likeness of anything; none is taken or made smaller than that."""

LARGEST_PART = 0.5
"""Part of its picture above which a piece is no thing but a place."""


@dataclass(frozen=True)
class Thing:
    """One connected piece of a picture."""

    image_bgr: Picture
    """uint8 [h, w, 3], its bounding box."""
    mask: NDArray[np.bool_]
    """bool [h, w], its pixels."""
    top: int
    left: int
    of_hw: tuple[int, int]
    """Size of its picture."""


def find_thing(
    image_bgr: Picture, labels: Labels, word: int, random: np.random.Generator
) -> Thing | None:
    """Return a piece of `word` in a picture, larger ones more often; None where none is whole.

    image_bgr: uint8 [H, W, 3]; labels: int64 [H, W].
    """
    import cv2

    shown = (labels == word).astype(np.uint8)
    count, pieces, boxes, _ = cv2.connectedComponentsWithStats(shown, connectivity=8)
    height, width = labels.shape
    whole = [
        piece
        for piece in range(1, count)
        if _is_whole(boxes[piece], width) and boxes[piece][4] <= LARGEST_PART * labels.size
    ]
    if not whole:
        return None
    areas = np.array([boxes[piece][cv2.CC_STAT_AREA] for piece in whole], np.float64)
    piece = whole[int(random.choice(len(whole), p=areas / areas.sum()))]
    left, top, across, down, _ = (int(value) for value in boxes[piece])
    window = slice(top, top + down), slice(left, left + across)
    return Thing(image_bgr[window].copy(), pieces[window] == piece, top, left, (height, width))


def _is_whole(box: NDArray[np.int32], width: int) -> bool:
    left, top, across, down, _ = box
    cut = left == 0 or top == 0 or left + across == width
    return not cut and min(across, down) >= LEAST_PX


def paste(
    image_bgr: Picture, labels: Labels, thing: Thing, word: int, random: np.random.Generator
) -> tuple[Picture, Labels]:
    """Return a picture and its labels with a thing of `word` in it, as they are where there is no room.

    image_bgr: uint8 [H, W, 3]; labels: int64 [H, W]; neither is changed.
    """
    import cv2

    height, width = labels.shape
    unchanged = height / thing.of_hw[0]
    smallest = max(SMALLEST * unchanged, LEAST_PX / min(thing.mask.shape))
    largest = max(smallest, LARGEST * unchanged)
    s = float(np.exp(random.uniform(np.log(smallest), np.log(largest))))
    down, across = (round(side * s) for side in thing.mask.shape)
    middle = random.uniform(0, width)
    top = round(HORIZON * height + s * (thing.top - HORIZON * thing.of_hw[0]))
    left = round(middle - across / 2)
    method = cv2.INTER_AREA if s < 1 else cv2.INTER_LINEAR
    small = cv2.resize(thing.image_bgr, (across, down), interpolation=method)
    cover = cv2.resize(thing.mask.astype(np.float32), (across, down), interpolation=method)
    rows, columns = _inside(top, down, height), _inside(left, across, width)
    if rows is None or columns is None:
        return image_bgr, labels
    here = (
        slice(top + rows.start, top + rows.stop),
        slice(left + columns.start, left + columns.stop),
    )
    small, cover = small[rows, columns], cover[rows, columns]
    image, named = image_bgr.copy(), labels.copy()
    weight = cover[..., None]
    image[here] = np.rint(weight * small + (1 - weight) * image[here]).astype(np.uint8)
    named[here][cover >= 0.5] = word
    return image, named


def _inside(start: int, length: int, side: int) -> slice | None:
    """Return the part of `length` pixels from `start` that lies in [0, side), None for none."""
    first, last = max(0, -start), min(length, side - start)
    return slice(first, last) if first < last else None
