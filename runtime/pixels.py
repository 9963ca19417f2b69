"""What may be given as a frame, checked once: arrays on the host, NV12, and frames on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.foreign_arrays import CudaArray, DlpackArray, host_array, is_array
from dedos_deploy.runtime.frame import check_frame
from dedos_deploy.runtime.nv12 import Nv12Frame

DEFAULT_STREAM = 1
"""CUDA's default stream, as both protocols and CUDA itself number it."""

Order = Literal["bgr", "rgb"]
"""Order of the channels of a frame."""


@dataclass(frozen=True, eq=False)
class ForeignFrame:
    """A frame that lies on a GPU, as its owner gave it."""

    given: DlpackArray | CudaArray | Nv12Frame
    """uint8 [H, W, 3], or NV12."""

    order: Order
    """Of the channels of the former."""

    stream: int | None
    """Of the caller, whose work so far writes it, None if only its owner knows."""


HostPixels = NDArray[np.uint8] | Nv12Frame
"""Pixels as sources give them: BGR uint8 [H, W, 3], or NV12."""

Given = HostPixels | DlpackArray | CudaArray
"""What `segment` takes as a frame."""

Pixels = HostPixels | ForeignFrame
"""Pixels as an engine's labeller gets them."""


def check_pixels(given: Any, order: Order, stream: int | None = None) -> Pixels:
    """Return a frame as labellers take it, without a copy.

    Raises BadInputError saying what it is and what to do.
    """
    if order not in ("bgr", "rgb"):
        raise BadInputError(f"the order {order!r} of channels is unknown; it is bgr or rgb")
    if isinstance(given, Nv12Frame):
        if order == "rgb":
            raise BadInputError("an NV12 frame has no order of channels; leave order='rgb' out")
        return ForeignFrame(given, order, stream) if given.on_device else given
    if not is_array(given):
        return check_frame(given)  # which says what is taken
    there = host_array(given)
    if there is None:
        return ForeignFrame(given, order, stream)
    frame = check_frame(there)
    return frame[:, :, ::-1] if order == "rgb" else frame


def stream_of(stream: Any, result: str) -> int | None:
    """Return the handle of the caller's CUDA stream: of a number, or of what has `__cuda_stream__`.

    0, as torch and CuPy number the default stream, is 1, as the protocols do; without one it is the
    default stream for a result that stays on the device. Raises BadInputError.

    >>> stream_of(0, "host"), stream_of(94127, "device"), stream_of(None, "device")
    (1, 94127, 1)
    """
    if result not in ("host", "device"):
        raise BadInputError(f"the result {result!r} is unknown; it is host or device")
    if stream is None:
        return DEFAULT_STREAM if result == "device" else None
    if hasattr(stream, "__cuda_stream__"):
        told = stream.__cuda_stream__
        stream = (told() if callable(told) else told)[1]
    if isinstance(stream, bool) or not isinstance(stream, int) or stream < 0:
        raise BadInputError(
            f"a stream must be its handle, as torch.cuda.current_stream().cuda_stream, or have "
            f"__cuda_stream__, not {stream!r}"
        )
    return stream or DEFAULT_STREAM


def check_stream(pixels: Pixels, result: str, stream: int | None) -> None:
    """Raise BadInputError for a stream that orders nothing."""
    if stream is not None and result == "host" and not isinstance(pixels, ForeignFrame):
        raise BadInputError(
            "a stream orders frames and results on a GPU, but frame and result are on the host; leave "
            "it out, or ask for result='device'"
        )


def bgr_on_host(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the frame in BGR for an engine that reads frames on the host.

    Raises BadInputError for one on a GPU, which is not copied in silence.
    """
    if isinstance(pixels, np.ndarray):
        return pixels
    if isinstance(pixels, Nv12Frame):
        return pixels.frame_bgr
    raise BadInputError(
        "this frame lies on a GPU, but this engine reads frames on the host; copy it there, in torch "
        "with frame.cpu(), or choose engine trt or rtx on an installation with CUDA kernels, "
        "without tiles or labels that are stable in time"
    )
