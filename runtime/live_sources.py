"""Cameras and network streams: a reader thread keeps only the newest frame, and reconnects."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from dedos_deploy.errors import SourceError, nearest
from dedos_deploy.runtime.frames import Frame, Outcome, Source
from dedos_deploy.runtime.opencv import (
    Capture,
    ffmpeg_options,
    open_capture,
    property_of,
    quiet_opencv,
)
from dedos_deploy.runtime.stream_probe import why_not
from dedos_deploy.runtime.uri import RTSP_UDP, redact
from dedos_deploy.runtime.video_source import VideoSource
from dedos_deploy.runtime.workers import Handover, Worker

log = logging.getLogger(__name__)

SUPERSEDED = "superseded"
"""Cause of a drop: a newer frame came before this one was asked for."""

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Reconnect:
    """How a live source that stopped delivering is opened again.

    Waits `first_s`, then twice as long each time up to `longest_s`, at most `attempts` times in a
    row, None for without end; a frame that arrives starts the count anew.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    attempts: int | None = 10

    def waits_s(self) -> Iterator[float]:
        """Yield the wait before every attempt.

        >>> list(Reconnect(attempts=4, longest_s=3.0).waits_s())
        [0.5, 1.0, 2.0, 3.0]
        """
        tries = itertools.count() if self.attempts is None else range(self.attempts)
        for attempt in tries:
            # Bounded, since a float cannot hold what comes after a day of waiting.
            yield min(self.longest_s, self.first_s * 2 ** min(attempt, 32))


