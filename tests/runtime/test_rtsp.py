"""Streams of a real RTSP server, GStreamer's, which is killed, frozen, and asks for a password."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import Frame, open_source
from dedos_deploy.runtime.flow import (
    Camera,
    Feed,
    FeedOptions,
    Reconnect,
    Run,
    RunOptions,
    SourceState,
)
from dedos_deploy.runtime.sources.contract import Source
from dedos_deploy.runtime.sources.live import connect_network

PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("rtsp_server.py")
QUICK = Reconnect(first_s=0.2, longest_s=0.5, attempts=40)


def _why_no_server() -> str | None:
    check = "import gi; gi.require_version('GstRtspServer', '1.0')"
    check += "; from gi.repository import Gst, GstRtspServer; Gst.init(None)"
    check += "; assert Gst.ElementFactory.find('rtpjpegpay')"
    try:
        done = subprocess.run([PYTHON, "-c", check], capture_output=True, timeout=60)
    except OSError:
        return f"there is no {PYTHON}"
    if done.returncode:
        return (
            "needs GStreamer's RTSP server: apt install gir1.2-gst-rtsp-server-1.0 "
            "gstreamer1.0-plugins-good python3-gi"
        )
    return None


_REASON = _why_no_server()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=str(_REASON))


class Server:
    """One that can be killed and started again on the same port."""

    def __init__(self, *credentials: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._credentials = credentials
        self.process: subprocess.Popen[str]
        self.start()

    def start(self) -> None:
        command = [PYTHON, str(SCRIPT), str(self.port), *self._credentials]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "ready"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def uri(self, user: str = "", *, scheme: str = "rtsp", path: str = "live") -> str:
        return f"{scheme}://{user}127.0.0.1:{self.port}/{path}"


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*credentials: str) -> Server:
        started.append(Server(*credentials))
        return started[-1]

    yield start
    for server in started:
        server.process.send_signal(signal.SIGCONT)
        server.kill()


def take(feed: Feed, count: int, *, within_s: float = 20.0) -> list[Frame]:
    frames: list[Frame] = []
    deadline = time.monotonic() + within_s
    while len(frames) < count:
        assert time.monotonic() < deadline, feed.report()
        frame = feed.take()
        if frame is None:
            time.sleep(0.005)
        else:
            frames.append(frame)
    return frames


def wait_for(feed: Feed, *states: SourceState, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while feed.report().state not in states:
        assert time.monotonic() < deadline, feed.report()
        time.sleep(0.02)


def opener(server: Server, user: str = "") -> Callable[[], Source]:
    return lambda: connect_network(server.uri(user), open_timeout_s=3.0, read_timeout_s=1.0)


@pytest.mark.parametrize("scheme", ["rtsp", "rtsp+udp"])
def test_frames_come_fresh_over_tcp_and_udp(serve: Callable[..., Server], scheme: str) -> None:
    before = dict(os.environ)
    with open_source(serve().uri(scheme=scheme)) as source:
        assert source.live and source.source_id.startswith(f"{scheme}://127.0.0.1")
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 5:
                break
    assert os.environ == before
    assert all(frame.frame_bgr.shape == (120, 160, 3) for frame in frames)
    assert [frame.frame_id for frame in frames] == sorted({frame.frame_id for frame in frames})
    assert np.any(frames[0].frame_bgr != frames[-1].frame_bgr)
    assert time.monotonic() - frames[-1].timestamp_s < 1.0


def test_killed_and_started_again_it_comes_back_by_itself(serve: Callable[..., Server]) -> None:
    server = serve()
    with Feed("gate", opener(server), options=FeedOptions(QUICK, stall_s=0.5)) as feed:
        take(feed, 5)
        server.kill()
        wait_for(feed, SourceState.CONNECTING)
        server.start()
        assert len(take(feed, 5)) == 5
        report = feed.report()
    assert report.state is SourceState.LIVE and report.reconnects >= 1
    assert report.error


def test_a_frozen_server_is_stalled_then_opened_again(serve: Callable[..., Server]) -> None:
    server = serve()
    with Feed("gate", opener(server), options=FeedOptions(QUICK, stall_s=0.4)) as feed:
        take(feed, 3)
        server.process.send_signal(signal.SIGSTOP)
        wait_for(feed, SourceState.STALLED, within_s=5)
        wait_for(feed, SourceState.CONNECTING, within_s=10)
        server.process.send_signal(signal.SIGCONT)
        take(feed, 3)
        started = time.monotonic()
    assert time.monotonic() - started < 2.0


def test_frozen_for_ever_it_is_lost_and_can_be_stopped_while_it_is_tried(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    options = FeedOptions(Reconnect(first_s=0.1, longest_s=0.1, attempts=1), stall_s=0.4)
    with Feed("gate", opener(server), options=options) as feed:
        take(feed, 1)
        server.process.send_signal(signal.SIGSTOP)
        wait_for(feed, SourceState.LOST, within_s=15)
        assert "127.0.0.1" in feed.report().error


def test_lag_does_not_grow_behind_a_slow_reader(serve: Callable[..., Server]) -> None:
    with open_source(serve().uri()) as source:
        ages = []
        for frame in source:
            time.sleep(0.3)
            ages.append(time.monotonic() - frame.timestamp_s)
            if len(ages) == 6:
                break
    assert max(ages) < 0.3 + 0.25
    assert source.drops["superseded"] > 10


@pytest.mark.parametrize(
    ("user", "reason"),
    [("", "none was given"), ("guard:wrong@", "does not accept this user and password")],
)
def test_a_wrong_password_is_said_and_not_shown(
    serve: Callable[..., Server], user: str, reason: str
) -> None:
    server = serve("guard", "hunter22")
    with pytest.raises(SourceError, match=reason) as caught:
        open_source(server.uri(user))
    assert "wrong" not in str(caught.value) and "guard" not in str(caught.value)
    # Doing what the message says works.
    with open_source(server.uri("guard:hunter22@")) as source:
        assert isinstance(next(iter(source)), Frame)
        assert "hunter22" not in source.source_id


def test_another_path_and_nobody_there_are_told_apart(serve: Callable[..., Server]) -> None:
    server = serve()
    with pytest.raises(SourceError, match="knows no '/other'"):
        open_source(server.uri(path="other"))
    server.kill()
    with pytest.raises(SourceError, match=f"nothing listens on port {server.port}"):
        open_source(server.uri())


def test_a_fleet_goes_on_beside_a_server_that_is_not_there(serve: Callable[..., Server]) -> None:
    from runtime_fakes import FakeLabeller

    alive, gone = serve(), serve()
    gone.kill()
    options = FeedOptions(Reconnect(first_s=0.1, longest_s=0.1, attempts=2))
    cameras = [
        Camera("alive", opener(alive), FakeLabeller(), feed=options),
        Camera("gone", opener(gone), FakeLabeller(), feed=options),
    ]
    reports = {report.name: report for report in Run(cameras, RunOptions(max_results=40)).run()}
    assert reports["alive"].results.frames == 40
    assert reports["gone"].source.state is SourceState.LOST
    assert "nothing listens" in reports["gone"].source.error
