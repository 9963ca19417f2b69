"""What a video file says of itself, and what FFmpeg says of it where OpenCV only says no."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

from dedos_deploy.runtime.opencv import LOG_LEVEL

HEADER_BYTES = 65536
WORDS_S = 20.0
"""How long FFmpeg is listened to."""
SEEK_BACK = 5
LISTENED = 200
"""How many pictures before a failure, and from there on, it is listened to."""
_ERRORS = "16"
_WORDS = re.compile(r"^(?:\[(?:OPENCV:FFMPEG:\d+|[\w,]+ @ 0x[0-9a-f]+)\] )+(.*)$", re.MULTILINE)
_LISTEN = """
import sys, cv2
capture = cv2.VideoCapture(sys.argv[1])
start = int(sys.argv[2])
if start > 0:
    capture.set(cv2.CAP_PROP_POS_FRAMES, start)
failed = read = 0
while capture.isOpened() and failed < 16 and read < int(sys.argv[3]):
    failed = 0 if capture.grab() else failed + 1
    read += 1
"""
# EBML element ids and the sizes of MP4 boxes' heads.
_SEGMENT = b"\x18\x53\x80\x67"


def ffmpeg_words(address: str, *, near: int = 0) -> str | None:
    """Return what FFmpeg finds wrong with a video file, "" for nothing, None if it cannot be asked.

    OpenCV only prints it, so that another process is listened to. near: number of
    the picture at which a read failed.
    """
    path = Path(address)
    if not (path.is_file() and sys.executable):
        return None  # addresses may hold passwords, which others could see in its command line
    start = max(0, near - SEEK_BACK)
    command = [sys.executable, "-c", _LISTEN, os.path.abspath(path), str(start), str(LISTENED)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # which of both it is depends on OpenCV's version
            env={**os.environ, LOG_LEVEL: _ERRORS},
            timeout=WORDS_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = _WORDS.search(done.stdout.decode(errors="replace"))
    words = said[1].strip(" .") if said else ""
    return "".join(letter if letter.isprintable() else "?" for letter in words[:200])


def is_cut_short(address: str) -> bool:
    """Return whether a file is smaller than it says: AVI, MP4 and MOV, Matroska and WebM do."""
    try:
        with open(address, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(HEADER_BYTES)
            if start[:4] == b"RIFF":
                return 8 + int(struct.unpack("<I", start[4:8])[0]) > size
            if start[4:8] == b"ftyp":
                return _boxes_end(file.fileno(), size) > size
            return _segment_end(start) > size
    except (OSError, struct.error):
        return False


def is_fragmented(address: str) -> bool:
    """Return whether a file is MP4 in fragments, of which OpenCV only guesses how many there are."""
    try:
        with open(address, "rb") as file:
            start = file.read(HEADER_BYTES)
    except OSError:
        return False
    return start[4:8] == b"ftyp" and b"mvex" in start


def _boxes_end(descriptor: int, size: int) -> int:
    """Return where the last of an MP4's boxes ends, by what it says itself."""
    at = 0
    while at + 8 <= size:
        head = os.pread(descriptor, 16, at)
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1:
            (length,) = struct.unpack(">Q", head[8:16])
        if length == 0 or not kind.isalnum():
            return size  # to the file's end, or something that is no box any more
        at += max(8, int(length))
    return at


def _segment_end(start: bytes) -> int:
    """Return where a Matroska file's only segment ends, 0 where it does not say."""
    at = start.find(_SEGMENT)
    if start[:4] != b"\x1a\x45\xdf\xa3" or at < 0:
        return 0
    first = start[at + 4]
    width = 9 - first.bit_length()
    value = int.from_bytes(start[at + 4 : at + 4 + width], "big") & ((1 << 7 * width) - 1)
    return 0 if value == (1 << 7 * width) - 1 else at + 4 + width + value
