"""The run: sources that share one engine, their results, and what goes wrong on the way."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.flow.lanes import Lane
from dedos_deploy.runtime.flow.report import CameraReport
from dedos_deploy.runtime.flow.stages import StageBoard
from dedos_deploy.runtime.flow.turns import Camera, PendingResult, Seat, Turns
from dedos_deploy.runtime.flow.workers import (
    ENGINE_IS_STUCK,
    JOIN_S,
    LABEL_S,
    Handover,
    Patience,
    Worker,
)
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import SinkErrors, StopRequested
from dedos_deploy.runtime.sources.contract import POLL_S, Outcome
from dedos_deploy.runtime.together import Together

log = logging.getLogger(__name__)

Result = tuple[Seat, Frame, Segmentation]
OnCameraResult = Callable[[str, Frame, Segmentation], None]
Errors = Literal["raise", "count"]
"""What an error of a source, the engine or the callback means: the end of the run, or a number."""


@dataclass(frozen=True)
class RunOptions:
    """When a run ends."""

    max_results: int | None = None
    """The run ends after so many results, None for no such end."""

    errors: Errors = "count"
    """`raise` ends the run with the first error of a source, the segmenter or the callback, `count`
    counts errors and goes on with the other frames."""

    sink_errors: SinkErrors = "continue"
    """`stop` ends the run with the first error of a sink, `continue` gives that sink no more
    results."""

    errors_in_a_row: int = 10
    """Frames that the engine may fail on, one after the other, before its error ends the run all
    the same."""


@dataclass(eq=False)
class _Begun:
    """A frame that the engine was given, and what has come of it so far."""

    seat: Seat
    frame: Frame
    begun_s: float = field(default_factory=time.monotonic)
    pending: PendingResult | None = None
    result: Segmentation | None = None
    error: Exception | None = None
    is_timed: bool = True
    """Whether the engine's time is noted with it: of frames that shared a run, with the first."""

    @property
    def ready(self) -> bool:
        return self.result is not None or self.error is not None


