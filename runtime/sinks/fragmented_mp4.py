"""MP4 files: one that can be played whatever became of its writer, as every picture is a fragment of its
own, and one for players that know nothing of fragments.

ISO/IEC 14496-12 (boxes, movie fragments).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

TIMESCALE = 90_000
"""Ticks a second, as MPEG has them."""
EPOCH_1904_S = 2_082_844_800
"""From 1904, where MP4's clock starts, to 1970."""
INDEX_EVERY = TIMESCALE
STANDS_ALONE = 0x02000000
DEPENDS = 0x01010000
"""Sample flags of a picture that depends on no other, and of one that does."""
LONGEST_DURATION = 2**32 - 1


@dataclass(frozen=True)
class Packet:
    """One encoded picture."""

    content: bytes
    key: bool = True
    """Whether it depends on no other."""


def box(kind: str, *content: bytes) -> bytes:
    """Return a box: its size, kind and content."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind.encode()) + body


def full_box(kind: str, version: int, flags: int, *content: bytes) -> bytes:
    """Return a box with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


class FragmentedMp4:
    """Writes pictures, each at its own time, into a file that is complete after each of them."""

    def __init__(
        self, file: IO[bytes], size_hw: tuple[int, int], entry: bytes, *, created_s: float
    ) -> None:
        """file: empty and open for writing; size_hw: of every picture; entry: the sample entry of their
        codec; created_s: seconds since 1970 of time 0. Writes the header."""
        self._file = file
        self._at = 0
        self._sequence = 0
        self._time = -1
        self._step = TIMESCALE // 10
        self._index: list[tuple[int, int]] = []
        empty = _tables([], [], [])
        extends = box("mvex", full_box("trex", 0, 0, struct.pack(">IIIII", 1, 1, 0, 0, 0)))
        created = round(created_s) + EPOCH_1904_S
        self._write(file_type() + _movie(size_hw, entry, empty, extends, created=created))

    def add(self, packet: Packet, time_s: float) -> None:
        """Write a picture that is shown from `time_s` on, at least a tick after the one before."""
        time = max(round(time_s * TIMESCALE), self._time + 1)
        if self._time >= 0:
            self._step = min(time - self._time, LONGEST_DURATION)
        if packet.key and (not self._index or time - self._index[-1][0] >= INDEX_EVERY):
            self._index.append((time, self._at))
        self._time = time
        self._sequence += 1
        # The next picture's own time ends this one; until then it lasts as long as the one before.
        self._write(
            _fragment(self._sequence, time, self._step, packet) + box("mdat", packet.content)
        )
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


class WholeMp4:
    """Writes pictures, each at its own time, into a file with one table of all, which any player takes.

    It is none before `finish`.
    """

    def __init__(
        self, file: IO[bytes], size_hw: tuple[int, int], entry: bytes, *, step_s: float
    ) -> None:
        """file: empty and open for writing; size_hw: of every picture; entry: the sample entry of their
        codec; step_s: how long a lone picture is shown."""
        self._file = file
        self._size_hw = size_hw
        self._entry = entry
        self._step = max(1, round(step_s * TIMESCALE))
        self._times: list[int] = []
        self._places: list[int] = []
        self._packets: list[tuple[int, bool]] = []
        start = file_type()
        # Its real size is written at the end, in 64 bits.
        self._data_at = len(start)
        self._at = self._data_at + 16
        file.write(start + struct.pack(">I4sQ", 1, b"mdat", 16))

    def add(self, packet: Packet, time_s: float) -> None:
        """Write a picture that is shown from `time_s` on, at least a tick after the one before."""
        time = round(time_s * TIMESCALE)
        if self._times:
            time = max(time, self._times[-1] + 1)
            self._step = time - self._times[-1]
        self._times.append(time)
        self._places.append(self._at)
        self._packets.append((len(packet.content), packet.key))
        self._file.write(packet.content)
        self._at += len(packet.content)

    def finish(self) -> None:
        """Write the table; the last picture is shown as long as the one before."""
        ends = [*self._times[1:], self._times[-1] + self._step]
        durations = [
            min(end - start, LONGEST_DURATION) for start, end in zip(self._times, ends, strict=True)
        ]
        tables = _tables(durations, self._packets, self._places)
        movie = _movie(self._size_hw, self._entry, tables, b"", duration=sum(durations))
        self._file.write(movie)
        self._file.seek(self._data_at + 8)
        self._file.write(struct.pack(">Q", self._at - self._data_at))
        self._file.flush()


