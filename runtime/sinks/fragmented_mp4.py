"""MP4 that can be played whatever became of its writer: every picture is a fragment of its own.

ISO/IEC 14496-12 (boxes, movie fragments) and 14496-1 (the `esds` descriptor that names JPEG).
"""

from __future__ import annotations

import struct
from typing import IO

TIMESCALE = 90_000
"""Ticks a second, as MPEG has them."""
EPOCH_1904_S = 2_082_844_800
"""From 1904, where MP4's clock starts, to 1970."""
JPEG_OBJECT_TYPE = 0x6C
VISUAL_STREAM = 4 << 2 | 1
INDEX_EVERY = TIMESCALE
NO_LEADING_SAMPLES = 0x02000000
"""Sample flags of a picture that depends on no other."""


def box(kind: str, *content: bytes) -> bytes:
    """Return a box: its size, kind and content."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind.encode()) + body


def full_box(kind: str, version: int, flags: int, *content: bytes) -> bytes:
    """Return a box with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


class FragmentedMp4:
    """Writes JPEG pictures, each at its own time, into a file that is complete after each of them."""

    def __init__(self, file: IO[bytes], size_hw: tuple[int, int], *, created_s: float) -> None:
        """file: empty and open for writing; size_hw: of every picture; created_s: seconds since 1970
        of time 0. Writes the header."""
        self._file = file
        self._at = 0
        self._sequence = 0
        self._time = -1
        self._step = TIMESCALE // 10
        self._index: list[tuple[int, int]] = []
        self._write(_header(size_hw, round(created_s) + EPOCH_1904_S))

    def add(self, jpeg: bytes, time_s: float) -> None:
        """Write a picture that is shown from `time_s` on, at least a tick after the one before."""
        time = max(round(time_s * TIMESCALE), self._time + 1)
        if self._time >= 0:
            self._step = time - self._time
        if not self._index or time - self._index[-1][0] >= INDEX_EVERY:
            self._index.append((time, self._at))
        self._time = time
        self._sequence += 1
        # The next picture's own time ends this one; until then it lasts as long as the one before.
        self._write(_fragment(self._sequence, time, self._step, len(jpeg)) + box("mdat", jpeg))
        self._file.flush()

    def finish(self) -> None:
        """Write the index for jumping in the file, which plays without it too."""
        if not self._index:
            return
        entries = b"".join(struct.pack(">QQBBB", time, at, 1, 1, 1) for time, at in self._index)
        table = full_box("tfra", 1, 0, struct.pack(">III", 1, 0, len(self._index)), entries)
        size = 8 + len(table) + 16
        self._write(box("mfra", table, full_box("mfro", 0, 0, struct.pack(">I", size))))
        self._file.flush()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._at += len(content)


def _fragment(sequence: int, time: int, duration: int, size: int) -> bytes:
    def moof(data_offset: int) -> bytes:
        return box(
            "moof",
            full_box("mfhd", 0, 0, struct.pack(">I", sequence)),
            box(
                "traf",
                full_box("tfhd", 0, 0x020000, struct.pack(">I", 1)),
                full_box("tfdt", 1, 0, struct.pack(">Q", time)),
                full_box(
                    "trun",
                    0,
                    0x000701,
                    struct.pack(">IiIII", 1, data_offset, duration, size, NO_LEADING_SAMPLES),
                ),
            ),
        )

    return moof(len(moof(0)) + 8)


def _header(size_hw: tuple[int, int], created: int) -> bytes:
    height, width = size_hw
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    track = box(
        "trak",
        full_box(
            "tkhd",
            1,
            3,
            struct.pack(">QQIIQ", created, created, 1, 0, 0),
            bytes(8),
            struct.pack(">hhhH", 0, 0, 0, 0),
            matrix,
            struct.pack(">II", width << 16, height << 16),
        ),
        box(
            "mdia",
            full_box(
                "mdhd", 1, 0, struct.pack(">QQIQHH", created, created, TIMESCALE, 0, 0x55C4, 0)
            ),
            full_box("hdlr", 0, 0, bytes(4), b"vide", bytes(12), b"DEDOS Deploy\0"),
            box(
                "minf",
                full_box("vmhd", 0, 1, bytes(8)),
                box("dinf", full_box("dref", 0, 0, struct.pack(">I", 1), full_box("url ", 0, 1))),
                box(
                    "stbl",
                    full_box("stsd", 0, 0, struct.pack(">I", 1), _sample_entry(width, height)),
                    full_box("stts", 0, 0, bytes(4)),
                    full_box("stsc", 0, 0, bytes(4)),
                    full_box("stsz", 0, 0, bytes(8)),
                    full_box("stco", 0, 0, bytes(4)),
                ),
            ),
        ),
    )
    return box("ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso5iso6mp41") + box(
        "moov",
        full_box(
            "mvhd",
            1,
            0,
            struct.pack(">QQIQ", created, created, TIMESCALE, 0),
            struct.pack(">IHH", 0x10000, 0x100, 0),
            bytes(8),
            matrix,
            bytes(24),
            struct.pack(">I", 2),
        ),
        track,
        box("mvex", full_box("trex", 0, 0, struct.pack(">IIIII", 1, 1, 0, 0, 0))),
    )


def _sample_entry(width: int, height: int) -> bytes:
    return box(
        "mp4v",
        bytes(6),
        struct.pack(">H", 1),
        bytes(16),
        struct.pack(">HH", width, height),
        struct.pack(">III", 0x480000, 0x480000, 0),
        struct.pack(">H", 1),
        bytes(32),
        struct.pack(">Hh", 24, -1),
        _esds(),
    )


def _esds() -> bytes:
    def descriptor(tag: int, content: bytes) -> bytes:
        return struct.pack(">BB", tag, len(content)) + content

    decoder = struct.pack(">BB", JPEG_OBJECT_TYPE, VISUAL_STREAM) + bytes(3 + 4 + 4)
    sync = descriptor(6, b"\x02")
    return full_box(
        "esds", 0, 0, descriptor(3, struct.pack(">HB", 1, 0) + descriptor(4, decoder) + sync)
    )
