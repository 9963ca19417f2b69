"""The pipeline ends in bounded time, with the right exception and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from runtime_fakes import FakeLabeller, RecordingSink, SyntheticSource

from dedos_deploy.errors import BadInputError, SinkError, SourceError
from dedos_deploy.runtime import Frame, Pipeline, Segmentation, StopRequested, run
from dedos_deploy.runtime.flow.lanes import FAILED, SLOW

T = TypeVar("T")
LIMIT_S = 20.0


class WindowLike(RecordingSink):
    """Must be written on the thread that runs the pipeline."""

    uri = "window-like"
    on_callers_thread = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.threads: set[int] = set()

    def write(self, frame: Frame, result: Segmentation) -> None:
        self.threads.add(threading.get_ident())
        super().write(frame, result)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert not left


def bounded(work: Callable[[], T]) -> T:
    """Run `work` on a thread, so that a hang is a failure and not a stuck test run."""
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    assert not thread.is_alive(), f"did not end within {LIMIT_S:g} s"
    if errors:
        raise errors[0]
    return results[0]


def stop_after(frames: int, stop: threading.Event) -> Callable[[Frame, Segmentation], None]:
    def on_result(frame: Frame, result: Segmentation) -> None:
        if frame.frame_id + 1 >= frames:
            stop.set()

    return on_result


def test_every_frame_of_a_file_reaches_every_sink_in_order() -> None:
    sinks = [RecordingSink(), RecordingSink(seconds=0.002)]
    statistics = bounded(lambda: run(SyntheticSource(20), FakeLabeller(), sinks))
    assert [sink.frame_ids for sink in sinks] == [list(range(20))] * 2
    assert (statistics.frames, statistics.outcome, statistics.drops) == (20, "end", {})
    assert statistics.coverage == {"left": 0.5}
    assert statistics.unlabelled == 0.5
    assert statistics.latency_p50_ms == 6.0


def test_slow_labeller_loses_no_frame_of_a_file() -> None:
    sink = RecordingSink()
    bounded(lambda: run(SyntheticSource(8), FakeLabeller(seconds=0.01), [sink]))
    assert sink.frame_ids == list(range(8))


def test_told_to_go_on_a_raising_sink_concerns_no_other(caplog: pytest.LogCaptureFixture) -> None:
    error = SinkError("disk full")
    broken, fine, window = RecordingSink(fail_at=3, error=error), RecordingSink(), WindowLike()
    pipeline = Pipeline(
        SyntheticSource(20), FakeLabeller(), [broken, fine, window], sink_errors="continue"
    )
    statistics = bounded(pipeline.run)
    assert broken.frame_ids == [0, 1, 2] and fine.frame_ids == list(range(20))
    assert (statistics.frames, statistics.outcome) == (20, "end")
    assert statistics.drops == {FAILED: 17}
    assert pipeline.sink_failures == {"recording": error}
    assert caplog.text.count("disk full") == 1


def test_a_window_is_written_on_the_callers_thread_and_may_fail_too() -> None:
    window = WindowLike(fail_at=2, error=SinkError("display gone"))
    other = RecordingSink()
    pipeline = Pipeline(SyntheticSource(6), FakeLabeller(), [window, other], sink_errors="continue")
    pipeline.run()
    assert window.frame_ids == [0, 1] and other.frame_ids == list(range(6))
    assert window.threads == {threading.get_ident()}
    assert list(pipeline.sink_failures) == ["window-like"]
    with pytest.raises(SinkError, match="display gone"):
        run(
            SyntheticSource(6),
            FakeLabeller(),
            [WindowLike(fail_at=2, error=SinkError("display gone"))],
        )


def test_a_slow_sink_of_a_live_source_loses_results_and_holds_up_nothing() -> None:
    stop = threading.Event()
    slow, quick = RecordingSink(seconds=0.1), RecordingSink()
    threading.Timer(1.0, stop.set).start()
    source = SyntheticSource(live=True, interval_s=0.005)
    statistics = bounded(lambda: run(source, FakeLabeller(), [slow, quick], stop=stop))
    assert len(quick.frame_ids) == statistics.frames > 50
    assert 4 <= len(slow.frame_ids) <= 20
    assert statistics.drops[SLOW] == statistics.frames - len(slow.frame_ids)


def test_stop_while_a_sink_is_blocked(caplog: pytest.LogCaptureFixture) -> None:
    class Blocked(RecordingSink):
        let_go = threading.Event()

        def write(self, frame: Frame, result: Segmentation) -> None:
            self.let_go.wait()

    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    bounded(lambda: run(SyntheticSource(), FakeLabeller(), [Blocked()], stop=stop))
    # The wait for room and the drain take a moment each.
    assert time.monotonic() - started < 6.0
    assert "is left behind" in caplog.text
    Blocked.let_go.set()
    time.sleep(0.1)


def test_the_clock_on_the_wall_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies and ages come from the clock that never jumps."""
    stop, real = threading.Event(), time.time
    jumps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + 3600.0 * (-1) ** next(jumps))
    source = SyntheticSource(live=True, interval_s=0.002)
    statistics = bounded(
        lambda: run(source, FakeLabeller(), stop=stop, on_result=stop_after(20, stop))
    )
    assert 0.0 <= statistics.age_p50_ms <= statistics.age_p99_ms < 2000.0
    assert 0.0 < statistics.duration_s < 20.0


