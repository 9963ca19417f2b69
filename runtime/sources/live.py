"""Cameras and network streams, as they come and behind a feed that keeps only their newest frame."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.flow.feed import Feed
from dedos_deploy.runtime.flow.feed_options import FeedOptions, Reconnect
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.nv12 import Matrix, Nv12Frame
from dedos_deploy.runtime.opencv import (
    Capture,
    open_capture,
    property_of,
    quiet_opencv,
)
from dedos_deploy.runtime.pixels import HostPixels
from dedos_deploy.runtime.sources.contract import SUPERSEDED, Outcome, Source
from dedos_deploy.runtime.sources.dds import TopicSource, connect_topic
from dedos_deploy.runtime.sources.interlaced import read_right, warning_of
from dedos_deploy.runtime.sources.stream_probe import why_not
from dedos_deploy.runtime.sources.video import VideoSource
from dedos_deploy.runtime.uri import RTSP_UDP, redact, settings_of

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 5.0
IN_BURSTS = (".m3u8", ".m3u", ".mpd")
"""Ends of the paths of HLS and DASH streams, which come in files of some seconds each."""
LONGEST_STEP_S = 5.0
"""Between two pictures of a stream in bursts; its clock has jumped if it is longer."""


class Pace:
    """When pictures are due that come before their time, by their own clock.

    due_s: of the latest, on the clock of `time.monotonic()`. One that comes late, or after a jump of
    their clock, is due at once, and those after it follow from there.
    """

    due_s = 0.0

    def __init__(self) -> None:
        self._last_s = 0.0

    def take(self, position_s: float, now_s: float) -> None:
        """Note a picture that comes now. position_s: by its own clock.

        >>> pace, due_s = Pace(), []
        >>> for position_s in (0.0, 0.5, 1.0, 99.0, 99.5):
        ...     pace.take(position_s, 7.0)
        ...     due_s.append(pace.due_s)
        >>> due_s
        [7.0, 7.5, 8.0, 8.0, 8.5]
        """
        step_s = position_s - self._last_s
        if not 0 <= step_s <= LONGEST_STEP_S:
            step_s = 0.0
        self._last_s = position_s
        self.due_s = max(now_s, self.due_s + step_s)


class CaptureSource(Source):
    """A camera or stream as OpenCV gives it: `read` blocks until a frame comes, and whoever reads
    slowly reads old ones; a Feed reads it as fast as it delivers.

    Raises SourceError from `read` once nothing comes any more.
    """

    live = True

    def __init__(
        self,
        source_id: str,
        connect: Callable[[], Capture],
        *,
        capture: Capture,
        read_timeout_s: float = READ_TIMEOUT_S,
        in_bursts: bool = False,
        nv12: Matrix | None = None,
    ) -> None:
        """source_id: address without credentials; connect: opens the same again; capture: open;
        read_timeout_s: how long one of its reads may block; in_bursts: seconds of pictures come at
        once, and each is given when it is due by their own clock; nv12: matrix of what the capture
        gives in NV12, None for BGR."""
        import cv2

        self.source_id = source_id
        self.fps = property_of(capture, cv2.CAP_PROP_FPS)
        self.connect, self.capture, self.read_timeout_s = connect, capture, read_timeout_s
        self.in_bursts, self.nv12 = in_bursts, nv12
        self._count = 0
        self._pace = Pace()
        self._early: Frame | None = None

    def read(self, timeout_s: float) -> Frame | Outcome:
        frame, self._early = self._early or self._delivered(), None
        if not self.in_bursts:
            return frame
        wait_s = self._pace.due_s - time.monotonic()
        time.sleep(max(0.0, min(wait_s, timeout_s)))
        if wait_s > timeout_s:
            self._early = frame
            return Outcome.TIMEOUT
        return replace(frame, timestamp_s=time.monotonic())

    def _delivered(self) -> Frame:
        import cv2

        with quiet_opencv():
            delivered, frame_bgr = self.capture.read()
        now_s = time.monotonic()
        if not delivered or frame_bgr is None:
            raise SourceError(f"source {self.source_id!r} stopped delivering frames")
        if self.in_bursts:
            self._pace.take(self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3, now_s)
        frame_id = self.first_id + self._count
        self._count += 1
        pixels: HostPixels = frame_bgr
        # OpenCV gives NV12 in one channel, and what it converted to BGR itself in three.
        if self.nv12 is not None and frame_bgr.ndim == 2:
            pixels = Nv12Frame.from_rows(frame_bgr, matrix=self.nv12)
        return Frame(pixels, frame_id, now_s, self.source_id, f"{frame_id:06d}")

    def close(self) -> None:
        self.capture.release()


class FedSource(Source):
    """A source behind a Feed, so that frames are never old and a loss is not the end.

    `drops` counts frames that a newer one replaced; `reconnects` how often it was opened again.
    Raises SourceError from `read` once reconnecting has failed.
    """

    live = True

    def __init__(
        self,
        first: Source,
        open_again: Callable[[], Source],
        *,
        reconnect: Reconnect,
        close_s: float,
    ) -> None:
        """Read `first`, and replace it by `open_again()` when it fails.

        close_s: how long `close` waits for a read to end.
        """
        opened = [first]
        self.source_id, self.fps = first.source_id, first.fps
        self._close_s = close_s
        self._feed = Feed(
            self.source_id,
            lambda: opened.pop() if opened else open_again(),
            options=FeedOptions(reconnect, told=False),
        )

    @property
    def reconnects(self) -> int:
        return self._feed.report().reconnects

    @property
    def drops(self) -> Mapping[str, int]:
        return {SUPERSEDED: 0, **self._feed.report().drops}

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._feed.report().warnings

    def read(self, timeout_s: float) -> Frame | Outcome:
        return self._feed.read(timeout_s)

    def close(self) -> None:
        self._feed.close(self._close_s)


class LiveSource(FedSource):
    """A capture of OpenCV behind a Feed."""

    def __init__(
        self,
        source_id: str,
        open_again: Callable[[], Capture],
        *,
        capture: Capture,
        reconnect: Reconnect,
        read_timeout_s: float = READ_TIMEOUT_S,
        in_bursts: bool = False,
        nv12: Matrix | None = None,
    ) -> None:
        """Read `capture`, which is open, and replace it by `open_again()` when it fails.

        source_id: address without credentials; read_timeout_s: how long a read of the capture may
        block, which bounds `close`; in_bursts, nv12: as of CaptureSource.
        """
        self.source_id = source_id
        self._open_again = open_again
        self._in_bursts, self._nv12 = in_bursts, nv12
        super().__init__(
            self._source_of(capture),
            self._reopened,
            reconnect=reconnect,
            close_s=read_timeout_s + 1.0,
        )

    def _source_of(self, capture: Capture) -> CaptureSource:
        return CaptureSource(
            self.source_id,
            self._open_again,
            capture=capture,
            in_bursts=self._in_bursts,
            nv12=self._nv12,
        )

    def _reopened(self) -> Source:
        """Return a source that has delivered a frame. Raises SourceError."""
        source = self._source_of(self._open_again())
        # Some servers accept and send nothing: only a frame proves that the source is back.
        if not (source.capture.isOpened() and source.capture.read()[0]):
            source.close()
            raise SourceError(f"source {self.source_id!r} cannot be opened again")
        return source


def kept_newest(source: Source, reconnect: Reconnect) -> Source:
    """Return a source of which no frame is old, and that comes back; recordings stay as they are."""
    if isinstance(source, TopicSource):
        again = partial(connect_topic, source.source_id)
        return FedSource(source, again, reconnect=reconnect, close_s=READ_TIMEOUT_S)
    if not isinstance(source, CaptureSource):
        return source
    return LiveSource(
        source.source_id,
        source.connect,
        capture=source.capture,
        reconnect=reconnect,
        read_timeout_s=source.read_timeout_s,
        in_bursts=source.in_bursts,
        nv12=source.nv12,
    )


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
    takes = f"a camera takes {', '.join(CAMERA_SETTINGS)}"
    settings = settings_of(query, CAMERA_SETTINGS, what=repr(uri), takes=takes, refusal=SourceError)
    patterns = {"size": r"\d{1,5}x\d{1,5}", "fps": r"\d{1,3}(\.\d+)?", "format": r"[A-Za-z0-9]{4}"}
    for name, value in settings.items():
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


def connect_camera(device: int | str, *, mode: CameraMode | None = None) -> CaptureSource:
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
    return CaptureSource(source_id, connect, capture=capture)


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


def connect_network(
    uri: str,
    *,
    open_timeout_s: float = OPEN_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> Source:
    """Return the stream at `uri`, or its video file when the server has one there.

    `rtsp://` comes over TCP, `rtsp+udp://` over UDP, which has less delay and loses packets. Raises
    SourceError.
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

    def connect_plain() -> Capture:
        options = {"rtsp_transport": "udp"} if over_udp else None
        return open_capture(address, backend=cv2.CAP_FFMPEG, settings=settings, options=options)

    def connect() -> Capture:
        return read_right(uri, connect_plain())

    capture = connect_plain()
    if not capture.isOpened():
        raise SourceError(
            f"stream {redact(uri)!r} cannot be opened within {open_timeout_s:g} s, because "
            f"{why_not(address)}"
        )
    if property_of(capture, cv2.CAP_PROP_FRAME_COUNT) is not None:
        return VideoSource(uri, source_id=uri, capture=capture)
    if (may_be_black := warning_of(redact(uri))) is not None:
        log.warning("%s", may_be_black)
    return CaptureSource(
        redact(uri),
        connect,
        capture=read_right(uri, capture),
        read_timeout_s=read_timeout_s,
        in_bursts=urlsplit(uri).path.lower().endswith(IN_BURSTS),
    )
