"""Which OpenCV is in use, and its video capture behind a small contract, without its chatter on stderr.

Any cv2 from 4.6 on will do. pip's, on which the package depends, has no GStreamer; that of the system has,
and is in use once pip's is uninstalled from an environment that sees the system's packages.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import OpenCvError
from dedos_deploy.installation import OPENCV_OF_PIP, version_of

OLDEST = (4, 6)
"""Of Debian 12 and Ubuntu 24.04, with which the tests run."""

SILENT = 0
FFMPEG_QUIET = "-8"
LOG_LEVEL = "OPENCV_FFMPEG_LOGLEVEL"
FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


_loading = threading.Lock()


@functools.cache
def require_opencv() -> None:
    """Make sure that there is an OpenCV that can be used, for those who are about to import it.

    Raises OpenCvError for none, one that is too old, and one that was made for another NumPy.
    """
    # Sources are opened at once: of two threads that take stderr, the second gives back the first's.
    with _loading:
        _load()


def _load() -> None:
    said = io.StringIO()
    # A package of OpenCV that failed leaves this mark, and calls it a recursion when asked again.
    vars(sys).pop("OpenCV_LOADER", None)
    try:
        # NumPy has a page of its own to say of modules that were made for another one.
        with contextlib.redirect_stderr(said):
            import cv2
    except ImportError as error:
        raise OpenCvError(_why_not_loaded(error)) from error
    if said.getvalue():
        sys.stderr.write(said.getvalue())
    version = str(getattr(cv2, "__version__", "of no version"))
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
        raise OpenCvError(
            f"OpenCV {version} at {_place()} is too old or not whole, 4.6 and newer are supported; run: "
            "pip install opencv-python"
        )


def _why_not_loaded(error: ImportError) -> str:
    if error.name == "cv2":
        return (
            "OpenCV, the module cv2, is not installed; run: pip install opencv-python, or see "
            "docs/install.md for the system's, which has GStreamer"
        )
    if "numpy" in str(error):
        return (
            f"the OpenCV at {_place()} was made for another NumPy than {np.__version__}, which is "
            "installed; run: pip install 'numpy<2', for which Debian 12, Ubuntu 24.04 and JetPack 6 make "
            "theirs"
        )
    return (
        f"the OpenCV at {_place()} cannot be loaded ({error}); install what it misses, as by apt "
        "install libgl1 libglib2.0-0, or another OpenCV"
    )


def _place() -> Path | str:
    return next(iter(opencvs()), "a place unknown")


def opencvs() -> list[Path]:
    """Return where a cv2 lies, the one that is in use first: it hides the others."""
    found = (PathFinder.find_spec("cv2", [folder]) for folder in sys.path)
    places = [Path(spec.origin) for spec in found if spec is not None and spec.origin is not None]
    return list(dict.fromkeys(places))


def opencv_remedy() -> str:
    """Return how to get an OpenCV with GStreamer in place of the one that is in use."""
    packages = " ".join(filter(version_of, OPENCV_OF_PIP))
    if packages and len(opencvs()) > 1:
        return (
            f"pip's hides the system's at {opencvs()[1]}: run pip uninstall {packages}, and pip install "
            "'numpy<2' if the system's was made for NumPy 1"
        )
    return (
        "use JetPack's or Debian's python3-opencv (docs/install.md), or build it with "
        "-DWITH_GSTREAMER=ON"
    )


class Capture(Protocol):
    """The part of cv2.VideoCapture that is used."""

    def isOpened(self) -> bool: ...

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]: ...

    def grab(self) -> bool: ...

    def get(self, prop: int) -> float: ...

    def set(self, prop: int, value: float) -> bool: ...

    def release(self) -> None: ...


class _Opening:
    """Openings of captures. Those with options for FFmpeg are alone in their time: OpenCV takes options from
    the environment, which is one per process, so that any other would get them, too."""

    turn = threading.Lock()
    """Held while an opening begins, and for the whole of one with options."""
    ended = threading.Condition()
    others = 0
    """How many without options are at work."""


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


def open_capture(
    address: str | int,
    *,
    backend: int = 0,
    settings: Sequence[int] = (),
    options: Mapping[str, str] | None = None,
) -> Capture:
    """Return a cv2.VideoCapture, which may turn out not to be opened.

    backend: a cv2.CAP_* backend; settings: pairs of a cv2.CAP_PROP_* and its value; options: for FFmpeg,
    for this capture alone, so that other threads' openings wait for its end, and it for theirs.
    """
    import cv2

    with _ffmpeg_options(options) if options else _without_options(), quiet_opencv():
        try:
            return cv2.VideoCapture(address, backend, list(settings))  # type: ignore[return-value]
        except cv2.error:
            # With exceptions switched on in the build a failed opening raises.
            return cv2.VideoCapture()  # type: ignore[return-value]


def has_gstreamer() -> bool:
    """Return whether the installed OpenCV reads GStreamer pipelines; pip's does not."""
    require_opencv()
    import cv2

    return bool(re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()))


@contextlib.contextmanager
def _ffmpeg_options(options: Mapping[str, str]) -> Iterator[None]:
    with _Opening.turn:
        with _Opening.ended:
            _Opening.ended.wait_for(lambda: _Opening.others == 0)
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


@contextlib.contextmanager
def _without_options() -> Iterator[None]:
    with _Opening.turn, _Opening.ended:
        _Opening.others += 1
    try:
        yield
    finally:
        with _Opening.ended:
            _Opening.others -= 1
            _Opening.ended.notify_all()


def property_of(capture: Capture, prop: int) -> float | None:
    """Return a property where the backend knows it: positive and finite."""
    value = capture.get(prop)
    return value if 0 < value < 1e9 else None
