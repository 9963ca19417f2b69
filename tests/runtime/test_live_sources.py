"""Live sources: the newest frame wins, a lost one comes back, and everything ends in time."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import Frame, Outcome, open_source
from dedos_deploy.runtime.flow import Reconnect
from dedos_deploy.runtime.sources.live import LiveSource, connect_network, kept_newest
from dedos_deploy.runtime.sources.video import VideoSource

FAST = Reconnect(first_s=0.01, longest_s=0.02, attempts=3)


class FakeCapture:
    """Gives `frames` pictures, then nothing; `opened` False never gives any."""

    def __init__(self, frames: int, *, opened: bool = True, pause_s: float = 0.0) -> None:
        self.left, self.opened, self.pause_s = frames, opened, pause_s
        self.released = 0

    def isOpened(self) -> bool:
        return self.opened

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        time.sleep(self.pause_s)
        self.left -= 1
        return (True, np.zeros((2, 2, 3), np.uint8)) if self.left >= 0 else (False, None)

    def get(self, prop: int) -> float:
        return 0.0

    def release(self) -> None:
        self.released += 1


def live(*captures: FakeCapture, reconnect: Reconnect = FAST) -> LiveSource:
    """Return a source that starts with the first capture and reconnects to the others in turn."""
    queue = list(captures[1:])
    return LiveSource(
        "fake",
        lambda: queue.pop(0) if queue else FakeCapture(0, opened=False),
        capture=captures[0],
        reconnect=reconnect,
        read_timeout_s=1.0,
    )


def read_until_error(source: LiveSource) -> list[Frame]:
    frames = []
    for _ in range(1000):
        item = source.read(5.0)
        assert isinstance(item, Frame)
        frames.append(item)
    raise AssertionError("the source never ended")


def test_a_slow_reader_gets_the_newest_frame_and_the_rest_are_counted() -> None:
    capture = FakeCapture(20)
    with live(capture, reconnect=Reconnect(first_s=30.0)) as source:
        deadline_s = time.monotonic() + 10.0
        while capture.left >= 0 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        item = source.read(1.0)
        assert isinstance(item, Frame)
        assert item.frame_id == 19
        assert source.drops == {"superseded": 19}
        assert source.read(0.01) is Outcome.TIMEOUT


def test_a_lost_source_is_opened_again_and_given_up_after_the_limit() -> None:
    first = FakeCapture(2, pause_s=0.02)
    second = FakeCapture(3, pause_s=0.02)
    with live(first, FakeCapture(0), FakeCapture(0, opened=False), second) as source:
        with pytest.raises(SourceError, match="'fake' stopped.*3 attempts.*check the device"):
            read_until_error(source)
        assert source.reconnects == 1
        assert source.warnings == ("'fake' was lost and opened again 1 times",)
    # Whatever was opened was also released.
    assert min(first.released, second.released) >= 1


def test_frame_numbers_go_on_after_a_reconnect() -> None:
    with live(FakeCapture(2, pause_s=0.05), FakeCapture(3, pause_s=0.05)) as source:
        ids = []
        with pytest.raises(SourceError):
            while isinstance(item := source.read(5.0), Frame):
                ids.append(item.frame_id)
    # The frame that proved the second capture alive is not shown: 2 + (3 - 1).
    assert ids == sorted(set(ids))
    assert ids[-1] == 3


def test_waits_double_up_to_the_longest_and_start_anew() -> None:
    assert list(Reconnect(first_s=0.5, longest_s=30.0, attempts=9).waits_s()) == [
        0.5,
        1.0,
        2.0,
        4.0,
        8.0,
        16.0,
        30.0,
        30.0,
        30.0,
    ]
    captures = [FakeCapture(1), *[FakeCapture(2) for _ in range(6)]]
    with live(*captures) as source:
        with pytest.raises(SourceError, match="3 attempts"):
            read_until_error(source)
        # Six recoveries, each within its own three attempts.
        assert source.reconnects == 6


def test_closing_while_it_waits_to_reconnect_ends_its_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = live(FakeCapture(0), reconnect=Reconnect(first_s=60.0))
    time.sleep(0.05)
    started_s = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - started_s < 10.0
    assert "did not end" not in caplog.text
    assert source.read(0.0) is Outcome.END


@pytest.fixture
def jpeg() -> bytes:
    picture = np.full((48, 64, 3), 120, dtype=np.uint8)
    return bytes(cv2.imencode(".jpg", picture)[1])


Respond = Callable[[http.server.BaseHTTPRequestHandler, int], None]
Serve = Callable[[Respond], str]


@pytest.fixture
def serve(serve_http: Serve) -> Serve:
    """As `serve_http`, at an address with credentials."""

    def start(respond: Respond) -> str:
        return serve_http(respond).replace("//", "//user:s3cret@", 1) + "/live.mjpg?token=t0ken"

    return start


def send_mjpeg(
    handler: http.server.BaseHTTPRequestHandler, jpeg: bytes, frames: int, pause_s: float = 0.01
) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
    handler.end_headers()
    for _ in range(frames):
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        handler.wfile.write(head.encode() + jpeg + b"\r\n")
        time.sleep(pause_s)


def test_a_stream_that_breaks_off_comes_back(serve: Serve, jpeg: bytes) -> None:
    """The first connection dies, the second is refused, the third delivers again."""
    requests: list[int] = []

    def respond(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        requests.append(number)
        if number == 1:
            handler.send_error(503)
        else:
            send_mjpeg(handler, jpeg, 40 if number == 0 else 4000)

    uri = serve(respond)
    with kept_newest(connect_network(uri), Reconnect(first_s=0.05, attempts=8)) as source:
        assert source.live
        assert "s3cret" not in source.source_id
        assert "t0ken" not in source.source_id
        deadline_s = time.monotonic() + 30.0
        seen = 0
        while time.monotonic() < deadline_s and not source.warnings:
            seen += isinstance(source.read(0.2), Frame)
        assert seen > 0
        (warning,) = source.warnings
        assert "lost and opened again 1 times" in warning
        assert isinstance(source.read(10.0), Frame)
    assert len(requests) >= 3


def test_a_stream_that_falls_silent_ends_in_bounded_time(serve: Serve, jpeg: bytes) -> None:
    release = threading.Event()

    def respond(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        if number == 0:
            send_mjpeg(handler, jpeg, 30)
        release.wait(60.0)

    source = kept_newest(
        connect_network(serve(respond), open_timeout_s=1.0, read_timeout_s=1.0),
        Reconnect(first_s=0.01, attempts=1),
    )
    started_s = time.monotonic()
    with source, pytest.raises(SourceError, match="stopped delivering") as caught:
        while isinstance(source.read(30.0), Frame):
            pass
    release.set()
    assert time.monotonic() - started_s < 30.0
    assert "s3cret" not in str(caught.value)


def test_a_video_file_on_a_server_is_read_as_a_file(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48)
    )
    for _ in range(5):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()

    def respond(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(path.stat().st_size))
        handler.end_headers()
        handler.wfile.write(path.read_bytes())

    with open_source(serve(respond)) as source:
        assert isinstance(source, VideoSource)
        assert "s3cret" not in source.source_id
        assert len(list(source)) == 5


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "does not accept this user and password"), (404, "knows no"), (500, "gives no stream")],
)
def test_a_stream_that_cannot_be_opened_keeps_its_password(
    serve: Serve, status: int, reason: str
) -> None:
    uri = serve(lambda handler, number: handler.send_error(status))
    with pytest.raises(SourceError, match=rf"http://\*\*\*@127.0.0.1.*{reason}") as caught:
        open_source(uri)
    assert "s3cret" not in str(caught.value)
    assert "t0ken" not in str(caught.value)


def test_attempts_may_be_without_end() -> None:
    waits = Reconnect(first_s=1.0, longest_s=8.0, attempts=None).waits_s()
    first = [next(waits) for _ in range(2000)]
    assert first[:5] == [1.0, 2.0, 4.0, 8.0, 8.0] and set(first[5:]) == {8.0}


def test_a_camera_is_asked_for_its_format_before_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def open_capture(address: Any, *, backend: int = 0, settings: Any = ()) -> FakeCapture:
        asked.append((address, list(settings)))
        return FakeCapture(5)

    monkeypatch.setattr("dedos_deploy.runtime.sources.live.open_capture", open_capture)
    with open_source("/dev/video3?size=2x2&fps=30&format=mjpg"):
        pass
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    expected = [
        cv2.CAP_PROP_FOURCC,
        fourcc,
        cv2.CAP_PROP_FRAME_HEIGHT,
        2,
        cv2.CAP_PROP_FRAME_WIDTH,
        2,
        cv2.CAP_PROP_FPS,
        30,
    ]
    assert asked[0] == (3, expected)
    with pytest.raises(SourceError, match="delivers 2x2 and not the size 720x1280"):
        open_source("3?size=720x1280")
    for uri, says in (
        ("0?sise=2x2", "unknown setting 'sise', did you mean 'size'"),
        ("0?fps=fast", "fps cannot be 'fast'"),
    ):
        with pytest.raises(SourceError, match=says):
            open_source(uri)
