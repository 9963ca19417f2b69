"""Images of ROS as frames that a Segmenter takes; nothing here needs ROS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import Nv12Frame
from dedos_deploy.runtime.sources.bag_images import ImageMessage, decode_image

Picture = NDArray[np.uint8] | Nv12Frame
"""uint8 [H, W, 3] BGR, or NV12 as it came, which an engine on a GPU takes as it is."""


def frame_of_image(message: Any) -> Picture:
    """Return the frame in a `sensor_msgs/Image`, or in what has its fields.

    Rows may be padded (`step`). Raises SourceError, and BadInputError for NV12 with odd sides.
    """
    content = np.frombuffer(message.data, np.uint8)
    if message.encoding.lower() == "nv12":
        return _nv12(content, message.height, message.width, message.step or message.width)
    return decode_image(
        ImageMessage(
            content,
            message.encoding or "(empty)",
            message.height,
            message.width,
            message.step,
            bool(message.is_bigendian),
        )
    )


def frame_of_compressed(message: Any) -> Picture:
    """Return the frame, uint8 [H, W, 3] BGR, in a `sensor_msgs/CompressedImage`. Raises SourceError."""
    return decode_image(ImageMessage(bytes(message.data), format=message.format))


def frame_bgr(picture: Picture) -> NDArray[np.uint8]:
    """Return a frame as uint8 [H, W, 3] BGR."""
    return picture.frame_bgr if isinstance(picture, Nv12Frame) else picture


def _nv12(content: NDArray[np.uint8], height: int, width: int, step: int) -> Nv12Frame:
    rows = height * 3 // 2
    if min(height, width) < 1 or step < width or content.size < rows * step:
        raise SourceError(
            f"its nv12 picture of {width}x{height} needs {rows * width} bytes and has {content.size} "
            f"in rows of {step}"
        )
    return Nv12Frame.from_rows(content[: rows * step].reshape(rows, step)[:, :width])
