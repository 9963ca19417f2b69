"""Cameras that share one engine: whose turn it is, what is too late, and what became of it all."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.cameras.feed import Feed, FeedOptions, FeedReport, SourceState
from dedos_deploy.runtime.frames import POLL_S, Frame, Outcome, Source
from dedos_deploy.runtime.pipeline import Labeller
from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sink_lane import SinkLane
from dedos_deploy.runtime.sinks import Sink, SinkErrors
from dedos_deploy.runtime.stages import StageBoard
from dedos_deploy.runtime.statistics import Meter, Statistics
from dedos_deploy.runtime.workers import (
    ENGINE_IS_STUCK,
    JOIN_S,
    LABEL_S,
    Handover,
    Patience,
    WhenFull,
    Worker,
)

log = logging.getLogger(__name__)

LATE = "too late"
"""Cause of a drop: the frame would have been older than its camera allows when it was done."""

PREDICTED_FROM = 64
"""Runs of the engine from whose 95th percentile the next one's duration is predicted."""

OnResult = Callable[[str, Frame, Segmentation], None]


@dataclass(frozen=True)
class Camera:
    """A source with its own vocabulary.

    name: unique; open_it: opens the source, called on its thread and again after a loss;
    segmenter: labels its frames, `Segmenter.share` gives one per camera on one engine; sinks: take
    its results, each on a thread of its own; live: False if every frame counts, as of a recording;
    max_latency_s: frames that would be done later than that after their capture are dropped before
    the engine runs, None to label all that come.
    """

    name: str
    open_it: Callable[[], Source]
    segmenter: Labeller
    sinks: Sequence[Sink] = ()
    live: bool = True
    max_latency_s: float | None = None
    feed: FeedOptions = field(default_factory=FeedOptions)


@dataclass(frozen=True)
class CameraReport:
    """name; source: of its feed; results: numbers of what was labelled, `drops` of all causes
    included; outputs: by address, the error that ended one, or None."""

    name: str
    source: FeedReport
    results: Statistics
    outputs: dict[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "state": self.source.state.value,
            "since_s": self.source.since_s,
            "read": self.source.frames,
            "reconnects": self.source.reconnects,
            "error": self.source.error,
            **self.results.to_dict(),
            "outputs": self.outputs,
        }


