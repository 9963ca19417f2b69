"""Compressed chunks of recordings, opened in bounded memory: 130 kB of zstd can become 4 GB."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from typing import TYPE_CHECKING

from dedos_deploy.errors import SourceError

if TYPE_CHECKING:
    from rosbags.rosbag1 import Reader as Rosbag1Reader
    from rosbags.rosbag2 import Reader as Rosbag2Reader

MAX_CHUNK = 1 << 28
"""Bytes that a chunk may have when it is opened; recorders write a few MiB, or one large message."""

Open = Callable[[bytes], bytes]


def check_chunk(size: int) -> None:
    """Raise SourceError when a chunk would have more bytes than are read."""
    if size > MAX_CHUNK:
        raise SourceError(
            f"a chunk of the recording has more than {MAX_CHUNK} bytes when it is opened; record it "
            "again in smaller chunks"
        )


def lz4_opened(data: bytes, size: int | None = None) -> bytes:
    """Return what an LZ4 frame holds. Raises SourceError for more than `size`, or MAX_CHUNK, bytes."""
    from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]

    decompressor = LZ4FrameDecompressor()
    opened: bytes = decompressor.decompress(data, max_length=MAX_CHUNK if size is None else size)
    _check_end(decompressor.eof)
    return opened


def bz2_opened(data: bytes) -> bytes:
    """Return what a bzip2 stream holds. Raises SourceError for more than MAX_CHUNK bytes."""
    decompressor = bz2.BZ2Decompressor()
    opened = decompressor.decompress(data, max_length=MAX_CHUNK)
    _check_end(decompressor.eof)
    return opened


def zstd_opened(data: bytes) -> bytes:
    """Return what a Zstandard frame holds. Raises SourceError for more than MAX_CHUNK bytes."""
    import zstandard

    # What a frame says is allocated; one that does not say its size ends at the limit.
    check_chunk(zstandard.frame_content_size(data))
    try:
        return zstandard.decompress(data, max_output_size=MAX_CHUNK)
    except zstandard.ZstdError as error:
        raise _broken() from error


def take_over_messages(reader: Rosbag2Reader) -> bool:
    """Let an open reader of a ROS 2 bag give its messages as they are; return whether they are to be
    opened with `zstd_opened`."""
    if reader.compression_mode != "message":
        return False
    reader.storage.metadata = reader.storage.metadata._replace(compression_mode=None)
    return True


def bound_chunks(reader: Rosbag1Reader) -> None:
    """Let an open reader of a ROS 1 bag open its chunks by the functions above."""
    from lz4.frame import decompress as lz4_decompress

    bounded: dict[Open, Open] = {bz2.decompress: bz2_opened, lz4_decompress: lz4_opened}
    for place, chunk in reader.chunks.items():
        opener = bounded.get(chunk.decompressor, chunk.decompressor)
        reader.chunks[place] = chunk._replace(decompressor=opener)


def _check_end(at_end: bool) -> None:
    if not at_end:
        raise _broken()


def _broken() -> SourceError:
    return SourceError(
        f"a chunk of the recording breaks off, or has more bytes than it states or than {MAX_CHUNK} "
        "when it is opened; copy it again or record it in smaller chunks"
    )
