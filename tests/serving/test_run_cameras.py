"""dedos-run with several sources and --serve, as a user types it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from run_process import start, wait_for_lines

from dedos_deploy.cli.run import build_parser, main
from dedos_deploy.cli.run_cameras import Ends, access_of, part_of
from dedos_deploy.errors import BadInputError, SinkError, SourceError
from dedos_deploy.runtime import Frame, Outcome

BASE = ["--classes", "red,green,blue"]


def _run(bundle: Path, *arguments: str) -> int:
    return main(["--bundle", str(bundle), *BASE, "--threads", "1", *arguments])


def test_two_recordings_with_outputs_of_their_own(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [
        "--source",
        "a=scene:street?frames=6&size=48x64",
        "--source",
        "scene:hall?frames=4&size=48x64",
    ]
    code = _run(bundle_folder, *sources, "--output", str(tmp_path / "{camera}.jsonl"), "--json")
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert [(c["name"], c["frames"], c["state"]) for c in report["cameras"]] == [
        ("a", 6, "ended"),
        ("camera2", 4, "ended"),
    ]
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 6
    assert len((tmp_path / "camera2.jsonl").read_text().splitlines()) == 4


def test_the_table(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [
        "--source",
        "scene:street?frames=2&size=48x64",
        "--source",
        "scene:hall?frames=2&size=48x64",
    ]
    assert _run(bundle_folder, *sources) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["camera", "state", "frames"] and lines[1].startswith("camera1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "a=test:bars", "--source", "a=test:bars"], "two sources are called 'a'"),
        (["--source", "test:bars", "--source", "test:bars", "--output", "x.mp4"], "{camera}.mp4"),
        (["--source", "test:bars", "--source", "nowhere.mp4"], "'nowhere.mp4' does not exist"),
        (["--source", "test:bars", "--serve", "--show"], "watch several in the page"),
        (["--source", "test:bars", "--serve", "0.0.0.0:1"], "needs a token"),
        (["--source", "test:bars", "--serve", "1.2.3.4:x"], "is no address to serve at"),
        (["--source", "test:bars", "--serve", "0", "--token", "short"], "at least 16"),
        (["--source", "test:bars", "--max-latency-ms", "0"], "must be positive"),
        (["--source", "test:bars", "--record-to", "."], "does nothing without --serve"),
        (["--source", "test:bars", "--token", "x" * 20], "does nothing without --serve"),
        (["--source", "test:bars", "--state", "s.json"], "--state does nothing without --serve"),
        (["--source", "test:bars", "--collect", "c"], "--collect does nothing without --serve"),
        (
            ["--source", "test:bars", "--serve", "0", "--record-to", "no"],
            "does not exist; create it",
        ),
        (["--source", "test:bars", "--serve", "0", "--watchdog", "-1"], "must lie in 0 to 3600"),
    ],
)
def test_mistakes(
    bundle_folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(bundle_folder, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("dedos-run: error:") and message in error and error.count("\n") == 1


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (a.host, a.port)
        for a in (
            access_of(text, None)
            for text in (
                "127.0.0.1:9",
                "9",
                "localhost",
                "[::1]:9",
                ":9",
            )
        )
    ]
    assert found == [
        ("127.0.0.1", 9),
        ("127.0.0.1", 9),
        ("localhost", 8080),
        ("::1", 9),
        ("127.0.0.1", 9),
    ]
    with pytest.raises(BadInputError, match="the port must lie"):
        access_of("127.0.0.1:99999", None)
    monkeypatch.setenv("DEDOS_TOKEN", "from-the-environment")
    assert access_of("0.0.0.0:9", None).token == "from-the-environment"


def test_a_camera_that_is_lost_and_an_output_that_fails_are_said_at_the_end(
    bundle_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dedos_deploy.runtime.sinks.files import JsonLines

    def fail(self: JsonLines, *item: object) -> None:
        raise SinkError("output 'a.jsonl' cannot be written")

    monkeypatch.setattr(JsonLines, "write", fail)
    sources = [
        "--source",
        "a=scene:street?frames=9&size=48x64",
        "--source",
        "b=rtsp://user:secret@127.0.0.1:1/live",
        "--reconnect",
        "0",
    ]
    output = ["--output", str(tmp_path / "{camera}.jsonl")]
    assert _run(bundle_folder, *sources, *output, "--json") == 2
    captured = capsys.readouterr()
    a, b = json.loads(captured.out)["cameras"]
    assert (a["frames"], a["state"], b["state"]) == (9, "ended", "lost")
    lost, failed = captured.err.splitlines()[-2:]
    assert lost.startswith("dedos-run: error: camera b was lost: ") and "secret" not in captured.err
    assert failed == "dedos-run: error: output 'a.jsonl' cannot be written"
    assert _run(bundle_folder, *sources, *output, "--on-output-error", "stop", "--overwrite") == 2
    assert "output 'a.jsonl' cannot be written" in capsys.readouterr().err


def test_a_trace_and_logs_for_machines(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.json"
    sources = [
        "--source",
        "a=scene:street?frames=5&size=48x64",
        "--source",
        "b=rtsp://user:secret@127.0.0.1:1/live",
        "--reconnect",
        "0",
    ]
    assert _run(bundle_folder, *sources, "--trace", str(trace), "--log-format", "json") == 2
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    states = [(line["camera"], line["state"]) for line in lines if "state" in line]
    assert sorted(states) == [("a", "ended"), ("a", "live"), ("b", "lost")]
    assert lines[-1]["level"] == "error" and lines[-1]["message"].startswith("camera b was lost")
    assert not any("secret" in line["message"] for line in lines)
    events = json.loads(trace.read_text())
    labels = [event for event in events if event["name"] == "label"]
    assert [event["args"] for event in labels] == [
        {"subject": "a", "frame": number} for number in range(5)
    ]
    # The file is kept, and the mistake is a line for machines too.
    assert _run(bundle_folder, *sources, "--trace", str(trace), "--log-format", "json") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "exists; allow it to be replaced" in json.loads(line)["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_served_until_it_is_stopped(bundle_folder: Path, number: signal.Signals) -> None:
    httpx = pytest.importorskip("httpx")
    process = start(bundle_folder, *BASE, "--source", "test:bars", "--serve", "0", "--json")
    assert process.stderr is not None and process.stdout is not None
    line = process.stderr.readline()
    found = re.fullmatch(r"dedos-run: watch at (http://127\.0\.0\.1:\d+/)\n", line)
    assert found is not None, line
    url = found[1]
    deadline = time.monotonic() + 10
    while not httpx.get(url + "api/state").json()["cameras"][0].get("frames"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert time.monotonic() - started < 2.5
    assert process.returncode == 130
    # readline may have taken the second line out of the pipe with the first.
    assert err in ("", "dedos-run: camera camera1 is live\n")
    assert json.loads(out)["cameras"][0]["state"] == "live"


def test_ctrl_c_twice_ends_at_once_even_when_a_camera_is_stuck(
    bundle_folder: Path, tmp_path: Path
) -> None:
    """A server that accepts and never answers holds the source's driver for many seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live"
        lines = tmp_path / "b.jsonl"
        process = start(
            bundle_folder,
            *BASE,
            "--source",
            f"a={address}",
            "--source",
            "b=test:bars",
            "--output",
            tmp_path / "{camera}.jsonl",
        )
        try:
            wait_for_lines(process, lines, 1, timeout_s=20.0)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
            assert time.monotonic() - started < 1.0
            assert process.returncode == -signal.SIGINT
        finally:
            process.kill()
            process.communicate()
    # What was written before is whole.
    assert all(json.loads(line) for line in lines.read_text().splitlines())


