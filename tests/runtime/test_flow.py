"""What is the same for one source and for many: threads, errors, numbers, and who owns a source."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from runtime_fakes import FakeLabeller, RecordingSink, SyntheticSource, result_for
from test_live_sources import FakeCapture

from dedos_deploy.errors import SinkError, SourceError
from dedos_deploy.runtime import Frame, Segmentation, StopRequested
from dedos_deploy.runtime.flow import (
    Camera,
    Feed,
    FeedOptions,
    Reconnect,
    Run,
    RunOptions,
    SourceState,
)
from dedos_deploy.runtime.flow.feed_options import LENT
from dedos_deploy.runtime.flow.run import Errors
from dedos_deploy.runtime.flow.statistics import NAMES_KEPT, Meter
from dedos_deploy.runtime.flow.turns import LATE
from dedos_deploy.runtime.sources.contract import Source
from dedos_deploy.runtime.sources.live import CaptureSource

QUICK = FeedOptions(reconnect=Reconnect(first_s=0.01, longest_s=0.02, attempts=3))


class Window(RecordingSink):
    """Notes the threads that write it."""

    uri = "window"
    on_callers_thread = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.threads: set[int] = set()

    def write(self, frame: Frame, result: Segmentation) -> None:
        self.threads.add(threading.get_ident())
        super().write(frame, result)


def recording(name: str, sinks: list[RecordingSink], **options: Any) -> Camera:
    labeller = options.pop("labeller", FakeLabeller())
    source = SyntheticSource(options.pop("count", 12), **options)
    return Camera(name, lambda: source, labeller, sinks, live=False, feed=QUICK)


def test_windows_and_callbacks_of_all_cameras_are_on_the_callers_thread() -> None:
    windows, seen, labeller = [Window(), Window()], [], FakeLabeller()
    cameras = [
        recording(name, [window], labeller=labeller)
        for name, window in zip("ab", windows, strict=True)
    ]
    run = Run(cameras)
    run.on_result = lambda name, frame, _: seen.append(
        (name, frame.frame_id, threading.get_ident())
    )
    run.run()
    here = threading.get_ident()
    assert run.outcome == "end"
    assert sorted(seen) == [(name, number, here) for name in "ab" for number in range(12)]
    assert all(window.threads == {here} for window in windows)
    assert [window.frame_ids for window in windows] == [list(range(12))] * 2
    assert here not in labeller.threads


def test_the_first_error_of_several_ends_the_run_after_the_results_before_it() -> None:
    fine, broken = RecordingSink(), RecordingSink()
    once = FeedOptions(Reconnect(attempts=0), told=False)
    lost = recording("broken", [broken], fail_at=3, error=SourceError("cable pulled"))
    cameras = [recording("fine", [fine]), replace(lost, feed=once)]
    with pytest.raises(SourceError, match="cable pulled"):
        Run(cameras, RunOptions(errors="raise")).run()
    assert broken.frame_ids == [0, 1, 2]


@pytest.mark.parametrize("what", ["callback", "engine"])
def test_an_error_ends_a_run_or_is_counted(what: str) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise ArithmeticError("bad scores")

    def run(options: RunOptions) -> Run:
        labeller = FakeLabeller(on_frame=fail if what == "engine" else None)
        run = Run([recording("c", [], labeller=labeller)], options)
        if what == "callback":
            run.on_result = lambda _, frame, result: fail(frame.frame_id)
        return run

    (report,) = run(RunOptions()).run()
    assert report.results.drops == {f"{what} failed": 1}
    with pytest.raises(ArithmeticError, match="bad scores"):
        run(RunOptions(errors="raise")).run()


def test_a_callback_may_end_a_run_of_several() -> None:
    def enough(name: str, frame: Frame, result: Segmentation) -> None:
        if frame.frame_id == 4:
            raise StopRequested

    run = Run([recording("a", [], count=None), recording("b", [], count=None)], on_result=enough)
    run.run()
    assert run.outcome == "stopped"


def test_a_window_of_several_that_fails_concerns_no_other() -> None:
    broken, fine = Window(fail_at=2, error=SinkError("display gone")), Window()
    run = Run([recording("a", [broken]), recording("b", [fine])])
    first, second = run.run()
    assert broken.frame_ids == [0, 1] and fine.frame_ids == list(range(12))
    assert first.results.drops == {"sink failed": 10} and second.results.drops == {}
    assert list(run.sink_failures) == ["window"]


def test_a_slow_callback_loses_nothing_of_a_recording() -> None:
    sink = RecordingSink(seconds=0.01)
    run = Run([recording("a", [sink], count=40)], on_result=lambda *_: time.sleep(0.005))
    (report,) = run.run()
    assert sink.frame_ids == list(range(40)) and report.results.drops == {}


def test_a_stop_leaves_nothing_behind_but_what_is_stuck() -> None:
    """However long the first one hangs, those after it have come to their end."""
    let_go, stop = threading.Event(), threading.Event()

    class Stuck(RecordingSink):
        def write(self, frame: Frame, result: Segmentation) -> None:
            let_go.wait(20)

    stuck, fine = Stuck(), [RecordingSink(), RecordingSink()]
    source = SyntheticSource(live=True, interval_s=0.01)
    camera = Camera("c", lambda: source, FakeLabeller(), [stuck, *fine], feed=QUICK)
    run = Run([camera], stop=stop)
    threading.Timer(0.3, stop.set).start()
    (report,) = run.run()
    assert run.left_behind == (stuck,)
    assert all(len(sink.frame_ids) == report.results.frames > 3 for sink in fine)
    let_go.set()


# A source that is open already and somebody else's


def test_a_lent_live_source_is_read_when_a_frame_is_asked_for() -> None:
    """Whoever lends it drops what nobody asked for: a frame read ahead would be an old one."""
    source = SyntheticSource(live=True)
    with Feed("lent", lambda: source, options=LENT) as feed:
        for number in range(3):
            time.sleep(0.05)
            assert source.reads == number
            item = feed.read(5.0)
            assert isinstance(item, Frame) and item.frame_id == number
    assert isinstance(source.read(0.0), Frame)


def test_a_lent_source_is_neither_closed_nor_opened_again() -> None:
    opened = []
    source = SyntheticSource(fail_at=2, error=SourceError("cable pulled"))

    def lend() -> Source:
        opened.append(source)
        return source

    with Feed("lent", lend, options=LENT) as feed:
        with pytest.raises(SourceError, match="cable pulled"):
            while isinstance(feed.read(5.0), Frame):
                pass
        assert feed.report().state is SourceState.LOST
    assert opened == [source]
    with pytest.raises(SourceError, match="cable pulled"):
        source.read(0.0)  # a closed one has an end


@pytest.mark.parametrize("errors", ["raise", "count"])
def test_whatever_a_source_raises_ends_it(errors: Errors) -> None:
    """Also what is no Exception, as a library's own way out of a program: nobody waits for ever."""
    lost = recording("c", [], fail_at=3, error=SystemExit("a library gave up"))
    run = Run([lost], RunOptions(errors=errors))
    if errors == "raise":
        with pytest.raises(SystemExit, match="gave up"):
            run.run()
    else:
        (report,) = run.run()
        assert report.source.state is SourceState.LOST and "gave up" in report.source.error
    assert run.reports()[0].results.frames == 3


