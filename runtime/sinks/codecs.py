"""Codecs of overlay videos: pictures in, packets for an MP4 out, as many as there are pictures and in
their order.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import SinkError
from dedos_deploy.runtime.sinks.files import encode_picture
from dedos_deploy.runtime.sinks.fragmented_mp4 import Packet, full_box, sample_entry

WEBP_QUALITY = 75
"""As good to the eye as a JPEG of quality 90 at a third of its bytes."""

JPEG_OBJECT_TYPE = 0x6C
VISUAL_STREAM = 4 << 2 | 1


class Encoder(Closing):
    """Pictures of one size in, packets out."""

    @abstractmethod
    def encode(self, picture_bgr: NDArray[np.uint8]) -> list[Packet]:
        """Take a picture, uint8 [H, W, 3] with even sides; return the packets that are ready."""

    def finish(self) -> Iterable[Packet]:
        """Return the packets that are left. Raises SinkError."""
        return ()

    @abstractmethod
    def entry(self, size_hw: tuple[int, int]) -> bytes:
        """Return the description of the pictures in an MP4, once there was a packet."""

    def close(self) -> None:
        """Release what is held; may be called twice."""


class JpegPictures(Encoder):
    """Every picture a JPEG (ISO/IEC 14496-1 has the `esds` descriptor that names it)."""

    def encode(self, picture_bgr: NDArray[np.uint8]) -> list[Packet]:
        return [Packet(encode_picture(".jpg", picture_bgr))]

    def entry(self, size_hw: tuple[int, int]) -> bytes:
        def descriptor(tag: int, content: bytes) -> bytes:
            return struct.pack(">BB", tag, len(content)) + content

        decoder = struct.pack(">BB", JPEG_OBJECT_TYPE, VISUAL_STREAM) + bytes(3 + 4 + 4)
        sync = descriptor(6, b"\x02")
        stream = descriptor(3, struct.pack(">HB", 1, 0) + descriptor(4, decoder) + sync)
        return sample_entry("mp4v", size_hw, full_box("esds", 0, 0, stream))


class Vp8Pictures(Encoder):
    """Every picture a key frame of VP8, which is what a lossy WebP holds (RFC 9649).

    So OpenCV's libwebp (BSD) is the encoder, and there is one wherever there is an OpenCV.
    """

    def encode(self, picture_bgr: NDArray[np.uint8]) -> list[Packet]:
        import cv2

        quality = (cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY)
        return [Packet(vp8_in_webp(encode_picture(".webp", picture_bgr, quality)))]

    def entry(self, size_hw: tuple[int, int]) -> bytes:
        # "VP Codec ISO Media File Format Binding": profile 0, level unknown, 8 bits 4:2:0 of limited
        # range, colours of BT.601.
        configuration = struct.pack(">BBBBBBH", 0, 0, 8 << 4, 6, 6, 6, 0)
        return sample_entry("vp08", size_hw, full_box("vpcC", 1, 0, configuration))


def vp8_in_webp(content: bytes) -> bytes:
    """Return the VP8 frame of a simple lossy WebP. Raises SinkError for another one."""
    if content[:4] != b"RIFF" or content[8:16] != b"WEBPVP8 ":
        raise SinkError(
            f"OpenCV wrote a WebP of kind {content[12:16]!r} where a lossy one was asked for; choose "
            "another codec"
        )
    (size,) = struct.unpack("<I", content[16:20])
    return content[20 : 20 + size]
