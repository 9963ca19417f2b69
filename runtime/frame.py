"""A frame: its identity and time, the check of its pixels, and its resizing to the network size.

The resizing is all of preprocessing: channel order, scaling, mean and standard deviation are folded
into the graph.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.nv12 import Nv12Frame


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture on its way through the pipeline."""

    pixels: NDArray[np.uint8] | Nv12Frame
    """BGR uint8 [H, W, 3], or NV12 where the source has that and nobody needed BGR yet."""

    frame_id: int
    """0, 1, 2, ... in the order the source produced them, so a gap is a dropped frame."""

    timestamp_s: float
    """`time.monotonic()` when it was read."""

    source_id: str
    """The source's address without credentials."""

    name: str
    """Stem for files made from this frame."""

    media_s: float | None = None
    """Position in a recording, None for live sources and pictures."""

    clock_ns: int | None = None
    """Nanoseconds since 1970 by the clock of whoever recorded it, None where none is known."""

    picture: str | None = None
    """Path of the picture file it was read from, None for what is no file of its own."""

    topic: str = ""
    """Of the recording that it is from, "" elsewhere."""

    coordinate_frame: str = ""
    """Of the camera, as its recording calls it (`frame_id` of the header); "" elsewhere."""

    @property
    def frame_bgr(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]; NV12 is converted when this is first asked for, and only then."""
        return self.pixels if isinstance(self.pixels, np.ndarray) else self.pixels.frame_bgr

    @property
    def captured_ns(self) -> int:
        """Nanoseconds since 1970 of the capture: `clock_ns`, or this machine's clock as it is now."""
        if self.clock_ns is not None:
            return self.clock_ns
        return time.time_ns() - int(1e9 * (time.monotonic() - self.timestamp_s))

    def __repr__(self) -> str:
        pixels = self.pixels
        height, width = (pixels if isinstance(pixels, np.ndarray) else pixels.luma).shape[:2]
        return f"Frame({self.source_id!r}, id={self.frame_id}, {height}x{width})"


def check_frame(frame_bgr: Any) -> NDArray[np.uint8]:
    """Return `frame_bgr` if it is uint8 [H, W, 3] with at least one pixel.

    Raises BadInputError saying what it is and what to do.
    """
    if not isinstance(frame_bgr, np.ndarray):
        raise BadInputError(
            f"a frame must be a numpy array uint8 [H, W, 3] in BGR order, not a "
            f"{type(frame_bgr).__name__}; read it with cv2.imread or a dedos_deploy source, or give "
            "an array with __dlpack__ or __cuda_array_interface__, or an Nv12Frame"
        )
    if frame_bgr.dtype != np.uint8:
        raise BadInputError(
            f"a frame must have dtype uint8 with values 0 to 255, not {frame_bgr.dtype}; "
            "convert it before segmenting"
        )
    if frame_bgr.ndim != 3 or frame_bgr.shape[2] != 3 or frame_bgr.size == 0:
        raise BadInputError(
            f"a frame must have shape [H, W, 3] in BGR order and at least one pixel, not "
            f"{list(frame_bgr.shape)}; convert grey with cv2.COLOR_GRAY2BGR, alpha with "
            "cv2.COLOR_BGRA2BGR, channels first with transpose(1, 2, 0)"
        )
    return frame_bgr


def resize_frame(frame_bgr: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Write `frame_bgr`, uint8 [H, W, 3], at the size of `out`, uint8 [H0, W0, 3] C-contiguous.

    Area averaging where the frame shrinks along both axes, bilinear otherwise. The aspect ratio
    is not kept: the score map is stretched back in the same way.
    """
    import cv2

    height, width = out.shape[:2]
    if frame_bgr.shape == out.shape:
        np.copyto(out, frame_bgr)
        return
    if frame_bgr.strides[2] == -1:
        # RGB seen as BGR: OpenCV would first copy all of it; the small picture is turned instead.
        resize_frame(frame_bgr[:, :, ::-1], out)
        np.copyto(out, out[:, :, ::-1].copy())
        return
    shrinks = height <= frame_bgr.shape[0] and width <= frame_bgr.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(frame_bgr, (width, height), dst=out, interpolation=method)
