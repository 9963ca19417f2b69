"""The process that decodes pictures for `decoder`, with limits of its own; only that starts it.

On stdin come pictures, each after its length; on stdout go a byte when it is ready, and for each
picture a state, height, width and the pixels as BGR.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from typing import BinaryIO

LENGTH = struct.Struct(">Q")
ANSWER = struct.Struct(">BII")
DECODED, TOO_LARGE, DAMAGED = range(3)
READY = b"!"
NICENESS = 5
"""Cameras come first."""


def main() -> None:
    # What else lies in this folder must not stand in for modules of other names.
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
    most_pixels, memory, cpu_s = (int(text) for text in sys.argv[1:4])
    import cv2

    cv2.setNumThreads(1)
    os.nice(NICENESS)
    _limit(resource.RLIMIT_AS, _address_space() + memory)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    target.write(READY)
    target.flush()
    while (head := source.read(LENGTH.size)) != b"":
        content = source.read(*LENGTH.unpack(head))
        _limit_cpu(cpu_s)
        _answer(target, content, most_pixels)


def _answer(target: BinaryIO, content: bytes, most_pixels: int) -> None:
    import cv2
    import numpy as np

    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        # It has the size from its own header reader, and the limit from the environment.
        is_size = "CV_IO_MAX_IMAGE" in str(error) or "Insufficient memory" in str(error)
        target.write(ANSWER.pack(TOO_LARGE if is_size else DAMAGED, 0, 0))
    else:
        if picture is None:
            target.write(ANSWER.pack(DAMAGED, 0, 0))
        elif picture.shape[0] * picture.shape[1] > most_pixels:
            target.write(ANSWER.pack(TOO_LARGE, 0, 0))
        else:
            target.write(ANSWER.pack(DECODED, *picture.shape[:2]))
            target.write(np.ascontiguousarray(picture).data.cast("B"))
    target.flush()


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, hard))


def _limit_cpu(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


if __name__ == "__main__":
    main()