# A source that comes back


def test_the_numbers_of_a_camera_go_on_when_it_is_opened_again() -> None:
    captures = [FakeCapture(3, pause_s=0.02), FakeCapture(2, pause_s=0.02)]

    def connect() -> Source:
        if not captures:
            raise SourceError("nobody listens")
        return CaptureSource("cam", lambda: captures[0], capture=captures.pop(0))

    ids = []
    with Feed("cam", connect, options=QUICK) as feed:
        with pytest.raises(SourceError, match=r"'cam' stopped.* 3 attempts .*nobody listens"):
            while isinstance(item := feed.read(5.0), Frame):
                ids.append(item.frame_id)
        report = feed.report()
    assert ids == [0, 1, 2, 3, 4]
    assert report.reconnects == 1
    assert report.warnings == ("'cam' was lost and opened again 1 times",)
    assert (report.source_id, report.state) == ("cam", SourceState.LOST)


def test_an_engine_that_was_slow_once_makes_no_camera_late_for_ever() -> None:
    stop, sink = threading.Event(), RecordingSink()
    slow = [0.4]
    labeller = FakeLabeller(on_frame=lambda _: time.sleep(slow.pop() if slow else 0.0))
    source = SyntheticSource(live=True, interval_s=0.01)
    camera = Camera("gate", lambda: source, labeller, [sink], feed=QUICK, max_latency_s=0.2)
    threading.Timer(3.0, stop.set).start()
    (report,) = Run([camera], stop=stop).run()
    assert report.results.drops[LATE] > 20
    assert len(sink.frame_ids) > 50


def test_numbers_do_not_grow_with_the_names_that_were_ever_asked_for() -> None:
    meter, picture = Meter(), np.zeros((2, 4, 3), np.uint8)
    frame = Frame(picture, 0, time.monotonic(), "s", "0")
    for number in range(3 * NAMES_KEPT):
        meter.add(frame, result_for(picture, classes=(f"w{number}",)))
    numbers = meter.snapshot(drops={}, outcome="running")
    assert list(numbers.coverage) == [
        f"w{number}" for number in range(2 * NAMES_KEPT, 3 * NAMES_KEPT)
    ]
    # Half of every picture is labelled, whoever is still known by name.
    assert numbers.unlabelled == 0.5
    many = tuple(f"v{number}" for number in range(2 * NAMES_KEPT))
    meter.add(frame, result_for(picture, classes=many))
    assert tuple(meter.snapshot(drops={}, outcome="running").coverage) == many


class PanicException(BaseException):
    """As libraries in Rust raise it, which is no Exception."""


@pytest.mark.parametrize("live", [True, False])
def test_a_sink_whose_library_gives_up_is_an_error(live: bool) -> None:
    sink = RecordingSink(fail_at=3, error=PanicException("index out of bounds"))
    source = SyntheticSource(20, live=live, interval_s=0.01 if live else 0.0)
    camera = Camera("gate", lambda: source, FakeLabeller(), [sink], live=live, feed=QUICK)
    with pytest.raises(SinkError, match=r"'recording' ends, since its library gave up \(PanicExc"):
        Run([camera], RunOptions(sink_errors="stop")).run()
