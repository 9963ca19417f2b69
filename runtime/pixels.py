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

Order = Literal["bgr", "rgb"]
"""Order of the channels of a frame."""


@dataclass(frozen=True, eq=False)
class ForeignFrame:
    """A frame uint8 [H, W, 3] that lies on a GPU, as its owner gave it."""

    array: Any
    """With `__dlpack__` or `__cuda_array_interface__`."""

    order: Order
    """Of its channels."""


HostPixels = NDArray[np.uint8] | Nv12Frame
"""Pixels as sources give them: BGR uint8 [H, W, 3], or NV12."""

Given = HostPixels | DlpackArray | CudaArray
"""What `segment` takes as a frame."""

Pixels = HostPixels | ForeignFrame
"""Pixels as an engine's labeller gets them."""


def check_pixels(given: Any, order: Order) -> Pixels:
    """Return a frame as labellers take it, without a copy.

    Raises BadInputError saying what it is and what to do.
    """
    if order not in ("bgr", "rgb"):
        raise BadInputError(f"the order {order!r} of channels is unknown; it is bgr or rgb")
    if isinstance(given, Nv12Frame):
        if order == "rgb":
            raise BadInputError("an NV12 frame has no order of channels; leave order='rgb' out")
        return given
    if not is_array(given):
        return check_frame(given)  # which says what is taken
    there = host_array(given)
    if there is None:
        return ForeignFrame(given, order)
    frame = check_frame(there)
    return frame[:, :, ::-1] if order == "rgb" else frame


def bgr_on_host(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the frame in BGR for an engine that reads frames on the host.

    Raises BadInputError for one on a GPU, which is not copied in silence.
    """
    if isinstance(pixels, np.ndarray):
        return pixels
    if isinstance(pixels, Nv12Frame) and not pixels.on_device:
        return pixels.frame_bgr
    raise BadInputError(
        "this frame lies on a GPU, but this engine reads frames on the host; copy it there, in torch "
        "with frame.cpu(), or choose engine trt or rtx on an installation with CUDA kernels"
    )
