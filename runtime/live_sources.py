"""Cameras and network streams: a reader thread keeps only the newest frame, and reconnects."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.frames import Frame, Outcome, Source
from dedos_deploy.runtime.opencv import Capture, open_capture, property_of, quiet_opencv
from dedos_deploy.runtime.uri import redact
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
    row; a frame that arrives starts the count anew.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    attempts: int = 10

    def waits_s(self) -> Iterator[float]:
        """Yield the wait before every attempt.

        >>> list(Reconnect(attempts=4, longest_s=3.0).waits_s())
        [0.5, 1.0, 2.0, 3.0]
        """
        for attempt in range(self.attempts):
            yield min(self.longest_s, self.first_s * 2**attempt)


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


def open_camera(device: int | str) -> LiveSource:
    """Return a camera by number or device path. Raises SourceError naming the cameras there are."""
    number = int(re.sub(r"\D", "", device)) if isinstance(device, str) else device
    source_id = device if isinstance(device, str) else f"camera:{device}"
    capture = open_capture(number)
    if not capture.isOpened() or not capture.read()[0]:
        capture.release()
        cameras = [str(path) for path in sorted(Path("/dev").glob("video*"))]
        raise SourceError(
            f"{source_id!r} cannot be opened or delivers no frame; cameras on this machine: "
            f"{', '.join(cameras) or 'none'}; check the number, the cable and that no other "
            "program uses it"
        )
    return LiveSource(
        source_id, lambda: open_capture(number), capture=capture, reconnect=CAMERA_RECONNECT
    )


def open_network(
    uri: str,
    *,
    reconnect: Reconnect | None = None,
    open_timeout_s: float = OPEN_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> Source:
    """Return the stream at `uri`, or its video file when the server has one there.

    The first opening must succeed; reconnecting starts once a frame was seen. Raises SourceError.
    """
    import cv2

    settings = (
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(1000 * open_timeout_s),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(1000 * read_timeout_s),
    )  # fmt: skip

    def connect() -> Capture:
        return open_capture(uri, backend=cv2.CAP_FFMPEG, settings=settings)

    capture = connect()
    if not capture.isOpened():
        raise SourceError(
            f"stream {redact(uri)!r} cannot be opened within {open_timeout_s:g} s; check the "
            "address, user and password, and that this machine reaches the host"
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