class LiveSource(Source):
    """A camera or stream, drained by its own thread so that frames are never old.

    `drops` counts frames that a newer one replaced; `reconnects` how often it was opened again.
    Raises SourceError from `read` once reconnecting has failed.
    """

    live = True

    def __init__(
        self,
        source_id: str,
        open_again: Callable[[], Capture],
        *,
        capture: Capture,
        reconnect: Reconnect,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        """Read `capture`, which is open, and replace it by `open_again()` when it fails.

        source_id: address without credentials; read_timeout_s: how long a read of the capture may
        block, which bounds `close`.
        """
        import cv2

        self.source_id = source_id
        self.fps = property_of(capture, cv2.CAP_PROP_FPS)
        self.reconnects = 0
        self._open_again = open_again
        self._capture = capture
        self._reconnect = reconnect
        self._read_timeout_s = read_timeout_s
        handover: Handover[Frame] = Handover(1, when_full="drop_oldest")
        self._worker = Worker(f"dedos-live {source_id}", self._drain, handover)

    @property
    def drops(self) -> Mapping[str, int]:
        return {SUPERSEDED: self._worker.handover.dropped}

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self.reconnects:
            return ()
        return (f"{self.source_id!r} was lost and opened again {self.reconnects} times",)

    def read(self, timeout_s: float) -> Frame | Outcome:
        return self._worker.get(timeout_s)

    def close(self) -> None:
        self._worker.close(self._read_timeout_s + 1.0)

    def _drain(self, emit: Callable[[Frame], bool], stop: threading.Event) -> None:
        capture, frame_id = self._capture, 0
        try:
            while not stop.is_set():
                with quiet_opencv():
                    delivered, frame_bgr = capture.read()
                now_s = time.monotonic()
                if not delivered or frame_bgr is None:
                    capture.release()
                    capture = self._replacement(stop)
                    continue
                name = f"{frame_id:06d}"
                if not emit(Frame(frame_bgr, frame_id, now_s, self.source_id, name)):
                    return
                frame_id += 1
        finally:
            capture.release()

    def _replacement(self, stop: threading.Event) -> Capture:
        """Return a capture that has delivered a frame, or a closed one when stopped."""
        lost_s = time.monotonic()
        if self._reconnect.attempts == 0:
            raise SourceError(f"source {self.source_id!r} stopped delivering frames")
        log.warning("source %s stopped delivering; opening it again", self.source_id)
        for wait_s in self._reconnect.waits_s():
            if stop.wait(wait_s):
                break
            capture = self._open_again()
            # Some servers accept and send nothing: only a frame proves that the source is back.
            if capture.isOpened() and capture.read()[0]:
                self.reconnects += 1
                return capture
            capture.release()
        if stop.is_set():
            return _Closed()
        raise SourceError(
            f"source {self.source_id!r} stopped delivering frames and did not come back in "
            f"{self._reconnect.attempts} attempts over {time.monotonic() - lost_s:.0f} s; check "
            "the device and its connection"
        )


class _Closed:
    """The capture of a source that was told to stop."""

    def isOpened(self) -> bool:
        return False

    def read(self) -> tuple[bool, None]:
        return False, None

    def get(self, prop: int) -> float:
        return 0.0

    def release(self) -> None:
        """Nothing is held."""


CAMERA_RECONNECT = Reconnect(attempts=5, longest_s=5.0)
CAMERA_SETTINGS = ("size", "fps", "format")


@dataclass(frozen=True)
class CameraMode:
    """What is asked of a camera: size_hw in pixels, fps, and fourcc of its format, as MJPG; None for
    what it chooses itself."""

    size_hw: tuple[int, int] | None = None
    fps: float | None = None
    fourcc: str | None = None


def parse_camera_mode(uri: str, query: str) -> CameraMode:
    """Return the mode in `size=720x1280&fps=30&format=MJPG`. Raises SourceError.

    >>> parse_camera_mode("0", "size=720x1280&format=mjpg")
    CameraMode(size_hw=(720, 1280), fps=None, fourcc='MJPG')
    """
    settings = dict(parse_qsl(query, keep_blank_values=True))
    patterns = {"size": r"\d{1,5}x\d{1,5}", "fps": r"\d{1,3}(\.\d+)?", "format": r"[A-Za-z0-9]{4}"}
    for name, value in settings.items():
        if name not in patterns:
            raise SourceError(
                f"{uri!r} has an unknown setting {name!r}{nearest(name, patterns)}; a camera takes "
                f"{', '.join(CAMERA_SETTINGS)}"
            )
        if not re.fullmatch(patterns[name], value):
            raise SourceError(
                f"{uri!r}: {name} cannot be {value!r}; write a camera as 0?size=720x1280&fps=30&format=MJPG"
            )
    size = settings.get("size", "").split("x")
    return CameraMode(
        (int(size[0]), int(size[1])) if "size" in settings else None,
        float(settings["fps"]) if "fps" in settings else None,
        settings["format"].upper() if "format" in settings else None,
    )


def open_camera(
    device: int | str, *, mode: CameraMode | None = None, reconnect: Reconnect = CAMERA_RECONNECT
) -> LiveSource:
    """Return a camera by number or device path. Raises SourceError naming the cameras there are, or
    what it delivers when that is not what `mode` asks for."""
    number = int(re.sub(r"\D", "", device)) if isinstance(device, str) else device
    source_id = device if isinstance(device, str) else f"camera:{device}"
    settings = _settings(mode or CameraMode())

    def connect() -> Capture:
        return open_capture(number, settings=settings)

    capture = connect()
    delivered, frame_bgr = capture.read() if capture.isOpened() else (False, None)
    if not delivered or frame_bgr is None:
        capture.release()
        cameras = [str(path) for path in sorted(Path("/dev").glob("video*"))]
        raise SourceError(
            f"{source_id!r} cannot be opened or delivers no frame; cameras on this machine: "
            f"{', '.join(cameras) or 'none'}; check the number, the cable and that no other "
            "program uses it"
        )
    if mode is not None and mode.size_hw not in (None, frame_bgr.shape[:2]):
        capture.release()
        raise SourceError(
            f"{source_id!r} delivers {frame_bgr.shape[0]}x{frame_bgr.shape[1]} and not the size "
            f"{mode.size_hw[0]}x{mode.size_hw[1]} asked for; see what it has with "
            "v4l2-ctl --list-formats-ext"
        )
    return LiveSource(source_id, connect, capture=capture, reconnect=reconnect)


def _settings(mode: CameraMode) -> list[int]:
    import cv2

    settings: list[int] = []
    if mode.fourcc is not None:
        # Before the size: many cameras have their large sizes in MJPG only.
        settings += [cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*mode.fourcc)]
    if mode.size_hw is not None:
        settings += [cv2.CAP_PROP_FRAME_HEIGHT, mode.size_hw[0]]
        settings += [cv2.CAP_PROP_FRAME_WIDTH, mode.size_hw[1]]
    if mode.fps is not None:
        settings += [cv2.CAP_PROP_FPS, round(mode.fps)]
    return settings


def open_network(
    uri: str,
    *,
    reconnect: Reconnect | None = None,
    open_timeout_s: float = OPEN_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> Source:
    """Return the stream at `uri`, or its video file when the server has one there.

    `rtsp://` comes over TCP, `rtsp+udp://` over UDP, which has less delay and loses packets. The first
    opening must succeed; reconnecting starts once a frame was seen. Raises SourceError.
    """
    import cv2

    settings = (
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        int(1000 * open_timeout_s),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        int(1000 * read_timeout_s),
    )
    scheme, _, rest = uri.partition("://")
    over_udp = scheme.lower() == RTSP_UDP
    address = f"rtsp://{rest}" if over_udp else uri

    def connect() -> Capture:
        transport = ffmpeg_options(rtsp_transport="udp") if over_udp else contextlib.nullcontext()
        with transport:
            return open_capture(address, backend=cv2.CAP_FFMPEG, settings=settings)

    capture = connect()
    if not capture.isOpened():
        raise SourceError(
            f"stream {redact(uri)!r} cannot be opened within {open_timeout_s:g} s, because "
            f"{why_not(address)}"
        )
    if property_of(capture, cv2.CAP_PROP_FRAME_COUNT) is not None:
        return VideoSource(uri, source_id=uri, capture=capture)
    return LiveSource(
        redact(uri),
        connect,
        capture=capture,
        reconnect=reconnect or Reconnect(),
        read_timeout_s=read_timeout_s,
    )