class Run:
    """Labels one source or several, each with its vocabulary and its sinks, on one engine.

    Every source is read on a thread of its own (Feed) and every sink written on one (SinkLane); one
    thread labels, in fair turns and one result ahead (Turns). Of recordings it gives the engine one
    frame more than is at work, where the engine takes it. Frames that are ready at the same time, of
    cameras with the same words, share a run where `together` says so. What has to happen on the caller's thread
    happens on the one that calls `run`: windows are written there, and `on_result` is called there, with
    the results of all cameras, one at a time and in the order in which they were labelled.

    Live sources keep their newest frame only, and slow sinks lose their results, which is counted; a
    recording waits for its sinks and holds up no other camera. What fails ends the run or is counted,
    as RunOptions say; an error leaves `run` after the results from before it were delivered. Without a
    stop or an error, `run` waits until the sinks have written all they have.

    Sinks and segmenters stay open: who opened them closes them. A stop does not wait for what hangs:
    sinks `left_behind`, and segmenters with `engine_is_stuck`, are still at work and cannot be closed.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        options: RunOptions | None = None,
        *,
        stop: threading.Event | None = None,
        on_result: OnCameraResult | None = None,
        stages: StageBoard | None = None,
        together: Together | None = None,
    ) -> None:
        """stop: set it from anywhere to end the run after the frame in work; on_result: called with
        camera, frame and result, may raise StopRequested; stages: told what every thread is busy with;
        together: `Segmenter.together` of the one that the cameras' are views of, None to label every
        frame alone.
        """
        names = [camera.name for camera in cameras]
        if not names:
            raise BadInputError("there is no camera to label; name at least one source")
        if len(set(names)) < len(names):
            raise BadInputError(f"camera names must differ, not {', '.join(names)}; rename one")
        self.stages = stages or StageBoard()
        self.outcome = "running"
        self.engine_is_stuck = False
        self.left_behind: tuple[Closing, ...] = ()
        self.sources_left: tuple[str, ...] = ()
        self._cameras = tuple(cameras)
        self._options = options or RunOptions()
        self._stop = stop or threading.Event()
        self.on_result = on_result
        self._patience = Patience(self._stop)
        self._seats: list[Seat] = []
        self._most = self._options.max_results or math.inf
        self._turns = Turns()
        self._together = together
        self._failed = 0
        self._free_s = 0.0
        self._callback_said = False
        self._process = OneProcess("run")

    @property
    def sink_failures(self) -> dict[str, Exception]:
        """Errors of the sinks that ended early, by address."""
        return {lane.sink.uri: lane.error for lane in self._lanes() if lane.error is not None}

    def reports(self) -> list[CameraReport]:
        """Return how every camera is, from any thread, also while `run` goes on."""
        self._process.check()
        return [seat.report() for seat in tuple(self._seats)]

    def run(self) -> list[CameraReport]:
        """Run until all sources are over, a stop is asked for, or something fails; call it once."""
        self._process.check()
        labeller: Worker[Result] | None = None
        try:
            for camera in self._cameras:
                self._seats.append(Seat(camera, on_frame=self._turns.wake, stages=self.stages))
            labeller = Worker("dedos-label", self._label_all, Handover(1, when_full="wait"))
            outcome = self._deliver_and_drain(labeller)
            # An error among the last results shows only now.
            self.outcome = "stopped" if self._sinks_say_stop() else outcome
        finally:
            self._close(labeller)
        return self.reports()

    # On the caller's thread

    def _deliver_and_drain(self, labeller: Worker[Result]) -> str:
        is_whole = False
        try:
            outcome = self._deliver_all(labeller)
            is_whole = True
        finally:
            # Also after an error: what was labelled before it belongs to the sinks.
            self._drain(is_whole=is_whole)
        return outcome

    def _deliver_all(self, labeller: Worker[Result]) -> str:
        delivered = 0
        while (item := labeller.get(POLL_S)) is not Outcome.END:
            left_s = self._patience.left_s(LABEL_S)
            if self._stop.is_set():
                # At once, so that a frame in work and the waits of slow ones do not add up.
                self._request_stop()
            if not isinstance(item, Outcome):
                try:
                    self._deliver(*item)
                except StopRequested:
                    return "stopped"
                delivered += 1
            elif left_s == 0.0:
                log.warning(ENGINE_IS_STUCK)
                self.engine_is_stuck = True
                return "stopped"
            if self._sinks_say_stop():
                return "stopped"
        if delivered == self._options.max_results:
            return "max_frames"
        return "stopped" if self._stop.is_set() else "end"

    def _deliver(self, seat: Seat, frame: Frame, result: Segmentation) -> None:
        seat.deliver(frame, result)
        if self.on_result is None:
            return
        try:
            self.on_result(seat.camera.name, frame, result)
        except StopRequested:
            raise
        except Exception as error:
            if self._options.errors == "raise":
                raise
            seat.feed.count_drop("callback failed")
            if not self._callback_said:
                self._callback_said = True
                log.exception("the callback failed, which is said once: %s", error)

    def _sinks_say_stop(self) -> bool:
        """Return whether a sink asked for the end; raise the error of one that failed, if told to."""
        if self._options.sink_errors == "stop":
            for error in self.sink_failures.values():
                raise error
        return any(lane.stop_requested for lane in self._lanes())

    def _drain(self, *, is_whole: bool) -> None:
        """Let sinks write all they have, unless a stop is asked for meanwhile.

        is_whole: False after an error, when only recordings, whose every result counts, are waited for
        longer than a moment.
        """
        seats = [seat for seat in self._seats if is_whole or not seat.camera.live]
        lanes = [lane for seat in seats for lane in seat.lanes]
        for lane in lanes:
            # All at once: one that is stuck takes all the time that there is.
            lane.request_finish()
        for lane in lanes:
            while self._patience.left_s() > 0.0 and not lane.finish(POLL_S):
                pass

    def _close(self, labeller: Worker[Result] | None) -> None:
        """Let everything end that can in time; remember what cannot."""
        self._request_stop()
        if labeller is not None:
            labeller.abandon()
            if not self.engine_is_stuck:
                labeller.close(min(JOIN_S, self._patience.left_s(LABEL_S)))
        for lane in self._lanes():
            lane.request_finish()
        for seat in self._seats:
            seat.close(self._patience)
        self.engine_is_stuck = labeller is not None and labeller.runs
        self.left_behind = tuple(lane.sink for lane in self._lanes() if lane.runs)
        self.sources_left = tuple(seat.camera.name for seat in self._seats if seat.feed.runs)

    def _request_stop(self) -> None:
        for seat in self._seats:
            seat.feed.request_stop()

    def _lanes(self) -> list[Lane]:
        return [lane for seat in tuple(self._seats) for lane in seat.lanes]

    # On the labelling thread

    def _label_all(self, emit: Callable[[Result], bool], stop: threading.Event) -> None:
        labelled = 0
        under_way: deque[_Begun] = deque()
        while True:
            enough = labelled + len(under_way) >= self._most
            ends = enough or stop.is_set() or self._stop.is_set()
            turn = None if ends else self._turns.next(self._seats, wait=not under_way)
            if turn is not None:
                under_way += self._begin_turn(turn, labelled + len(under_way))
            elif not under_way and (ends or all(seat.feed.over for seat in self._seats)):
                if not ends:
                    self._raise_source_error()
                return
            # Of a recording the next frame is begun while one is at work. A live frame would only
            # grow old that way: when the engine is free, its camera has a newer one.
            kept = 1 if turn is not None and not turn[0].camera.live else 0
            while len(under_way) > kept or (under_way and under_way[0].ready):
                begun = under_way.popleft()
                result = self._finish(begun)
                labelled += result is not None
                if result is not None and not emit((begun.seat, begun.frame, result)):
                    return

    def _raise_source_error(self) -> None:
        if self._options.errors == "raise":
            for seat in self._seats:
                if seat.feed.failure is not None:
                    raise seat.feed.failure

    def _begin_turn(self, turn: tuple[Seat, Frame], before: int) -> list[_Begun]:
        """Give a frame to the engine, and those that may share its run; before: frames so far."""
        if self._together is None:
            return [self._begin(*turn)]
        left = self._most - before
        others = self._turns.beside(turn[0], self._seats, self._together, left)
        if not others:
            return [self._begin(*turn)]
        begun = [_Begun(*turn), *(_Begun(*other, is_timed=False) for other in others)]
        self._label_together(self._together, begun)
        return begun

    def _label_together(self, together: Together, begun: Sequence[_Begun]) -> None:
        names = ", ".join(one.seat.camera.name for one in begun)
        asked = [
            (one.seat.camera.segmenter, one.frame.pixels, one.frame.timestamp_s) for one in begun
        ]
        try:
            with self.stages.busy("label", names, begun[0].frame.frame_id) as call:
                for one, outcome in zip(begun, together.segment(asked), strict=True):
                    if isinstance(outcome, Exception):
                        one.error = outcome
                    else:
                        one.result, call.parts_ms = outcome, outcome.latency_ms
        except Exception as error:
            for one in begun:
                one.error = error

    def _begin(self, seat: Seat, frame: Frame) -> _Begun:
        """Give a frame to the engine; an error of it waits until the frames before are done."""
        begun = _Begun(seat, frame)
        segmenter, when = seat.camera.segmenter, frame.timestamp_s
        try:
            with self.stages.busy("label", seat.camera.name, frame.frame_id) as call:
                if seat.camera.live:
                    begun.result = segmenter.segment(frame.pixels, timestamp_s=when)
                else:
                    begun.pending = segmenter.submit(frame.pixels, timestamp_s=when)
                    begun.result = begun.pending.result() if begun.pending.ready else None
                if begun.result is None:
                    call.counts = False
                else:
                    call.parts_ms = begun.result.latency_ms
        except Exception as error:
            begun.error = error
        return begun

    def _finish(self, begun: _Begun) -> Segmentation | None:
        """Return the result of a frame, None for one that was lost."""
        seat, frame = begun.seat, begun.frame
        try:
            result = self._result(begun)
        except Exception as error:
            if self._options.errors == "raise":
                raise
            self._lose(seat, frame, error)
            return None
        self._failed = 0
        now_s = time.monotonic()
        # The time that it waited for the frame before is not the engine's.
        if begun.is_timed:
            self._turns.took(now_s - max(begun.begun_s, self._free_s))
        self._free_s = now_s
        return result

    def _result(self, begun: _Begun) -> Segmentation:
        if begun.error is not None:
            raise begun.error
        if begun.result is not None:
            return begun.result
        assert begun.pending is not None, "begun"
        with self.stages.busy("label", begun.seat.camera.name, begun.frame.frame_id) as call:
            result = begun.pending.result()
            call.parts_ms = result.latency_ms
        return result

    def _lose(self, seat: Seat, frame: Frame, error: Exception) -> None:
        """Count a frame that the engine failed on; raise the error of too many in a row."""
        self._failed += 1
        seat.given -= 1
        seat.feed.count_drop("engine failed")
        log.error(
            "camera %s: frame %d: %s",
            seat.camera.name,
            frame.frame_id,
            error,
            extra={"camera": seat.camera.name, "frame": frame.frame_id},
        )
        if self._failed >= self._options.errors_in_a_row:
            raise error