def file_type() -> bytes:
    """Return the box that every MP4 begins with."""
    return box("ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso5iso6mp41")


def sample_entry(kind: str, size_hw: tuple[int, int], configuration: bytes) -> bytes:
    """Return the description of pictures of a codec; configuration: the box that is the codec's own."""
    height, width = size_hw
    return box(
        kind,
        bytes(6),
        struct.pack(">H", 1),
        bytes(16),
        struct.pack(">HH", width, height),
        struct.pack(">III", 0x480000, 0x480000, 0),
        struct.pack(">H", 1),
        bytes(32),
        struct.pack(">Hh", 24, -1),
        configuration,
    )


def _fragment(sequence: int, time: int, duration: int, packet: Packet) -> bytes:
    flags, size = STANDS_ALONE if packet.key else DEPENDS, len(packet.content)

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
                    struct.pack(">IiIII", 1, data_offset, duration, size, flags),
                ),
            ),
        )

    return moof(len(moof(0)) + 8)


def _tables(
    durations: Sequence[int], packets: Sequence[tuple[int, bool]], places: Sequence[int]
) -> bytes:
    """Return the boxes that say when each picture is shown, how large it is, where it lies, and which
    stand alone; every picture is a chunk of its own.

    packets: size of each picture, and whether it stands alone.
    """

    def table(kind: str, rows: Sequence[bytes]) -> bytes:
        return full_box(kind, 0, 0, struct.pack(">I", len(rows)), *rows)

    keys = [number for number, (_, key) in enumerate(packets, 1) if key]
    sizes = [struct.pack(">I", size) for size, _ in packets]
    return b"".join(
        (
            table("stts", [struct.pack(">II", 1, duration) for duration in durations]),
            table("stss", [struct.pack(">I", key) for key in keys])
            if len(keys) < len(packets)
            else b"",
            table("stsc", [struct.pack(">III", 1, 1, 1)] if packets else []),
            full_box("stsz", 0, 0, struct.pack(">II", 0, len(sizes)), *sizes),
            table("co64", [struct.pack(">Q", place) for place in places]),
        )
    )


def _movie(
    size_hw: tuple[int, int],
    entry: bytes,
    tables: bytes,
    extends: bytes,
    *,
    created: int = 0,
    duration: int = 0,
) -> bytes:
    """Return the box that describes the one track.

    tables: of its pictures; extends: the box that announces fragments; created: seconds since 1904;
    duration: ticks.
    """
    height, width = size_hw
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    track_head = full_box(
        "tkhd",
        1,
        3,
        struct.pack(">QQIIQ", created, created, 1, 0, duration),
        bytes(8),
        struct.pack(">hhhH", 0, 0, 0, 0),
        matrix,
        struct.pack(">II", width << 16, height << 16),
    )
    media = box(
        "mdia",
        full_box(
            "mdhd", 1, 0, struct.pack(">QQIQHH", created, created, TIMESCALE, duration, 0x55C4, 0)
        ),
        full_box("hdlr", 0, 0, bytes(4), b"vide", bytes(12), b"DEDOS Deploy\0"),
        box(
            "minf",
            full_box("vmhd", 0, 1, bytes(8)),
            box("dinf", full_box("dref", 0, 0, struct.pack(">I", 1), full_box("url ", 0, 1))),
            box("stbl", full_box("stsd", 0, 0, struct.pack(">I", 1), entry), tables),
        ),
    )
    head = full_box(
        "mvhd",
        1,
        0,
        struct.pack(">QQIQ", created, created, TIMESCALE, duration),
        struct.pack(">IHH", 0x10000, 0x100, 0),
        bytes(8),
        matrix,
        bytes(24),
        struct.pack(">I", 2),
    )
    return box("moov", head, box("trak", track_head, media), extends)
