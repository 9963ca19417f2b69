"""Recordings that are watched: a pause at their end, moved about, in their own time, every frame."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from serving_site import camera, running

from dedos_deploy.cli.run import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Frame, Outcome, open_source
from dedos_deploy.runtime.sources.contract import Source
from dedos_deploy.runtime.sources.playback import Playback

SCENE = "scene:street?frames=6&size=24x32"
"""Six frames, 25 a second."""


def playback(uri: str = SCENE, frames: int | None = 6) -> Playback:
    def opened() -> Source:
        source = open_source(uri)
        source.frames = frames
        return source

    return Playback(opened(), opened)


def until_rest(one: Playback) -> list[int]:
    """Numbers of the frames that come before it rests."""
    found = []
    while not (one.paused and one._target is None and not one._again):
        if isinstance(item := one.read(0.1), Frame):
            found.append(item.frame_id)
    return found


def test_the_end_is_a_pause_and_playing_on_begins_again() -> None:
    with playback() as one:
        assert until_rest(one) == list(range(6))
        assert (one.state.paused, one.state.ended, one.state.position) == (True, True, 1.0)
        assert one.read(0.01) is Outcome.TIMEOUT
        one.change(paused=False)
        assert not one.state.ended
        assert until_rest(one) == list(range(6))


def test_every_position_is_gone_to_from_every_other_also_while_it_is_paused() -> None:
    with playback() as one:
        one.change(paused=True)
        for first, then in itertools.product(range(6), repeat=2):
            for target in (first, then):
                one.change(position=target / 5)
                assert until_rest(one) == [target]
                assert one.state.position == pytest.approx(target / 5)
                assert one.state.seconds == pytest.approx(target / 25)
        assert one.state.duration_s == pytest.approx(6 / 25)


def test_a_position_is_played_on_from() -> None:
    with playback() as one:
        one.change(position=0.6)
        assert until_rest(one) == [3, 4, 5]
        one.change(position=0.8, paused=False)
        assert until_rest(one) == [4, 5]


def test_a_loop_begins_again_until_it_is_told_otherwise() -> None:
    with playback() as one:
        one.change(loop=True)
        frames: list[int] = []
        while len(frames) < 15:
            if isinstance(item := one.read(0.1), Frame):
                frames.append(item.frame_id)
        assert frames == [*range(6), *range(6), 0, 1, 2]
        one.change(loop=False)
        assert until_rest(one) == [3, 4, 5]


def test_no_frame_comes_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own, which only waiting moves."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with playback() as one:
        waits: list[float] = []

        def wait(seconds: float) -> bool:
            waits.append(seconds)
            now[0] += max(0.0, seconds)
            return False

        monkeypatch.setattr(one, "_wait", wait)
        times = [now[0] for _ in range(6) if isinstance(one.read(0.1), Frame)]
        assert times == pytest.approx([100 + number / 25 for number in range(6)])
        # Labelling that takes a second a frame loses none, and nothing is made up for afterwards.
        one.change(position=0.0)
        late = []
        for _ in range(3):
            item = one.read(0.1)
            assert isinstance(item, Frame)
            late.append(item.frame_id)
            now[0] += 1.0
        began = now[0]
        quick = []
        while len(quick) < 3:
            if isinstance(one.read(0.1), Frame):
                quick.append(now[0] - began)
        assert late == [0, 1, 2]
        assert quick == pytest.approx([0, 1 / 25, 2 / 25])


def test_a_number_of_frames_that_is_wrong_or_unknown() -> None:
    with playback(frames=9) as one:
        one.change(paused=True, position=1.0)
        # The last one there is stands for it.
        assert until_rest(one) == [5]
        assert (one.frames, one.state.position, one.state.ended) == (6, 1.0, True)
    with playback(frames=None) as one:
        with pytest.raises(BadInputError, match="not known before it was played to its end"):
            one.change(position=0.5)
        assert one.state.position is None
        assert until_rest(one) == list(range(6))
        one.change(position=0.4)
        assert until_rest(one) == [2]


def test_pictures_have_no_times_and_positions_all_the_same(tmp_path: Path) -> None:
    import cv2

    for number in range(4):
        cv2.imwrite(str(tmp_path / f"p{number}.png"), np.zeros((8, 8, 3), np.uint8))
    with playback(str(tmp_path), frames=4) as one:
        assert until_rest(one) == [0, 1, 2, 3]
        assert one.state.seconds is None and one.state.duration_s is None
        one.change(position=1 / 3)
        assert until_rest(one) == [1]


def test_a_frame_is_given_again_for_other_words() -> None:
    with playback() as one:
        until_rest(one)
        one.repeat()
        assert until_rest(one) == [5]
        assert one.read(0.01) is Outcome.TIMEOUT and one.state.ended


def test_words_that_come_shortly_before_a_pause_label_what_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that stands still, so that the next frame is never due."""
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    with playback() as one:
        first = one.read(0.1)
        assert isinstance(first, Frame)
        one.repeat()
        # Other words bring no frame before its time.
        assert one.read(0.1) is Outcome.TIMEOUT
        one.change(paused=True)
        again = one.read(0.1)
        assert isinstance(again, Frame) and again.frame_id == first.frame_id
        assert one.read(0.01) is Outcome.TIMEOUT


