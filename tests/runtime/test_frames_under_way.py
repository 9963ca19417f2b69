"""Frames of recordings are begun while the one before is at work: same results, order and errors."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import RecordingSink, SyntheticSource, result_for

from dedos_deploy.errors import EngineError
from dedos_deploy.runtime import Segmentation
from dedos_deploy.runtime.flow import Camera, Run, RunOptions
from dedos_deploy.runtime.flow.stages import StageBoard


class _Pending:
    ready = False

    def __init__(self, owner: TwoAtOnce, frame_bgr: NDArray[np.uint8], timestamp_s: float) -> None:
        self._owner, self._frame, self._when = owner, frame_bgr.copy(), timestamp_s

    def result(self) -> Segmentation:
        number = int(self._frame[0, 0, 0])
        self._owner.log.append(("end", number))
        if number in self._owner.fails:
            raise EngineError(f"no luck with {number}")
        return result_for(self._frame, self._when)


class TwoAtOnce:
    """Begins with a frame and is done with it when it is asked; notes the order."""

    def __init__(self, fails: tuple[int, ...] = (), refuses: tuple[int, ...] = ()) -> None:
        self.fails, self.refuses = fails, refuses
        self.log: list[tuple[str, int]] = []

    def submit(self, frame_bgr: NDArray[np.uint8], *, timestamp_s: float | None = None) -> _Pending:
        number = int(frame_bgr[0, 0, 0])
        self.log.append(("begin", number))
        time.sleep(0.003)  # for the source to have its next frame
        if number in self.refuses:
            raise EngineError(f"refused {number}")
        return _Pending(self, frame_bgr, timestamp_s or 0.0)

    def segment(
        self, frame_bgr: NDArray[np.uint8], *, timestamp_s: float | None = None
    ) -> Segmentation:
        return self.submit(frame_bgr, timestamp_s=timestamp_s).result()

    def most(self) -> int:
        """How many were under way at once."""
        steps = np.cumsum([1 if what == "begin" else -1 for what, _ in self.log])
        return int(steps.max())


def _run(
    labeller: TwoAtOnce, *, count: int = 20, live: bool = False, **options: Any
) -> tuple[Run, RecordingSink]:
    sink = RecordingSink()
    source = SyntheticSource(count, live=live, interval_s=0.01 if live else 0.0)
    camera = Camera("a", lambda: source, labeller, [sink], live=live)
    run = Run([camera], RunOptions(**options))
    return run, sink


def test_a_recording_has_two_frames_under_way_and_keeps_their_order() -> None:
    labeller = TwoAtOnce()
    run, sink = _run(labeller)
    run.run()
    assert run.outcome == "end" and sink.frame_ids == list(range(20))
    for what in ("begin", "end"):
        assert [number for kind, number in labeller.log if kind == what] == list(range(20))
    assert labeller.most() == 2


def test_a_live_frame_is_never_begun_before_the_engine_is_free() -> None:
    labeller = TwoAtOnce()
    run, sink = _run(labeller, live=True, count=8)
    run.run()
    assert labeller.most() == 1 and sink.frame_ids


def test_no_more_frames_are_begun_than_are_asked_for() -> None:
    labeller = TwoAtOnce()
    run, sink = _run(labeller, max_results=5)
    run.run()
    assert run.outcome == "max_frames" and sink.frame_ids == list(range(5))
    assert len(labeller.log) == 10


@pytest.mark.parametrize("where", ["fails", "refuses"])
def test_a_frame_that_fails_is_lost_alone(where: str) -> None:
    labeller = TwoAtOnce(**{where: (3, 4)})
    run, sink = _run(labeller)
    (report,) = run.run()
    assert sink.frame_ids == [number for number in range(20) if number not in (3, 4)]
    assert report.results.drops == {"engine failed": 2}


@pytest.mark.parametrize("where", ["fails", "refuses"])
def test_results_from_before_an_error_are_delivered(where: str) -> None:
    labeller = TwoAtOnce(**{where: (6,)})
    run, sink = _run(labeller, errors="raise")
    with pytest.raises(EngineError, match="6"):
        run.run()
    assert sink.frame_ids == list(range(6))


def test_every_frame_is_labelled_once_in_the_trace() -> None:
    labeller = TwoAtOnce()
    sink = RecordingSink()
    source = SyntheticSource(6)
    traced: list[tuple[int | None, bool]] = []

    class Trace:
        error = None

        def add(self, call: Any, ended_s: float) -> None:
            if call.stage == "label":
                traced.append((call.frame_id, bool(call.parts_ms)))

    board = StageBoard(Trace())  # type: ignore[arg-type]
    camera = Camera("a", lambda: source, labeller, [sink], live=False)
    Run([camera], stages=board).run()
    assert traced == [(number, True) for number in range(6)]
