"""Scores that are stable in time: those of the frames before, moved along with the picture, are blended in."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

GREY_SIDE = 160
"""Longer side of the pictures in which motion is looked for: with the exposure two milliseconds of one core."""

LEAST_SIDE = 32
"""Shorter side at least; the search for motion works in patches of eight pixels on three scales."""

FINEST_SCALE = 1
"""Motion is found down to half of the picture's size, and interpolated from there."""

STEP = 2
"""Of the pixels from which the exposure is told, along each axis."""

CLEAR_LEVELS = (12, 245)
"""What is darker or brighter says nothing of the exposure."""

EXPOSURES = (0.5, 2.0)
"""Least and most that the brightness may change in a frame."""

Scores = NDArray[np.float32]
Grey = NDArray[np.uint8]


class Stabiliser:
    """The past of one stream of frames, which are given in their order, one at a time.

    Memory is allocated for the first frame, and again when the number of scores changes.
    """

    def __init__(self) -> None:
        self._subject: Hashable = None
        self._grey: Grey | None = None
        self._past: Scores = np.empty((0, 0, 0), np.float32)
        self._next = np.empty_like(self._past)
        self._smoothed = np.empty_like(self._past)
        self._flow: Any = None

    def smoothed(self, scores: Scores, image_bgr: NDArray[np.uint8], subject: Hashable) -> Scores:
        """Return the scores of the next frame, steadied by those before.

        scores: float32 [K, h, w] in [0, 1]; image_bgr: uint8 [H, W, 3], the picture they are of, of any
        size; subject: what they mean and of which frames: another one than the frame before had begins
        anew, as a cut of the picture does. The result is overwritten by the next call; it is `scores`
        themselves where nothing is known of before.
        """
        import cv2

        from dedos_deploy import _native

        grey = grey_of(image_bgr)
        before, self._grey = self._grey, grey
        begins = before is None or before.shape != grey.shape or subject != self._subject
        if begins or self._smoothed.shape != scores.shape:
            self._subject = subject
            self._allocate(scores.shape)
            _native.remember(scores, self._past)
            return scores
        assert before is not None, "it does not begin"
        flow = self._moved(grey, before)
        alike = np.empty_like(before)
        cv2.convertScaleAbs(before, dst=alike, alpha=exposure(grey, before, flow))
        _native.stabilise(scores, grey, alike, flow, self._past, self._smoothed, self._next)
        self._past, self._next = self._next, self._past
        return self._smoothed

    def forget(self) -> None:
        """Begin anew with the next frame."""
        self._grey = None

    def _moved(self, grey: Grey, before: Grey) -> Scores:
        """Return where every pixel was before: offsets in x and y, float32 [H, W, 2]."""
        import cv2

        if self._flow is None:
            self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
            self._flow.setFinestScale(FINEST_SCALE)
        moved: Scores = self._flow.calc(grey, before, None)
        return moved

    def _allocate(self, shape: tuple[int, ...]) -> None:
        from dedos_deploy import _native

        if self._smoothed.shape == shape:
            return
        slots, height, width = shape
        whole_lanes = -(-slots // _native.SCORE_LANES) * _native.SCORE_LANES
        self._smoothed = np.empty(shape, np.float32)
        self._past = np.empty((height, width, whole_lanes), np.float32)
        self._next = np.empty_like(self._past)


def grey_of(image_bgr: NDArray[np.uint8]) -> Grey:
    """Return a picture in grey at the size in which motion is looked for.

    >>> grey_of(np.zeros((288, 384, 3), np.uint8)).shape, grey_of(np.zeros((8, 99, 3), np.uint8)).shape
    ((120, 160), (32, 160))
    """
    import cv2

    height, width = image_bgr.shape[:2]
    longer = max(height, width)
    size_wh = [max(LEAST_SIDE, round(side * GREY_SIDE / longer)) for side in (width, height)]
    small = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_AREA)
    grey = np.empty(small.shape[:2], np.uint8)
    cv2.cvtColor(small, cv2.COLOR_BGR2GRAY, dst=grey)
    return grey


def exposure(grey: Grey, before: Grey, flow: Scores) -> float:
    """Return how many times brighter `grey` is than `before`, whose pixels moved by `flow`.

    Cameras change their exposure as they turn to a window or away from it; that is no other picture.
    """
    import cv2

    some = flow[::STEP, ::STEP]
    rows, columns = np.mgrid[: grey.shape[0] : STEP, : grey.shape[1] : STEP].astype(np.float32)
    was = cv2.remap(before, columns + some[..., 0], rows + some[..., 1], cv2.INTER_LINEAR)
    now = grey[::STEP, ::STEP]
    dark, bright = CLEAR_LEVELS
    clear = (was > dark) & (was < bright) & (now > dark) & (now < bright)
    if not clear.any():
        return 1.0
    times = np.median(now[clear] / was[clear].astype(np.float32))
    return float(np.clip(times, *EXPOSURES))