def test_what_is_watched_has_the_time_of_watching() -> None:
    """The recorder's clock goes back with the recording, where a video of the page goes on."""

    def opened() -> Source:
        source = open_source(SCENE)
        read = source.read

        def clocked(timeout_s: float) -> Frame | Outcome:
            item = read(timeout_s)
            return dataclasses.replace(item, clock_ns=7) if isinstance(item, Frame) else item

        source.read = clocked  # type: ignore[method-assign]
        return source

    with Playback(opened(), opened) as one:
        frames = []
        for position in (0.0, None):
            one.change(paused=True, position=position)
            one.repeat()
            frames.append(one.read(0.1))
    assert [isinstance(frame, Frame) and frame.clock_ns for frame in frames] == [None, None]


def test_what_was_wrong_is_said_once_however_often_it_is_moved_back() -> None:
    class Worried(Source):
        source_id, frames = "bag", 6

        def __init__(self) -> None:
            self._given = 0

        @property
        def warnings(self) -> tuple[str, ...]:
            return (f"{self._given} of {self._given} stamps are missing",)

        def read(self, timeout_s: float) -> Frame | Outcome:
            if self._given == self.frames:
                return Outcome.END
            self._given += 1
            return Frame(np.zeros((8, 8, 3), np.uint8), self._given - 1, 0.0, "bag", "x")

        def close(self) -> None:
            """Nothing is held."""

    with Playback(Worried(), Worried) as one:
        one.change(paused=True, position=0.4)
        until_rest(one)
        assert one.warnings == ("3 of 3 stamps are missing",)
        one.change(paused=False)
        until_rest(one)
        for position in (0.2, 0.6, 0.0):
            one.change(position=position)
            until_rest(one)
        assert one.warnings == ("6 of 6 stamps are missing",)


# dedos-run --serve


def test_a_served_recording_is_paused_moved_and_relabelled(bundle_folder: Path) -> None:
    with running(bundle_folder, "--source", f"gate={SCENE}") as (process, client):
        at_end = camera(client, lambda one: one["state"] == "ended" and one["frames"] == 6)
        assert at_end["playback"]["ended"]
        at = "/api/cameras/gate/"
        assert client.get(at + "snapshot.jpg").status_code == 200
        # What is labelled by other words is the picture that stands there.
        assert client.put(at + "classes", json={"classes": "lamp"}).status_code == 200
        camera(client, lambda one: list(one.get("coverage", {})) == ["lamp"])
        answer = client.put(at + "playback", json={"position": 0.4})
        assert answer.status_code == 200 and answer.json()["position"] == 0.4
        moved = camera(client, lambda one: one["playback"]["seconds"] == 0.08)
        assert moved["state"] == "paused" and not moved["playback"]["ended"]
        assert client.put(at + "playback", json={"paused": False, "loop": True}).status_code == 200
        camera(client, lambda one: one["frames"] > 20 and one["state"] == "live")
        for wrong in ({"position": 2}, {"position": "x"}, {"speed": 2}, {"paused": 3}):
            assert client.put(at + "playback", json=wrong).status_code == 422
        client.put(at + "playback", json={"paused": True})
        camera(client, lambda one: one["state"] == "paused")
        assert 'state="paused"} 1.0' in client.get("/metrics").text
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert process.returncode == 130
        assert json.loads(out)["cameras"][0]["state"] == "paused"
        assert "Traceback" not in err and "left behind" not in err


def test_what_is_live_cannot_be_moved(bundle_folder: Path) -> None:
    with running(bundle_folder, "--source", "gate=test:bars?size=24x32") as (_, client):
        assert camera(client, lambda one: one["state"] == "live")["playback"] is None
        answer = client.put("/api/cameras/gate/playback", json={"paused": True})
        assert answer.status_code in (400, 422) and "cannot be paused" in answer.text


def test_a_recording_with_an_output_ends_and_ends_the_run(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines.jsonl"
    base = ["--bundle", str(bundle_folder), "--classes", "red", "--source", SCENE, "--serve", "0"]
    assert main([*base, "--output", str(lines), "--json"]) == 0
    assert lines.read_text().count("\n") == 6
    assert json.loads(capsys.readouterr().out)["cameras"][0]["state"] == "ended"


# Ctrl-C with the page open


def test_a_stop_with_streams_and_requests_under_way_is_silent(bundle_folder: Path) -> None:
    """One stream is read, one is not, and one request never says the rest of its body."""
    with running(bundle_folder, "--source", "gate=test:bars?size=48x64&fps=30") as (
        process,
        client,
    ):
        camera(client, lambda one: one.get("frames", 0) > 0)
        host, port = client.base_url.host, client.base_url.port
        get = f"GET /api/cameras/gate/stream HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
        half = (
            f"POST /api/segment?classes=red HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "Content-Length: 1000\r\n\r\nabc"
        )
        with contextlib.ExitStack() as opened:
            ends = [
                opened.enter_context(socket.create_connection((host, port), timeout=10))
                for _ in range(3)
            ]
            for end, request in zip(ends, (get, get, half), strict=True):
                end.sendall(request.encode())
            seen = b""
            while seen.count(b"--frame") < 3:
                seen += ends[0].recv(65536)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
        assert process.returncode == 130
        assert err in ("", "dedos-run: camera gate is live\n")