class Fleet:
    """Labels several cameras on a thread of its own.

    Turns are fair: among the cameras with a frame ready, the one that has had the least goes first; a
    camera that was away does not make up for it. A source that fails, stalls or blocks, a sink that
    fails or blocks, a frame that cannot be labelled: each is counted and said, and concerns no other
    camera. An engine that fails on `errors_in_a_row` frames in a row ends the run with its error. Sinks
    and segmenters stay open: who opened them closes them. Those `left_behind`, and segmenters with
    `engine_is_stuck`, are still at work after a stop, which does not wait for them, and cannot be closed.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        *,
        stop: threading.Event | None = None,
        on_result: OnResult | None = None,
        max_results: int | None = None,
        errors_in_a_row: int = 10,
        sink_errors: SinkErrors = "continue",
        stages: StageBoard | None = None,
    ) -> None:
        """stop: set it from anywhere to end the run; on_result: called on the labelling thread with
        camera, frame and result, its errors are counted as `callback failed`; max_results: end
        after so many; sink_errors: `stop` makes the first error of a sink end the run and leave it;
        stages: told what every thread is busy with."""
        names = [camera.name for camera in cameras]
        if not names:
            raise BadInputError("there is no camera to label; name at least one source")
        if len(set(names)) < len(names):
            raise BadInputError(f"camera names must differ, not {', '.join(names)}; rename one")
        self._stop = stop or threading.Event()
        self._on_result = on_result
        self._max_results = max_results
        self._errors_in_a_row = errors_in_a_row
        self._sink_errors = sink_errors
        self.stages = stages or StageBoard()
        self._seats = [_Seat(camera) for camera in cameras]
        self._ready = threading.Condition()
        self._durations_s: deque[float] = deque(maxlen=PREDICTED_FROM)
        self._time = 0.0
        self._failed = 0
        self._callback_said = False
        self._process = OneProcess("Fleet")
        self.engine_is_stuck = False
        self.left_behind: tuple[Closing, ...] = ()

    def run(self) -> list[CameraReport]:
        """Run until all sources are over, a stop is asked for, or the engine fails."""
        self._process.check()
        patience = Patience(self._stop)
        labeller: Worker[None] | None = None
        try:
            for seat in self._seats:
                seat.open(self._wake, self.stages)
            labeller = Worker("dedos-label", self._label_all, Handover(1, when_full="wait"))
            self._wait(labeller, patience)
            self._drain()
        finally:
            self._close(labeller, patience)
        self._raise_sink_error()
        return self.reports()

    def _wait(self, labeller: Worker[None], patience: Patience) -> None:
        while labeller.get(POLL_S) is not Outcome.END:
            if self._stop.is_set():
                # At once, so that a frame in work and the waits of slow ones do not add up.
                self._request_stop()
            if patience.left_s(LABEL_S) == 0.0:
                log.warning(ENGINE_IS_STUCK)
                self.engine_is_stuck = True
                return

    def _request_stop(self) -> None:
        for seat in self._seats:
            if seat.opened:
                seat.feed.request_stop()

    def _label_all(self, emit: Callable[[None], bool], stop: threading.Event) -> None:
        delivered = 0
        while not (stop.is_set() or self._stop.is_set()) and delivered != self._max_results:
            if any(lane.stop_requested for lane in self._lanes()):
                return
            self._raise_sink_error()
            turn = self._next_turn()
            if turn is not None:
                delivered += self._serve(*turn)
            elif all(seat.feed.over for seat in self._seats):
                return

    def _close(self, labeller: Worker[None] | None, patience: Patience) -> None:
        """Let everything end that can in time; remember what cannot."""
        self._request_stop()
        if labeller is not None:
            labeller.abandon()
            if not self.engine_is_stuck:
                labeller.close(min(JOIN_S, patience.left_s(LABEL_S)))
        for lane in self._lanes():
            lane.request_finish()
        for seat in self._seats:
            seat.close(patience)
        self.engine_is_stuck = labeller is not None and labeller.runs
        self.left_behind = tuple(lane.sink for lane in self._lanes() if lane.runs)

    def _lanes(self) -> list[SinkLane]:
        return [lane for seat in self._seats for lane in seat.lanes]

    def _raise_sink_error(self) -> None:
        if self._sink_errors == "stop":
            for lane in self._lanes():
                if lane.error is not None:
                    raise lane.error

    def _drain(self) -> None:
        """Let sinks of recordings write all they have, unless a stop is asked for meanwhile."""
        for seat in self._seats:
            for lane in seat.lanes if not seat.camera.live else ():
                while not (lane.finish(POLL_S) or self._stop.is_set()):
                    pass

    def reports(self) -> list[CameraReport]:
        """Return how every camera is, from any thread, also while `run` goes on."""
        self._process.check()
        return [seat.report() for seat in self._seats if seat.opened]

    def _wake(self) -> None:
        with self._ready:
            self._ready.notify()

    def _next_turn(self) -> tuple[_Seat, Frame] | None:
        """Return the next camera and its frame, None when none came for a moment."""
        with self._ready:
            waiting = [seat for seat in self._seats if seat.can_be_served]
            if not waiting:
                self._ready.wait(POLL_S)
                waiting = [seat for seat in self._seats if seat.can_be_served]
        # Start-time fair queueing: a camera's clock runs on by one for every frame it is given, and
        # one that had nothing to offer joins at the time of the others.
        for seat in waiting:
            seat.clock = max(seat.clock, self._time)
        for seat in sorted(waiting, key=lambda seat: seat.clock):
            frame = seat.feed.take()
            if frame is None:
                continue
            if self._is_late(seat, frame):
                seat.feed.count_drop(LATE)
                continue
            self._time = seat.clock
            seat.clock += 1.0
            return seat, frame
        return None

    def _is_late(self, seat: _Seat, frame: Frame) -> bool:
        limit_s = seat.camera.max_latency_s
        if limit_s is None or not self._durations_s:
            return False
        predicted_s = float(np.percentile(self._durations_s, 95))
        return time.monotonic() + predicted_s - frame.timestamp_s > limit_s

    def _serve(self, seat: _Seat, frame: Frame) -> int:
        started = time.monotonic()
        try:
            with self.stages.busy("label", seat.camera.name, frame.frame_id) as work:
                result = seat.camera.segmenter.segment(
                    frame.frame_bgr, timestamp_s=frame.timestamp_s
                )
                work.parts_ms = result.latency_ms
        except Exception as error:
            self._failed += 1
            seat.feed.count_drop("engine failed")
            log.error(
                "camera %s: frame %d: %s",
                seat.camera.name,
                frame.frame_id,
                error,
                extra={"camera": seat.camera.name, "frame": frame.frame_id},
            )
            if self._failed >= self._errors_in_a_row:
                raise
            return 0
        self._failed = 0
        self._durations_s.append(time.monotonic() - started)
        for lane in seat.lanes:
            lane.put(frame, result)
        seat.meter.add(frame, result)
        self._call_back(seat, frame, result)
        return 1

    def _call_back(self, seat: _Seat, frame: Frame, result: Segmentation) -> None:
        if self._on_result is None:
            return
        try:
            self._on_result(seat.camera.name, frame, result)
        except Exception as error:
            seat.feed.count_drop("callback failed")
            if not self._callback_said:
                self._callback_said = True
                log.exception("the callback failed, which is said once: %s", error)


class _Seat:
    """A camera while it is served."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.clock = 0.0
        self.meter = Meter()
        self.lanes: list[SinkLane] = []
        self.opened = False
        self.feed: Feed

    def open(self, on_frame: Callable[[], None], stages: StageBoard) -> None:
        policy: WhenFull = "drop_oldest" if self.camera.live else "wait"
        for sink in self.camera.sinks:
            self.lanes.append(SinkLane(sink, when_full=policy, on_room=on_frame, stages=stages))
        self.meter = Meter()
        self.feed = Feed(
            self.camera.name,
            self.camera.open_it,
            options=self.camera.feed,
            on_frame=on_frame,
            stages=stages,
        )
        self.opened = True

    def close(self, patience: Patience) -> None:
        if self.opened:
            self.feed.close()
        for lane in self.lanes:
            lane.close(patience.left_s())

    @property
    def can_be_served(self) -> bool:
        """Whether a frame is ready and no sink of a recording would have to be waited for."""
        return self.feed.waiting and all(lane.has_room for lane in self.lanes)

    def report(self) -> CameraReport:
        source = self.feed.report()
        drops: Counter[str] = Counter(source.drops)
        for lane in self.lanes:
            drops.update(lane.drops)
        outcome = source.state.value if source.state is not SourceState.LIVE else "running"
        errors = {
            lane.sink.uri: None if lane.error is None else str(lane.error) for lane in self.lanes
        }
        return CameraReport(
            self.camera.name, source, self.meter.snapshot(drops=drops, outcome=outcome), errors
        )
