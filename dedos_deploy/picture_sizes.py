"""How many pixels a picture file states, and how it is turned, read before anything is decoded.

OpenCV takes memory for whatever a file states up to 2^30 pixels, so that 1.6 kB can cost gigabytes. Read
here as its decoders read it: the first frame header of a JPEG, the first chunk of a PNG, the first
directory of a TIFF. A WebP has at most 16,383 pixels a side, which is fewer than the limit.
"""

from __future__ import annotations

import re
import struct

MOST_PIXELS = 1 << 28
"""Of one picture out of a file or a recording: 16,384 x 16,384, beyond every camera's sensor.

A picture takes 3 bytes per pixel, 3 more while a progressive JPEG is read, and 3 more to be turned.
"""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_ENDS = frozenset({0xD8, 0xD9, 0xDA})
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_MOST_SEGMENTS = 1 << 16
_MOST_CHUNKS = 1 << 20
_MOST_MISSING = 1 << 26
"""Bytes that may be missing at the end of a PNG that was cut."""

_TIFFS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_MOST_TAGS = 4096
_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274
_EXIF = re.compile(rb"(?:Exif\0\0|eXIf|EXIF.{4})(?=II\*\0|MM\0\*)", re.DOTALL)
"""Before the directory of JPEG, of PNG, and of WebP."""

_WHOLE = {1: "B", 3: "H", 4: "I", 6: "B", 8: "H", 9: "I", 16: "Q", 17: "Q"}
"""Types of whole numbers in a TIFF, signed ones as if they were not: libtiff takes all of them."""


def stated_pixels(content: bytes) -> int | None:
    """Return width times height as a JPEG, PNG, BMP, TIFF or WebP states it; 0 if it states none.

    None for another format, and for parts that a decoder would take much memory or time for.

    >>> stated_pixels(b"\x89PNG\r\n\x1a\n" + bytes(8) + bytes([0, 0, 1, 0, 0, 0, 2, 0]))
    131072
    """
    try:
        if content.startswith(b"\xff\xd8\xff"):
            return _jpeg(content)
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(content)
        if content.startswith(b"BM"):
            return _bmp(content)
        if content[:4] in _TIFFS:
            return _tiff(content, _TIFFS[content[:4]], big=b"+" in content[:4])
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return 0
    except struct.error:
        return 0  # it ends before its size
    return None


def stated_orientation(content: bytes) -> int:
    """Return how a picture is turned or mirrored to be shown, as EXIF numbers it, 1 (not at all) to 8.

    From 5 on its sides are exchanged. 1 for what states nothing.
    """
    found = _EXIF.search(content)
    start = found.end() if found is not None else 0
    order = content[start : start + 4]
    if order not in _TIFFS:
        return 1
    try:
        tags = _tiff_numbers(content[start:], _TIFFS[order], big=b"+" in order)
    except struct.error:
        return 1
    value = tags.get(_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def _jpeg(content: bytes) -> int | None:
    place = 2
    for _ in range(_MOST_SEGMENTS):
        # As libjpeg does: what stands before a marker is skipped, and so is its filling.
        found = _MARKER.search(content, place)
        if found is None:
            return 0
        marker, place = content[found.end() - 1], found.end()
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", content, place + 3)
            return int(width * height)
        if marker in _ENDS:
            return 0
        if marker not in _BARE:
            place += max(2, *struct.unpack_from(">H", content, place))
    return None


def _png(content: bytes) -> int | None:
    width, height = struct.unpack_from(">II", content, 16)
    place = 8
    for _ in range(_MOST_CHUNKS):
        if place + 8 > len(content):
            return int(width * height)
        (length,) = struct.unpack_from(">I", content, place)
        # OpenCV takes memory for what a chunk states, and fills it, before it reads the chunk.
        if length > max(_MOST_MISSING, len(content) - place):
            return None
        place += 12 + length
    return None


def _bmp(content: bytes) -> int:
    (header,) = struct.unpack_from("<I", content, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", content, 18)
    return abs(int(width) * int(height))


def _tiff(content: bytes, order: str, *, big: bool) -> int:
    found = _tiff_numbers(content, order, big=big)
    return found.get(_WIDTH, 0) * found.get(_HEIGHT, 0)


def _tiff_numbers(content: bytes, order: str, *, big: bool) -> dict[int, int]:
    """Return the numbers that the first directory of a TIFF has for the tags that count here."""
    offset, slot = ("Q", 8) if big else ("I", 4)
    (place,) = struct.unpack_from(order + offset, content, slot)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), content, place)
    place += 8 if big else 2
    size = 4 + 2 * slot
    found: dict[int, int] = {}
    for entry in range(place, place + size * min(count, _MOST_TAGS), size):
        tag, kind = struct.unpack_from(order + "HH", content, entry)
        if tag in (_WIDTH, _HEIGHT, _ORIENTATION) and kind in _WHOLE:
            number = struct.Struct(order + _WHOLE[kind])
            at = entry + 4 + slot
            if number.size > slot:
                (at,) = struct.unpack_from(order + offset, content, at)
            # Of a tag given twice readers take one or the other.
            found[tag] = max(*number.unpack_from(content, at), found.get(tag, 0))
    return found
