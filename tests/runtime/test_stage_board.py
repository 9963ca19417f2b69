"""Traces hold what ran when, and a stage that is stuck is said with its stack."""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from runtime_fakes import FakeLabeller, RecordingSink, SyntheticSource

from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.runtime import Frame, run
from dedos_deploy.runtime.flow import Camera, Run
from dedos_deploy.runtime.flow.stages import StageBoard, TraceFile, Watchdog, stack_of
from dedos_deploy.runtime.segmentation import Segmentation


def traced(path: Path, **options: Any) -> TraceFile:
    return TraceFile(path, overwrite=False, **options)


def calls_of(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["name"] == name and event["ph"] == "X"]


def test_a_trace_of_a_run_has_every_call_on_its_thread(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with traced(path) as trace:
        sinks = [RecordingSink(seconds=0.002)]
        run(SyntheticSource(5), FakeLabeller(seconds=0.01), sinks, stages=StageBoard(trace))
    events = json.loads(path.read_text())
    for name in ("read", "label", "write"):
        assert [event["args"]["frame"] for event in calls_of(events, name)] == list(range(5))
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert sorted(name.split()[0] for name in names.values()) == [
        "dedos-label",
        "dedos-sink",
        "dedos-source",
    ]
    label = calls_of(events, "label")
    assert {names[event["tid"]] for event in label} == {"dedos-label"}
    # 10 ms of sleep each, one after the other on one thread.
    assert all(event["dur"] >= 9_900 for event in label)
    for before, after in itertools.pairwise(label):
        assert after["ts"] >= before["ts"] + before["dur"] - 1
    # The parts that the fake names, in order, from the beginning of the call on.
    for whole, pre, engine in zip(
        label, calls_of(events, "pre"), calls_of(events, "engine"), strict=True
    ):
        assert (pre["dur"], engine["dur"]) == (1000, 2000)
        assert pre["ts"] == whole["ts"]
        assert engine["ts"] == pytest.approx(pre["ts"] + 1000, abs=0.2)


def test_a_trace_can_be_read_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    board = StageBoard(trace := traced(path))
    for number in range(3):
        with board.busy("label", "c", number):
            pass
        content = path.read_text()
        assert content.startswith("[\n{") and content.endswith("}")
        assert len(calls_of(json.loads(content + "]"), "label")) == number + 1
    trace.close()
    trace.close()
    assert len(calls_of(json.loads(path.read_text()), "label")) == 3


def test_reads_without_a_frame_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with traced(path) as trace:
        board = StageBoard(trace)
        with board.busy("read", "c") as work:
            work.counts = False
    assert json.loads(path.read_text()) == []


def test_a_trace_ends_when_it_is_full_and_stays_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trace.json"
    with traced(path, most_events=10) as trace:
        board = StageBoard(trace)
        for number in range(100):
            with board.busy("label", "c", number):
                pass
    assert len(json.loads(path.read_text())) == 10
    assert caplog.text.count("is full after 10 events") == 1


def test_a_trace_that_cannot_be_written_ends_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = traced(tmp_path / "trace.json")
    assert trace._file is not None
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), trace._file.fileno())
    sink = RecordingSink()
    run(SyntheticSource(20), FakeLabeller(), [sink], stages=StageBoard(trace))
    assert sink.frame_ids == list(range(20))
    assert caplog.text.count("No space left on device") == 1
    assert trace.error is not None and "No space left on device" in trace.error


def test_an_existing_trace_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text("precious")
    with pytest.raises(SinkError, match="exists; allow it to be replaced"):
        traced(path)
    assert path.read_text() == "precious"


def stuck_in_a_driver(let_go: threading.Event) -> None:
    let_go.wait(20)


def test_a_stuck_stage_is_said_once_with_its_stack_and_when_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    board, let_go = StageBoard(), threading.Event()

    def work() -> None:
        with board.busy("read", "gate", 7):
            stuck_in_a_driver(let_go)

    thread = threading.Thread(target=work)
    with Watchdog(board, limit_s=0.1):
        thread.start()
        time.sleep(0.6)
        (stalled,) = board.busy_longer_than(0.1)
        assert (stalled.subject, stalled.frame_id) == ("gate", 7)
        let_go.set()
        thread.join()
        time.sleep(0.2)
    first, second = caplog.records
    assert first.getMessage().startswith("read of gate is stuck for 0.1")
    assert "stuck_in_a_driver" in first.getMessage() and "let_go.wait(20)" in first.stack  # type: ignore[attr-defined]
    assert (first.stage, first.frame) == ("read", 7)  # type: ignore[attr-defined]
    assert second.getMessage().startswith("read of gate goes on after 0.")
    assert board.busy_longer_than(0.0) == []


def test_a_run_that_goes_well_is_not_barked_at(caplog: pytest.LogCaptureFixture) -> None:
    board = StageBoard()
    with Watchdog(board, limit_s=0.5):
        run(SyntheticSource(100), FakeLabeller(seconds=0.01), [RecordingSink()], stages=board)
    assert caplog.records == []


def test_every_stage_of_a_fleet_is_watched(caplog: pytest.LogCaptureFixture) -> None:
    """One camera blocks in its source, one in its sink: both are named, the third goes on."""
    let_go = threading.Event()

    class BlockedSink(RecordingSink):
        uri = "blocked-sink"

        def write(self, frame: Frame, result: Segmentation) -> None:
            let_go.wait(20)

    class BlockedSource(SyntheticSource):
        def read(self, timeout_s: float) -> Any:
            let_go.wait(20)
            return super().read(timeout_s)

    board, stop = StageBoard(), threading.Event()
    cameras = [
        Camera("stuck", lambda: BlockedSource(live=True), FakeLabeller()),
        Camera(
            "fine",
            lambda: SyntheticSource(live=True, interval_s=0.01),
            FakeLabeller(),
            [BlockedSink()],
        ),
    ]
    threading.Timer(1.0, stop.set).start()
    fleet = Run(cameras, stop=stop, stages=board)
    with Watchdog(board, limit_s=0.2):
        _, fine = fleet.run()
    let_go.set()
    assert fine.results.frames > 20
    assert "read of stuck is stuck" in caplog.text
    assert "write of blocked-sink is stuck" in caplog.text
    deadline = time.monotonic() + 5
    while board.busy_longer_than(0.0) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_the_limit_must_be_positive() -> None:
    with pytest.raises(BadInputError, match="must be positive, not 0"):
        Watchdog(StageBoard(), limit_s=0)


def test_the_stack_of_a_thread_that_has_ended_is_empty() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.ident is not None and stack_of(thread.ident) == ""
