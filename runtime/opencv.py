"""OpenCV's video capture behind a small contract, without its chatter on stderr."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SILENT = 0
FFMPEG_QUIET = "-8"
LOG_LEVEL = "OPENCV_FFMPEG_LOGLEVEL"
FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


class Capture(Protocol):
    """The part of cv2.VideoCapture that sources use."""

    def isOpened(self) -> bool: ...

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]: ...

    def get(self, prop: int) -> float: ...

    def release(self) -> None: ...


class _Options:
    """The environment is one per process."""

    lock = threading.Lock()


class _Quiet:
    """How many threads want OpenCV silent; its log level is one per process."""

    lock = threading.Lock()
    users = 0
    level_before = 0


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silence OpenCV's own log, which repeats in its words what our errors say.

    Its messages may also hold addresses with credentials.
    """
    import cv2

    # OpenCV before 4.7, as Debian and JetPack have it, keeps them at its top.
    log_levels = getattr(cv2.utils, "logging", cv2)
    with _Quiet.lock:
        if _Quiet.users == 0:
            _Quiet.level_before = log_levels.getLogLevel()
            log_levels.setLogLevel(SILENT)
        _Quiet.users += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.users -= 1
            if _Quiet.users == 0:
                log_levels.setLogLevel(_Quiet.level_before)


def silence_ffmpeg() -> None:
    """Keep FFmpeg inside OpenCV from writing to stderr, for command lines.

    Works only before the first video is opened; a user's own setting stays.
    """
    os.environ.setdefault(LOG_LEVEL, FFMPEG_QUIET)


def open_capture(address: str | int, *, backend: int = 0, settings: Sequence[int] = ()) -> Capture:
    """Return a cv2.VideoCapture, which may turn out not to be opened.

    backend: a cv2.CAP_* backend; settings: pairs of a cv2.CAP_PROP_* and its value.
    """
    import cv2

    with quiet_opencv():
        try:
            return cv2.VideoCapture(address, backend, list(settings))  # type: ignore[return-value]
        except cv2.error:
            # With exceptions switched on in the build a failed opening raises.
            return cv2.VideoCapture()  # type: ignore[return-value]


def has_gstreamer() -> bool:
    """Return whether the installed OpenCV reads GStreamer pipelines; pip's does not."""
    import cv2

    return bool(re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()))


@contextlib.contextmanager
def ffmpeg_options(**options: str) -> Iterator[None]:
    """Give FFmpeg inside OpenCV these options for the captures opened inside the block.

    OpenCV takes them from the environment only, so openings with options wait for each other.
    """
    with _Options.lock:
        before = os.environ.get(FFMPEG_OPTIONS)
        pairs = [f"{name};{value}" for name, value in options.items()]
        os.environ[FFMPEG_OPTIONS] = "|".join([before, *pairs] if before else pairs)
        try:
            yield
        finally:
            if before is None:
                del os.environ[FFMPEG_OPTIONS]
            else:
                os.environ[FFMPEG_OPTIONS] = before


def property_of(capture: Capture, prop: int) -> float | None:
    """Return a property where the backend knows it: positive and finite."""
    value = capture.get(prop)
    return value if 0 < value < 1e9 else None
