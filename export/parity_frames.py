"""Frames of the parity gate, made small enough to travel in the bundle to the gate on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dedos_deploy.bundle import MOST_PARITY_FRAMES, PARITY_FOLDER, PARITY_FRAME_SIDE
from dedos_deploy.pictures import Picture

QUALITIES = (90, 75, 50, 25)
MOST_BYTES = 240_000
"""Of one frame, for which the highest of QUALITIES is taken that fits; noise fits the lowest."""


def packed_frames(frames_bgr: Sequence[Picture]) -> dict[str, bytes]:
    """Return files of a bundle with frames spread evenly over those given, as JPEG.

    Less than 1 MB in all, at most MOST_PARITY_FRAMES frames of PARITY_FRAME_SIDE pixels.
    """
    count = min(MOST_PARITY_FRAMES, len(frames_bgr))
    chosen = [frames_bgr[index * len(frames_bgr) // count] for index in range(count)]
    return {
        f"{PARITY_FOLDER}/{number}.jpg": _packed(frame)
        for number, frame in enumerate(chosen, start=1)
    }


def _packed(frame_bgr: Picture) -> bytes:
    import cv2

    small, content = _small(frame_bgr), b""
    for quality in QUALITIES:
        _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
        content = encoded.tobytes()
        if len(content) <= MOST_BYTES:
            break
    return content


def _small(frame_bgr: Picture) -> Picture:
    import cv2

    height, width = frame_bgr.shape[:2]
    scale = min(1.0, PARITY_FRAME_SIDE / max(height, width))
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(frame_bgr, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