@pytest.mark.parametrize("live", [False, True])
def test_raising_callback_ends_the_run(live: bool) -> None:
    def on_result(frame: Frame, result: Segmentation) -> None:
        raise KeyError("from the callback")

    with pytest.raises(KeyError, match="from the callback"):
        bounded(lambda: run(SyntheticSource(live=live), FakeLabeller(), on_result=on_result))


def test_raising_sink_ends_the_run_after_the_results_before_it() -> None:
    sink = RecordingSink(fail_at=3, error=SinkError("disk full"))
    with pytest.raises(SinkError, match="disk full"):
        bounded(lambda: run(SyntheticSource(), FakeLabeller(), [sink]))
    assert sink.frame_ids == [0, 1, 2]


@pytest.mark.parametrize("live", [False, True])
def test_raising_source_ends_the_run_after_its_frames(live: bool) -> None:
    sink = RecordingSink()
    source = SyntheticSource(live=live, fail_at=5, error=SourceError("cable pulled"))
    with pytest.raises(SourceError, match="cable pulled"):
        bounded(lambda: run(source, FakeLabeller(seconds=0.005), [sink]))
    assert sink.frame_ids == [0, 1, 2, 3, 4]


def test_raising_labeller_ends_the_run() -> None:
    def on_frame(number: int) -> None:
        if number == 2:
            raise ArithmeticError("bad scores")

    sink = RecordingSink()
    with pytest.raises(ArithmeticError, match="bad scores"):
        bounded(lambda: run(SyntheticSource(), FakeLabeller(on_frame=on_frame), [sink]))
    assert sink.frame_ids == [0, 1]


@pytest.mark.parametrize("live", [False, True])
def test_endless_source_of_unknown_length_is_stopped_by_the_event(live: bool) -> None:
    stop = threading.Event()
    source = SyntheticSource(live=live, interval_s=0.001)
    assert source.frames is None
    statistics = bounded(
        lambda: run(source, FakeLabeller(), stop=stop, on_result=stop_after(5, stop))
    )
    assert statistics.outcome == "stopped"
    assert statistics.frames >= 5


@pytest.mark.parametrize("live", [False, True])
def test_stop_while_the_source_gives_nothing(live: bool) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    source = SyntheticSource(live=live, blocked=True)
    statistics = bounded(lambda: run(source, FakeLabeller(), stop=stop))
    assert (statistics.outcome, statistics.frames) == ("stopped", 0)


def test_stop_while_a_slow_sink_holds_everything_up() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    sink = RecordingSink(seconds=0.05)
    bounded(lambda: run(SyntheticSource(), FakeLabeller(), [sink], stop=stop))
    # What was labelled before the stop was still delivered, without gaps.
    assert sink.frame_ids == list(range(len(sink.frame_ids)))
    assert sink.frame_ids


