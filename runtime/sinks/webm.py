"""WebM files, which every browser plays where there is no H.264 (Matroska's elements, RFC 9559)."""

from __future__ import annotations

import struct
from typing import IO

from dedos_deploy.runtime.sinks.fragmented_mp4 import Packet

SCALE_NS = 1_000_000
"""Nanoseconds of a tick."""
TICKS = 1_000
INDEX_EVERY = TICKS
UNKNOWN_SIZE = b"\x01" + b"\xff" * 7
KEY = 0x80
"""Flag of a block that depends on no other."""
SEEK_ROOM = 80
"""Bytes that are kept at the start for where the index lies."""


def element(number: int, *content: bytes) -> bytes:
    """Return an element: its number, its size in 8 bytes, and what it holds."""
    body = b"".join(content)
    width = (number.bit_length() + 7) // 8
    return number.to_bytes(width, "big") + struct.pack(">Q", len(body) | 1 << 56) + body


def whole(number: int, value: int) -> bytes:
    """Return an element that holds a whole number."""
    return element(number, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


class WebM:
    """Writes pictures in VP8, each at its own time, into a file that plays after each of them and can be
    searched once it is finished."""

    def __init__(self, file: IO[bytes], size_hw: tuple[int, int], *, step_s: float) -> None:
        """file: empty and open for writing; size_hw: of every picture; step_s: how long a lone picture is
        shown. Writes the header."""
        self._file = file
        self._step = max(1, round(step_s * TICKS))
        self._time = -1
        self._index: list[tuple[int, int]] = []
        kind = element(0x4282, b"webm")
        versions = whole(0x4286, 1), whole(0x42F7, 1), whole(0x42F2, 4), whole(0x42F3, 8)
        start = element(0x1A45DFA3, *versions, kind, whole(0x4287, 4), whole(0x4285, 2))
        self._segment_at = len(start) + 4
        self._inside = self._segment_at + 8
        info = _info(0.0)
        self._info_at = self._inside + SEEK_ROOM
        file.write(start + struct.pack(">I", 0x18538067) + UNKNOWN_SIZE)
        file.write(_filler(SEEK_ROOM) + info + _tracks(size_hw))
        self._at = file.tell()

    def add(self, packet: Packet, time_s: float) -> None:
        """Write a picture that is shown from `time_s` on, at least a tick after the one before."""
        time = max(round(time_s * TICKS), self._time + 1)
        if self._time >= 0:
            self._step = time - self._time
        if packet.key and (not self._index or time - self._index[-1][0] >= INDEX_EVERY):
            self._index.append((time, self._at - self._inside))
        self._time = time
        block = struct.pack(">BhB", 0x81, 0, KEY if packet.key else 0) + packet.content
        cluster = element(0x1F43B675, whole(0xE7, time), element(0xA3, block))
        self._file.write(cluster)
        self._file.flush()
        self._at += len(cluster)

    def finish(self) -> None:
        """Write the index for jumping, and how long the video is."""
        points = [
            element(
                0xBB,
                whole(0xB3, time),
                element(0xB7, whole(0xF7, 1), whole(0xF1, place)),
            )
            for time, place in self._index
        ]
        index = element(0x1C53BB6B, *points)
        self._file.write(index)
        end, place = self._at + len(index), self._at - self._inside
        self._write_at(self._segment_at, struct.pack(">Q", (end - self._inside) | 1 << 56))
        seek = element(0x4DBB, element(0x53AB, b"\x1c\x53\xbb\x6b"), whole(0x53AC, place))
        head = element(0x114D9B74, seek)
        self._write_at(self._inside, head + _filler(SEEK_ROOM - len(head)))
        self._write_at(self._info_at, _info(float(self._time + self._step)))
        self._file.seek(end)
        self._file.flush()

    def _write_at(self, place: int, content: bytes) -> None:
        self._file.seek(place)
        self._file.write(content)


def _filler(size: int) -> bytes:
    return element(0xEC, bytes(size - 9))


def _info(duration: float) -> bytes:
    """Return the element with the duration, in ticks, which has the same size whatever that is."""
    name = b"DEDOS Deploy"
    length = element(0x4489, struct.pack(">d", duration))
    return element(
        0x1549A966, whole(0x2AD7B1, SCALE_NS), length, element(0x4D80, name), element(0x5741, name)
    )


def _tracks(size_hw: tuple[int, int]) -> bytes:
    picture = element(0xE0, whole(0xB0, size_hw[1]), whole(0xBA, size_hw[0]))
    entry = element(
        0xAE,
        whole(0xD7, 1),
        whole(0x73C5, 1),
        whole(0x9C, 0),
        whole(0x83, 1),
        element(0x86, b"V_VP8"),
        picture,
    )
    return element(0x1654AE6B, entry)
