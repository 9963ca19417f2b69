"""Image messages of ROS and Foxglove as pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.pictures import coloured, eight_bits

IMAGE_TYPES = {
    "sensor_msgs/Image": "raw",
    "sensor_msgs/CompressedImage": "compressed",
    "foxglove.RawImage": "raw",
    "foxglove.CompressedImage": "compressed",
    "foxglove_msgs/RawImage": "raw",
    "foxglove_msgs/CompressedImage": "compressed",
}
"""Kind of each message type that holds a picture; ROS 2's `/msg/` is left out of the names."""

_PIXELS: dict[str, tuple[type[np.generic], int, str | None]] = {
    # encoding: dtype, channels in memory, OpenCV's conversion to BGR
    "bgr8": (np.uint8, 3, None),
    "8uc3": (np.uint8, 3, None),
    "rgb8": (np.uint8, 3, "COLOR_RGB2BGR"),
    "bgra8": (np.uint8, 4, "COLOR_BGRA2BGR"),
    "8uc4": (np.uint8, 4, "COLOR_BGRA2BGR"),
    "rgba8": (np.uint8, 4, "COLOR_RGBA2BGR"),
    "mono8": (np.uint8, 1, "COLOR_GRAY2BGR"),
    "8uc1": (np.uint8, 1, "COLOR_GRAY2BGR"),
    "mono16": (np.uint16, 1, "COLOR_GRAY2BGR"),
    "16uc1": (np.uint16, 1, "COLOR_GRAY2BGR"),
    "yuv422": (np.uint8, 2, "COLOR_YUV2BGR_UYVY"),
    "uyvy": (np.uint8, 2, "COLOR_YUV2BGR_UYVY"),
    "yuv422_yuy2": (np.uint8, 2, "COLOR_YUV2BGR_YUY2"),
    "yuyv": (np.uint8, 2, "COLOR_YUV2BGR_YUY2"),
    # OpenCV names Bayer patterns by the second row's second and third pixel.
    "bayer_rggb8": (np.uint8, 1, "COLOR_BayerBG2BGR"),
    "bayer_bggr8": (np.uint8, 1, "COLOR_BayerRG2BGR"),
    "bayer_gbrg8": (np.uint8, 1, "COLOR_BayerGR2BGR"),
    "bayer_grbg8": (np.uint8, 1, "COLOR_BayerGB2BGR"),
}

COMPRESSED = "JPEG, PNG, WebP, TIFF and BMP"
DEPTH_HEADER = 12
"""Bytes before the PNG of image_transport's compressedDepth."""


@dataclass(frozen=True, eq=False)
class ImageMessage:
    """Bytes of a picture as a recording has them."""

    data: bytes | NDArray[np.uint8]
    """The file of a picture if `encoding` is "", otherwise rows of `step` bytes, `height` of them
    with `width` pixels each."""

    encoding: str = ""
    height: int = 0
    width: int = 0
    step: int = 0
    big_endian: bool = False
    """Order of 16-bit values."""

    format: str = ""
    """What a compressed picture says that it is, as "bgr8; jpeg compressed bgr8"."""

    coordinate_frame: str = ""
    """Of the camera, as the header has it."""


def decode_image(
    message: ImageMessage, *, on_stretch: Callable[[], None] = lambda: None
) -> NDArray[np.uint8]:
    """Return the picture, uint8 BGR [H, W, 3]. Raises SourceError.

    on_stretch: called for one of 16 bits that is shown brighter than it is, see `eight_bits`.
    """
    if not message.encoding:
        return _decompressed(message, on_stretch)
    content = np.frombuffer(message.data, np.uint8)
    if message.encoding.lower() == "nv12":
        rows = _rows(content, message, height=message.height * 3 // 2, row_bytes=message.width)
        return _converted(rows, "COLOR_YUV2BGR_NV12")
    if message.encoding.lower() not in _PIXELS:
        raise SourceError(
            f"its encoding {message.encoding[:40]!r} is not a picture's; known are "
            f"{', '.join(_PIXELS)}, nv12, and compressed {COMPRESSED}"
        )
    dtype, channels, conversion = _PIXELS[message.encoding.lower()]
    width = np.dtype(dtype).itemsize
    rows = _rows(content, message, message.height, message.width * channels * width)
    pixels = rows.view(np.dtype(dtype).newbyteorder(">" if message.big_endian else "<"))
    pixels = pixels.reshape(message.height, message.width, channels)
    if width == 2:
        # By ROS's conventions (REP 118) 16UC1 is depth in millimetres.
        is_depth = message.encoding.lower() == "16uc1"
        pixels = eight_bits(pixels, is_depth=is_depth, on_stretch=on_stretch)
    if conversion is None:
        return np.ascontiguousarray(pixels, np.uint8)
    return _converted(np.ascontiguousarray(pixels), conversion)


def _decompressed(message: ImageMessage, on_stretch: Callable[[], None]) -> NDArray[np.uint8]:
    data = bytes(message.data)
    if "compressedDepth" in message.format and message.format.startswith("16UC1"):
        data = data[DEPTH_HEADER:]
    try:
        picture = coloured(data, name="its compressed picture", on_stretch=on_stretch)
    except BadInputError as error:
        raise SourceError(str(error)) from error
    if picture is None:
        called = f" ({message.format[:40]!r})" if message.format else ""
        raise SourceError(
            f"its compressed picture{called} is damaged or of an unknown kind; known are {COMPRESSED}"
        )
    return picture


def _converted(pixels: NDArray[Any], conversion: str) -> NDArray[np.uint8]:
    import cv2

    # Pairs and patterns need even sides, or more than one row; OpenCV knows best which.
    with foreign(lambda why: SourceError(f"its pixels cannot be turned to BGR ({why})")):
        return np.asarray(cv2.cvtColor(pixels, getattr(cv2, conversion)), np.uint8)


def _rows(
    content: NDArray[np.uint8], message: ImageMessage, height: int, row_bytes: int
) -> NDArray[np.uint8]:
    step = message.step or row_bytes
    if min(message.height, message.width) < 1 or step < row_bytes or content.size < step * height:
        raise SourceError(
            f"its {message.encoding} picture of {message.width}x{message.height} needs "
            f"{height * row_bytes} bytes and has {content.size} in rows of {step}"
        )
    return np.ascontiguousarray(content[: step * height].reshape(height, step)[:, :row_bytes])