def test_stop_delivers_the_frame_in_work() -> None:
    stop = threading.Event()
    labeller = FakeLabeller(on_frame=lambda number: stop.set() if number == 2 else None)
    sink = RecordingSink()
    bounded(lambda: run(SyntheticSource(), labeller, [sink], stop=stop))
    assert sink.frame_ids == [0, 1, 2]


def test_a_stop_waits_for_the_frame_in_work() -> None:
    """For most of its grace, in which nothing else happens."""
    stop = threading.Event()

    def on_frame(number: int) -> None:
        if number == 2:
            stop.set()
            time.sleep(0.45)

    sink = RecordingSink()
    pipeline = Pipeline(SyntheticSource(), FakeLabeller(on_frame=on_frame), [sink], stop=stop)
    assert bounded(pipeline.run).outcome == "stopped"
    assert sink.frame_ids == [0, 1, 2] and not pipeline.engine_is_stuck


def test_a_stop_waits_for_the_frame_in_work_no_longer_than_its_grace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop, let_go = threading.Event(), threading.Event()

    def on_frame(number: int) -> None:
        if number == 2:
            stop.set()
            let_go.wait(2 * LIMIT_S)

    sink = RecordingSink()
    pipeline = Pipeline(SyntheticSource(), FakeLabeller(on_frame=on_frame), [sink], stop=stop)
    started = time.monotonic()
    assert bounded(pipeline.run).outcome == "stopped"
    assert time.monotonic() - started < 6.0
    assert sink.frame_ids == [0, 1] and pipeline.engine_is_stuck
    assert "the engine did not finish its frame" in caplog.text
    let_go.set()
    time.sleep(0.2)


def test_sink_ends_the_run_with_stop_requested() -> None:
    sink = RecordingSink(fail_at=4, error=StopRequested())
    statistics = bounded(lambda: run(SyntheticSource(), FakeLabeller(), [sink]))
    assert (statistics.outcome, sink.frame_ids) == ("stopped", [0, 1, 2, 3])


def test_max_frames_labels_exactly_that_many() -> None:
    labeller, sink = FakeLabeller(), RecordingSink()
    statistics = bounded(lambda: run(SyntheticSource(), labeller, [sink], max_frames=3))
    assert (statistics.outcome, labeller.labelled, sink.frame_ids) == ("max_frames", 3, [0, 1, 2])


def test_max_frames_must_be_positive() -> None:
    with pytest.raises(BadInputError, match="max_frames must be at least 1, not 0"):
        run(SyntheticSource(), FakeLabeller(), max_frames=0)


def test_sinks_and_callback_run_on_the_callers_thread() -> None:
    seen: set[int] = set()
    labeller = FakeLabeller()
    run(
        SyntheticSource(3),
        labeller,
        on_result=lambda frame, result: seen.add(threading.get_ident()),
    )
    assert seen == {threading.get_ident()}
    assert labeller.threads.isdisjoint(seen)


def test_statistics_can_be_read_while_running() -> None:
    frames: list[int] = []

    def on_result(frame: Frame, result: Segmentation) -> None:
        snapshot = pipeline.statistics()
        assert snapshot.outcome == "running"
        frames.append(snapshot.frames)

    pipeline = Pipeline(SyntheticSource(4), FakeLabeller(), on_result=on_result)
    pipeline.run()
    assert frames == [1, 2, 3, 4]


def test_age_runs_from_capture_to_delivery() -> None:
    statistics = run(SyntheticSource(3), FakeLabeller(seconds=0.02), [RecordingSink()])
    assert statistics.age_p50_ms >= 20.0
    assert np.isfinite(statistics.age_p99_ms)


def test_a_run_that_gives_nothing_has_zero_rates() -> None:
    statistics = run(SyntheticSource(0), FakeLabeller())
    assert (statistics.frames, statistics.fps, statistics.latency_p99_ms) == (0, 0.0, 0.0)
    assert statistics.coverage == {}


def test_source_is_not_read_far_ahead() -> None:
    source = SyntheticSource(100)
    labeller = FakeLabeller(seconds=0.01)
    run(source, labeller, max_frames=3)
    # Labelled, the result handed over, two prefetched, one in the reader's hand, and one to spare.
    assert source.reads <= 8
    time.sleep(0.05)
    assert source.reads <= 8
