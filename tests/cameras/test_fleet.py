"""Several cameras on one engine: fair turns, and one row per thing that goes wrong."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_fakes import BlockedSource, ListSink, ScriptedSource, SleepyLabeller

from dedos_deploy.errors import BadInputError, SinkError, SourceError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.flow import (
    Camera,
    CameraReport,
    FeedOptions,
    Reconnect,
    Run,
    RunOptions,
    SourceState,
)
from dedos_deploy.runtime.flow.lanes import FAILED, SLOW
from dedos_deploy.runtime.flow.turns import LATE
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import StopRequested
from dedos_deploy.runtime.sources.bars import open_test, read_number
from dedos_deploy.runtime.sources.contract import Source

QUICK = FeedOptions(reconnect=Reconnect(first_s=0.02, longest_s=0.05, attempts=3), stall_s=0.3)


def bars(fps: float = 100) -> Callable[[], Source]:
    return lambda: open_test(f"test:bars?fps={fps}&size=24x48")


def scripted(*steps: Any, live: bool = False) -> Callable[[], Source]:
    return lambda: ScriptedSource(iter(steps), live=live)


def camera(name: str, open_it: Callable[[], Source], labeller: Any, **options: Any) -> Camera:
    return Camera(name, open_it, labeller, feed=options.pop("feed", QUICK), **options)


def run_for(seconds: float, fleet: Run, stop: threading.Event) -> list[CameraReport]:
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    try:
        return fleet.run()
    finally:
        timer.cancel()


def labelled(reports: list[CameraReport]) -> dict[str, int]:
    return {report.name: report.results.frames for report in reports}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [
            t.name
            for t in threading.enumerate()
            if t.name.startswith(("dedos-source", "dedos-sink"))
        ]
        if not left:
            return
        time.sleep(0.02)
    raise AssertionError(f"left behind: {left}")


# Turns


def test_eight_busy_cameras_get_equal_shares() -> None:
    stop, labeller = threading.Event(), SleepyLabeller(0.004)
    cameras = [camera(f"c{index}", bars(), labeller) for index in range(8)]
    counts = labelled(run_for(2.5, Run(cameras, stop=stop), stop))
    assert sum(counts.values()) > 200
    assert max(counts.values()) - min(counts.values()) <= 0.05 * np.mean(list(counts.values())) + 2


def test_a_slow_camera_gets_what_it_offers_and_the_others_the_rest() -> None:
    stop, labeller = threading.Event(), SleepyLabeller(0.004)
    cameras = [camera("slow", bars(10), labeller)]
    cameras += [camera(f"c{index}", bars(), labeller) for index in range(3)]
    counts = labelled(run_for(2.0, Run(cameras, stop=stop), stop))
    assert 15 <= counts["slow"] <= 21
    busy = [count for name, count in counts.items() if name != "slow"]
    assert min(busy) > 3 * counts["slow"] and max(busy) - min(busy) <= 0.05 * max(busy) + 2


def test_a_camera_that_was_away_does_not_make_up_for_it() -> None:
    stop, labeller = threading.Event(), SleepyLabeller(0.004)
    order: list[str] = []

    def late() -> Iterator[Any]:
        yield from [0.1] * 10
        for number in itertools.count():
            time.sleep(0.001)
            yield number

    cameras = [
        camera("back", lambda: ScriptedSource(late(), live=True), labeller),
        camera("always", bars(400), labeller),
    ]
    fleet = Run(cameras, stop=stop, on_result=lambda name, frame, result: order.append(name))
    run_for(2.0, fleet, stop)
    first = order.index("back")
    after = order[first : first + 60]
    assert first > 50 and 25 <= after.count("back") <= 35


def test_recordings_lose_no_frame_beside_live_cameras() -> None:
    labeller, sink = SleepyLabeller(0.002), ListSink(seconds=0.004)
    stop = threading.Event()
    cameras = [
        camera("file", scripted(*range(60)), labeller, sinks=[sink], live=False),
        camera("live", bars(), labeller),
    ]
    fleet = Run(cameras, stop=stop)
    threading.Timer(1.5, stop.set).start()
    reports = fleet.run()
    assert sink.ids == list(range(60))
    assert reports[0].source.state is SourceState.ENDED and reports[0].results.drops == {}
    assert reports[1].results.frames > 50


def test_the_newest_frame_of_a_live_camera_wins() -> None:
    stop, labeller, sink = threading.Event(), SleepyLabeller(0.05), ListSink()
    fleet = Run([camera("c", bars(200), labeller, sinks=[sink])], stop=stop)
    (report,) = run_for(1.0, fleet, stop)
    steps = np.diff(sink.ids)
    assert steps.min() >= 5 and report.results.age_p99_ms < 120
    assert report.results.drops["superseded"] == pytest.approx(200 - report.results.frames, abs=30)


def test_what_would_be_too_late_is_dropped_before_the_engine() -> None:
    stop, labeller = threading.Event(), SleepyLabeller(0.05)
    cameras = [
        camera("patient", bars(), labeller),
        camera("hasty", bars(), labeller, max_latency_s=0.04),
    ]
    patient, hasty = run_for(1.0, Run(cameras, stop=stop), stop)
    # One frame of each may come before anything can be predicted.
    assert hasty.results.frames <= 1 and hasty.results.drops[LATE] >= 5
    assert patient.results.frames >= 15
    assert labeller.calls == patient.results.frames + hasty.results.frames


def test_every_camera_has_its_vocabulary(bundle_folder: Path) -> None:
    seen: dict[str, set[tuple[str, ...]]] = {"red": set(), "blue": set()}

    def note(name: str, frame: Frame, result: Segmentation) -> None:
        seen[name].add(result.classes)

    with Segmenter.load(bundle_folder, classes="green", threads=1) as shared:
        cameras = [
            camera(name, scripted(*range(20)), shared.share(name), live=False) for name in seen
        ]
        Run(cameras, on_result=note).run()
    assert seen == {"red": {("red",)}, "blue": {("blue",)}}


def test_a_class_change_under_load_never_mislabels_a_frame(bundle_folder: Path) -> None:
    """Every result is checked against the words of its own version, while words change."""
    vocabularies = ["red", "green,blue", "blue,red,green", "table,green"]
    colours = {"blue": 4, "green": 24, "red": 42}
    wrong: list[str] = []
    versions: dict[str, dict[int, str]] = {f"c{index}": {1: "red"} for index in range(8)}
    checked = 0

    def check(name: str, frame: Frame, result: Segmentation) -> None:
        nonlocal checked
        checked += 1
        words = versions[name][result.vocabulary_version].split(",")
        if {result.classes[i] for i in result.class_ids} != set(words):
            wrong.append(f"{name} {result.vocabulary_version}: {result.classes}, asked {words}")
        for word, column in colours.items():
            label = int(result.label_map[4, column])
            if (word in words) != (label != result.none_id and result.classes[label] == word):
                wrong.append(f"{name}: {word} is {label} under {words}")

    stop = threading.Event()
    with Segmenter.load(bundle_folder, classes="lamp", threads=1) as shared:
        views = {name: shared.share("red") for name in versions}
        cameras = [camera(name, bars(), view) for name, view in views.items()]

        def change() -> None:
            for turn in itertools.count(1):
                for name, view in views.items():
                    words = vocabularies[turn % len(vocabularies)]
                    # Said before it can be seen; ids of the version only grow.
                    versions[name][view.vocabulary_version + 1] = words
                    view.set_classes(words)
                if stop.wait(0.005):
                    return

        changer = threading.Thread(target=change)
        changer.start()
        run_for(2.0, Run(cameras, stop=stop, on_result=check), stop)
        changer.join(10)
    assert not wrong, wrong[:3]
    assert checked > 200 and max(map(len, versions.values())) > 20


# What goes wrong


def test_a_source_that_raises_is_opened_again_and_concerns_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = [
        [0, 1, SourceError("the cable is loose")],
        [2, ZeroDivisionError("a bug")],
        [3, 4],
    ]
    opened: list[ScriptedSource] = []

    def open_next() -> Source:
        opened.append(ScriptedSource(iter(runs[len(opened)])))
        return opened[-1]

    sink, labeller = ListSink(), SleepyLabeller()
    broken, fine = Run(
        [
            camera("broken", open_next, labeller, sinks=[sink], live=False),
            camera("fine", scripted(*range(30)), labeller, live=False),
        ]
    ).run()
    assert sink.ids == [0, 1, 2, 3, 4] and broken.source.reconnects == 2
    assert all(source.closed == 1 for source in opened)
    assert fine.results.frames == 30
    assert "the cable is loose" in caplog.text and "ZeroDivisionError" in caplog.text


def test_a_source_that_never_opens_is_lost_after_its_attempts() -> None:
    tries = []

    def refuse() -> Source:
        tries.append(time.monotonic())
        raise SourceError("wrong password")

    started = time.monotonic()
    lost, fine = Run(
        [
            camera("lost", refuse, SleepyLabeller()),
            camera("fine", scripted(0, 1), SleepyLabeller(), live=False),
        ]
    ).run()
    assert lost.source.state is SourceState.LOST and lost.source.error == "wrong password"
    assert len(tries) == 4 and time.monotonic() - started < 2
    assert fine.results.frames == 2


def test_a_blocked_source_is_stalled_and_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    blocked, stop = BlockedSource(), threading.Event()
    cameras = [
        camera("blocked", lambda: blocked, SleepyLabeller()),
        camera("fine", bars(), SleepyLabeller(0.002)),
    ]
    fleet = Run(cameras, stop=stop)
    started = time.monotonic()
    first, second = run_for(1.0, fleet, stop)
    assert time.monotonic() - started < 1.0 + 2.0
    assert first.results.frames == 0 and second.results.frames > 60
    assert first.source.state is SourceState.CONNECTING
    assert "feed blocked did not end" in caplog.text
    blocked.let_go.set()


def test_silence_is_a_stall() -> None:
    stop, states = threading.Event(), []
    fleet = Run(
        [camera("c", scripted(0, 1, *[0.1] * 8, 2, *[0.1] * 2, live=True), SleepyLabeller())],
        stop=stop,
    )

    def watch() -> None:
        while not stop.is_set():
            states.extend(report.source.state for report in fleet.reports())
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    fleet.run()
    stop.set()
    watcher.join(5)
    order = [state for state, _ in itertools.groupby(states)]
    wanted = [SourceState.LIVE, SourceState.STALLED, SourceState.LIVE]
    assert wanted == [s for s in order if s in (SourceState.LIVE, SourceState.STALLED)][:3]


@pytest.mark.parametrize("error", [SourceError("disk full"), ZeroDivisionError("a bug")])
def test_a_sink_that_raises_ends_alone(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    broken, fine = ListSink(fails_at=5, error=error), ListSink()
    broken.uri, fine.uri = "broken", "fine"
    fleet = Run(
        [camera("c", scripted(*range(40)), SleepyLabeller(), sinks=[broken, fine], live=False)]
    )
    (report,) = fleet.run()
    assert fine.ids == list(range(40)) and broken.ids == list(range(5))
    assert report.outputs == {"broken": str(error), "fine": None}
    assert report.results.drops == {FAILED: 35}
    said = [record for record in caplog.records if "output broken stops" in record.message]
    assert len(said) == 1


def test_a_slow_sink_of_a_live_camera_loses_frames_and_nothing_else() -> None:
    slow, quick, stop = ListSink(seconds=0.1), ListSink(), threading.Event()
    fleet = Run([camera("c", bars(), SleepyLabeller(0.001), sinks=[slow, quick])], stop=stop)
    (report,) = run_for(1.0, fleet, stop)
    assert len(quick.ids) == report.results.frames > 60
    assert 5 <= len(slow.ids) <= 20 and report.results.drops[SLOW] > 40


def test_a_blocked_sink_does_not_hold_up_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    blocked, stop = ListSink(), threading.Event()
    blocked.gate.clear()
    fleet = Run([camera("c", bars(), SleepyLabeller(0.001), sinks=[blocked])], stop=stop)
    started = time.monotonic()
    run_for(0.5, fleet, stop)
    assert time.monotonic() - started < 2.5 and "is left behind" in caplog.text
    blocked.gate.set()


def test_told_to_stop_the_first_sink_error_ends_the_run() -> None:
    broken = ListSink(fails_at=5, error=SinkError("the disk is full"))
    cameras = [
        camera("c", bars(), SleepyLabeller(0.001), sinks=[broken]),
        camera("d", bars(), SleepyLabeller(0.001)),
    ]
    started = time.monotonic()
    with pytest.raises(SinkError, match="the disk is full"):
        Run(cameras, RunOptions(sink_errors="stop")).run()
    assert time.monotonic() - started < 5


def test_a_full_sink_of_a_recording_holds_up_no_other_camera() -> None:
    blocked, stop = ListSink(), threading.Event()
    blocked.gate.clear()
    cameras = [
        camera("file", scripted(*range(100)), SleepyLabeller(0.001), sinks=[blocked], live=False),
        camera("live", bars(), SleepyLabeller(0.001)),
    ]
    fleet = Run(cameras, stop=stop)
    threading.Timer(1.0, blocked.gate.set).start()
    threading.Timer(2.0, stop.set).start()
    counts: list[int] = []
    threading.Timer(0.9, lambda: counts.extend(r.results.frames for r in fleet.reports())).start()
    fleet.run()
    # In the sink's hand and its lane; nothing was lost, and the rest came once it could.
    assert counts[0] <= 6 and counts[1] > 50
    assert blocked.ids == list(range(100))


def test_a_sink_may_ask_for_the_end() -> None:
    class Window(ListSink):
        def write(self, frame: Frame, result: Segmentation) -> None:
            super().write(frame, result)
            if len(self.ids) == 3:
                raise StopRequested

    fleet = Run([camera("c", bars(), SleepyLabeller(), sinks=[Window()])])
    started = time.monotonic()
    fleet.run()
    assert time.monotonic() - started < 3


def test_a_frame_that_cannot_be_labelled_is_one_frame_lost() -> None:
    sink = ListSink()
    labeller = SleepyLabeller(fails=lambda call: call == 3)
    (report,) = Run([camera("c", scripted(*range(9)), labeller, sinks=[sink], live=False)]).run()
    assert sink.ids == [0, 1, 3, 4, 5, 6, 7, 8] and report.results.drops == {"engine failed": 1}


def test_an_engine_that_is_broken_ends_the_run() -> None:
    labeller = SleepyLabeller(fails=lambda call: call > 4)
    fleet = Run([camera("c", bars(), labeller)], RunOptions(errors_in_a_row=3))
    with pytest.raises(SourceError, match="no luck"):
        fleet.run()
    assert labeller.calls == 7


def test_an_engine_that_works_now_and_then_ends_no_run() -> None:
    """Nine of ten frames fail, for ever: a frame that is labelled starts the count of errors anew."""
    sink, labeller = ListSink(), SleepyLabeller(fails=lambda call: call % 10 != 0)
    (report,) = Run([camera("c", scripted(*range(60)), labeller, sinks=[sink], live=False)]).run()
    assert sink.ids == [9, 19, 29, 39, 49, 59]
    assert report.results.drops == {"engine failed": 54}


def test_a_callback_that_raises_hangs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(name: str, frame: Frame, result: Segmentation) -> None:
        raise KeyError("odd")

    (report,) = Run(
        [camera("c", scripted(*range(50)), SleepyLabeller(), live=False)], on_result=broken
    ).run()
    assert report.results.frames == 50 and report.results.drops == {"callback failed": 50}
    assert sum("said once" in record.message for record in caplog.records) == 1


def test_memory_and_threads_stay(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    before = threading.active_count()

    def losing() -> Source:
        return ScriptedSource(iter([0, 1, SourceError("lost")]), live=True)

    feed = FeedOptions(reconnect=Reconnect(first_s=0.001, longest_s=0.001, attempts=50), stall_s=1)
    stop = threading.Event()
    fleet = Run([camera("c", losing, SleepyLabeller(), feed=feed)], stop=stop)
    gc.collect()
    (report,) = run_for(1.5, fleet, stop)
    assert report.source.reconnects > 200
    time.sleep(0.05)
    assert threading.active_count() <= before + 1


@pytest.mark.parametrize("count", [0, 2])
def test_names_and_number_of_cameras_are_checked(count: int) -> None:
    cameras = [camera("same", bars(), SleepyLabeller()) for _ in range(count)]
    with pytest.raises(BadInputError, match="there is no camera|camera names must differ"):
        Run(cameras)


def test_the_end_after_so_many_results() -> None:
    reports = Run([camera("c", bars(), SleepyLabeller())], RunOptions(max_results=7)).run()
    assert labelled(reports) == {"c": 7}


# The source with known content


def test_bars_carry_their_number() -> None:
    with open_test("test:bars?fps=200&size=48x96&frames=20") as source:
        frames = list(source)
    assert [read_number(frame.frame_bgr) for frame in frames] == [f.frame_id for f in frames]
    assert frames[0].frame_bgr[2, [10, 48, 90]].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    gaps = np.diff([frame.timestamp_s for frame in frames])
    assert 0.002 < np.median(gaps) < 0.02


@pytest.mark.parametrize(
    "uri",
    [
        "test:",
        "test:bar",
        "test:bars?fps=0",
        "test:bars?size=9",
        "test:bars?odd=1",
        "test:bars?fps=x",
        "test:bars?frames=-1",
    ],
)
def test_bars_refuse_nonsense(uri: str) -> None:
    with pytest.raises(SourceError, match="write test:bars, with settings as in"):
        open_test(uri)