def test_ctrl_c_once_leaves_a_stuck_camera_behind(bundle_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live"
        process = start(
            bundle_folder, *BASE, "--source", f"a={address}", "--source", "b=test:bars", "--json"
        )
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "dedos-run: camera b is live\n"
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
            process.communicate()
    assert time.monotonic() - started < 3.0
    assert process.returncode == 130 and "feed a did not end" in err
    states = {camera["name"]: camera["state"] for camera in json.loads(out)["cameras"]}
    assert states == {"a": "connecting", "b": "live"}


# One source goes the same way


class Mjpeg(http.server.BaseHTTPRequestHandler):
    """A camera that answers with pictures until nobody listens any more."""

    def do_GET(self) -> None:
        jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 120, np.uint8))[1].tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        try:
            for _ in range(1000):
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                time.sleep(0.02)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def nobody_listens() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Files(http.server.SimpleHTTPRequestHandler):
    """A web server with recordings: it answers to ranges, as FFmpeg seeks in a file."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        first = int(re.findall(r"bytes=(\d+)", self.headers.get("Range", "bytes=0"))[0])
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content[first:])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(handler: Any) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def is_growing(path: Path) -> bool:
    """Whether an MP4 was written as that of a live source, in fragments."""
    return b"moof" in path.read_bytes()


def test_outputs_of_a_recording_on_a_web_server_are_those_of_a_recording(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where sources are waited for: beside a stream of the same kind of server, and with --serve."""
    drive = tmp_path / "drive.mp4"
    writer = cv2.VideoWriter(str(drive), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (64, 48))
    for _ in range(6):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    output = ["--output", str(tmp_path / "{camera}-seen.mp4"), "--json"]
    with served(functools.partial(Files, directory=str(tmp_path))) as files, served(Mjpeg) as cam:
        both = [*("--source", f"drive={files}/drive.mp4"), *("--source", f"gate={cam}/live.mjpg")]
        # Turns are fair, so that six frames are long over when the stream has been cut off.
        assert _run(bundle_folder, *both, "--max-frames", "40", *output) == 0
        drive_report = json.loads(capsys.readouterr().out)["cameras"][0]
        alone = ["--source", f"lot={files}/drive.mp4", "--reconnect", "forever"]
        assert _run(bundle_folder, *alone, *output) == 0
    assert (drive_report["frames"], drive_report["state"]) == (6, "ended")
    assert is_growing(tmp_path / "gate-seen.mp4")
    assert not any(is_growing(tmp_path / f"{name}-seen.mp4") for name in ("drive", "lot"))
    assert json.loads(capsys.readouterr().out)["frames"] == 6


def test_one_source_that_is_not_there_yet_is_waited_for(bundle_folder: Path) -> None:
    port = nobody_listens()
    source = ["--source", f"http://user:secret@127.0.0.1:{port}/live.mjpg"]
    waiting = ["--reconnect", "forever", "--max-frames", "3", "--json"]
    process = start(bundle_folder, *BASE, *source, *waiting)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "warning: camera camera1: SourceError" in line and "nothing listens" in line
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Mjpeg)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    server.shutdown()
    server.server_close()
    assert process.returncode == 0, err
    report = json.loads(out)
    assert (report["frames"], report["outcome"]) == (3, "max_frames")
    assert report["source"].startswith("http://***@127.0.0.1") and "secret" not in err


def test_one_source_that_never_comes_can_be_stopped(bundle_folder: Path) -> None:
    source = ["--source", f"rtsp://127.0.0.1:{nobody_listens()}/live", "--reconnect", "forever"]
    process = start(bundle_folder, *BASE, *source, "--json")
    try:
        assert process.stderr is not None and "nothing listens" in process.stderr.readline()
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130 and time.monotonic() - started < 3.0
    report = json.loads(out)
    assert (report["frames"], report["outcome"]) == (0, "stopped")
    assert report["source"].startswith("rtsp://127.0.0.1")


@pytest.mark.parametrize("attempts", ["0", "1"])
def test_one_source_that_did_not_come_is_an_error(
    bundle_folder: Path, attempts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--source", f"rtsp://127.0.0.1:{nobody_listens()}/live", "--reconnect", attempts]
    assert _run(bundle_folder, *source) == 2
    captured = capsys.readouterr()
    *warnings, error = captured.err.splitlines()
    assert error.startswith("dedos-run: error: stream") and "nothing listens" in error
    assert len(warnings) == int(attempts) and captured.out == ""


def test_frames_of_one_source_may_be_too_late_too(
    bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--source", "test:bars?fps=100&size=48x64&frames=40", "--max-latency-ms", "0.001"]
    assert _run(bundle_folder, *source, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    # One may come before anything can be predicted.
    assert report["frames"] <= 1 and report["drops"]["too late"] >= 5
    assert report["outcome"] == "end"


def test_a_recording_that_fails_is_not_begun_anew(
    bundle_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dedos_deploy.runtime.sources.scenes import SceneSource

    first = SceneSource.read

    def fail(self: SceneSource, timeout_s: float) -> Frame | Outcome:
        item = first(self, timeout_s)
        if isinstance(item, Frame) and item.frame_id == 3:
            raise SourceError("the recording is damaged")
        return item

    monkeypatch.setattr(SceneSource, "read", fail)
    broken = ["--source", "a=scene:street?frames=9&size=48x64"]
    assert _run(bundle_folder, *broken) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "dedos-run: error: the recording is damaged\n")
    assert _run(bundle_folder, *broken, "--source", "b=test:bars?frames=5", "--json") == 2
    captured = capsys.readouterr()
    a, b = json.loads(captured.out)["cameras"]
    assert (a["frames"], a["state"], b["state"]) == (3, "lost", "ended")
    assert captured.err.endswith("error: camera a was lost: the recording is damaged\n")


def test_one_source_has_a_name_too(bundle_folder: Path, tmp_path: Path) -> None:
    source = ["--source", "gate=scene:street?frames=2&size=48x64"]
    assert _run(bundle_folder, *source, "--output", str(tmp_path / "{camera}.jsonl")) == 0
    assert (tmp_path / "gate.jsonl").read_text().count("\n") == 2


def test_a_host_that_can_be_none_is_said(
    bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--source", "test:bars", "--serve", "a..b:8080", "--token", "0123456789abcdef"]
    assert _run(bundle_folder, *arguments) == 2
    assert "cannot listen on a..b:8080" in capsys.readouterr().err


def test_only_what_is_no_recording_is_opened_again(tmp_path: Path) -> None:
    """One that fails would begin anew, also one that is replayed in its own time and so counts as live."""
    (tmp_path / "d.mcap").touch()
    args = build_parser().parse_args(["--source", "a=test:bars", "--source", "b=test:bars"])
    view: Any = object()
    attempts = {
        uri: Ends("a", uri, [], [], part_of(args)).labelled_by(view, args).feed.reconnect.attempts
        for uri in (f"{tmp_path}/d.mcap?rate=1", "test:bars", "0", "rtsp://127.0.0.1/x")
    }
    assert list(attempts.values()) == [0, 5, 5, 10]
