"""The pipeline: a source thread, an inference thread, and a thread for every sink."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.frames import POLL_S, Frame, Outcome, Source
from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sink_lane import SinkLane
from dedos_deploy.runtime.sinks import Sink, SinkErrors, StopRequested
from dedos_deploy.runtime.stages import ObservedSource, StageBoard
from dedos_deploy.runtime.statistics import Meter, Statistics
from dedos_deploy.runtime.workers import (
    ENGINE_IS_STUCK,
    JOIN_S,
    LABEL_S,
    Handover,
    Patience,
    WhenFull,
    Worker,
    prefetch,
)

log = logging.getLogger(__name__)

Result = tuple[Frame, Segmentation]
OnResult = Callable[[Frame, Segmentation], None]


class Labeller(Protocol):
    """The part of Segmenter that the pipeline uses."""

    def segment(
        self, frame_bgr: NDArray[np.uint8], *, timestamp_s: float | None = None
    ) -> Segmentation: ...


class Pipeline:
    """Labels a source into sinks.

    Files are read ahead by a source thread and every frame is labelled; live sources keep only
    their newest frame. Labelling runs on its own thread, one result ahead of the sinks. Each of those
    has a thread of its own, windows excepted, which run on the thread that calls `run`: for live
    sources a slow sink loses results, which is counted, for files it is waited for. Whatever fails, a
    source, the segmenter, a sink (unless told otherwise) or the callback, everything stops and the
    exception leaves `run`; results from before it are delivered first. Source, segmenter and sinks stay
    open: who opened them closes them. Those `left_behind`, and a segmenter with `engine_is_stuck`, are
    still at work after a stop, which does not wait for them, and cannot be closed.
    """

    def __init__(
        self,
        source: Source,
        segmenter: Labeller,
        sinks: Sequence[Sink] = (),
        *,
        stop: threading.Event | None = None,
        on_result: OnResult | None = None,
        max_frames: int | None = None,
        sink_errors: SinkErrors = "stop",
        stages: StageBoard | None = None,
    ) -> None:
        """Prepare a run.

        stop: set it from anywhere to end the run after the frame in work; on_result: called on the
        caller's thread with every frame and its result, may raise StopRequested; max_frames: end after
        so many results; sink_errors: `continue` gives a sink that failed no more results, says so once
        and goes on; `sink_failures` has its error; stages: told what every thread is busy with.
        """
        if max_frames is not None and max_frames < 1:
            raise BadInputError(f"max_frames must be at least 1, not {max_frames}")
        self._source = source
        self._segmenter = segmenter
        self._sinks = tuple(sinks)
        self._stop = stop or threading.Event()
        self._on_result = on_result
        self._max_frames = max_frames
        self._sink_errors = sink_errors
        self._stages = stages or StageBoard()
        self._lanes: list[SinkLane] = []
        self._direct: list[Sink] = []
        self._meter = Meter()
        self._outcome = "running"
        self._patience = Patience(self._stop)
        self.left_behind: tuple[Closing, ...] = ()
        self.engine_is_stuck = False
        self._process = OneProcess("Pipeline")
        self.sink_failures: dict[str, Exception] = {}

    def statistics(self) -> Statistics:
        """Return the numbers so far, from any thread."""
        self._process.check()
        drops = Counter(self._source.drops)
        for lane in self._lanes:
            drops.update(lane.drops)
        return self._meter.snapshot(drops=drops, outcome=self._outcome)

    def run(self) -> Statistics:
        """Run until the source ends, a stop is asked for, or something fails; call it once."""
        self._process.check()
        self._meter = Meter()
        source = ObservedSource(self._source, self._stages)
        reader = None if source.live else prefetch(source)
        read = source.read if reader is None else reader.get
        results: Handover[Result] = Handover(1, when_full="wait")
        self._direct = [sink for sink in self._sinks if sink.on_callers_thread]
        self._lanes = [self._lane(sink) for sink in self._sinks if not sink.on_callers_thread]
        labeller = Worker("dedos-label", self._label_all(read), results)
        try:
            try:
                outcome = self._deliver_all(labeller)
            finally:
                # Also after an error: what was labelled before it belongs to the sinks.
                self._drain()
            # An error among the last results shows only now.
            self._outcome = "stopped" if self._sinks_say_stop() else outcome
        finally:
            self._close(labeller, reader)
        return self.statistics()

    def _close(self, labeller: Worker[Result], reader: Worker[Frame] | None) -> None:
        workers: list[Worker[Any]] = [labeller] if reader is None else [labeller, reader]
        for worker in workers:
            worker.abandon()
        for worker in workers:
            if not self.engine_is_stuck:
                worker.close(min(JOIN_S, self._patience.left_s()))
        for lane in self._lanes:
            lane.close(self._patience.left_s())
        left: list[Closing] = [lane.sink for lane in self._lanes if lane.runs]
        self.engine_is_stuck = labeller.runs
        if workers[-1].runs:
            left.append(self._source)
        self.left_behind = tuple(left)

    def _lane(self, sink: Sink) -> SinkLane:
        when_full: WhenFull = "drop_oldest" if self._source.live else "wait"
        return SinkLane(sink, when_full=when_full, stages=self._stages)

    def _drain(self) -> None:
        for lane in self._lanes:
            while not (lane.finish(POLL_S) or self._is_out_of_patience()):
                pass

    def _is_out_of_patience(self) -> bool:
        """Return whether a stop was asked for and sinks have had their time since."""
        return self._patience.left_s() == 0.0

    def _label_all(
        self, read: Callable[[float], Frame | Outcome]
    ) -> Callable[[Callable[[Result], bool], threading.Event], None]:
        def work(emit: Callable[[Result], bool], stop: threading.Event) -> None:
            labelled = 0
            while not (stop.is_set() or self._stop.is_set() or labelled == self._max_frames):
                frame = read(POLL_S)
                if frame is Outcome.END:
                    return
                if isinstance(frame, Frame):
                    result = self._label(frame)
                    labelled += 1
                    if not emit((frame, result)):
                        return

        return work

    def _label(self, frame: Frame) -> Segmentation:
        with self._stages.busy("label", frame.source_id, frame.frame_id) as work:
            result = self._segmenter.segment(frame.frame_bgr, timestamp_s=frame.timestamp_s)
            work.parts_ms = result.latency_ms
        return result

    def _deliver_all(self, labeller: Worker[Result]) -> str:
        delivered = 0
        while (item := labeller.get(POLL_S)) is not Outcome.END:
            if not isinstance(item, Outcome):
                try:
                    self._deliver(*item)
                except StopRequested:
                    return "stopped"
                delivered += 1
            elif self._patience.left_s(LABEL_S) == 0.0:
                log.warning(ENGINE_IS_STUCK)
                self.engine_is_stuck = True
                return "stopped"
        if delivered == self._max_frames:
            return "max_frames"
        return "stopped" if self._stop.is_set() else "end"

    def _deliver(self, frame: Frame, result: Segmentation) -> None:
        for lane in self._lanes:
            self._wait_for_room(lane)
            lane.put(frame, result)
        for sink in tuple(self._direct):
            self._write(sink, frame, result)
        self._meter.add(frame, result)
        if self._on_result is not None:
            self._on_result(frame, result)
        if self._sinks_say_stop():
            raise StopRequested

    def _wait_for_room(self, lane: SinkLane) -> None:
        while not lane.wait_for_room(POLL_S):
            if self._is_out_of_patience():
                log.warning("output %s takes nothing any more", lane.sink.uri)
                raise StopRequested

    def _write(self, sink: Sink, frame: Frame, result: Segmentation) -> None:
        try:
            with self._stages.busy("write", sink.uri, frame.frame_id):
                sink.write(frame, result)
        except StopRequested:
            raise
        except Exception as error:
            if self._sink_errors == "stop":
                raise
            log.warning("output %s stops: %s: %s", sink.uri, type(error).__name__, error)
            self.sink_failures[sink.uri] = error
            self._direct.remove(sink)

    def _sinks_say_stop(self) -> bool:
        """Return whether a sink asked for the end; raise the error of one that failed, if told to."""
        for lane in self._lanes:
            if lane.error is not None:
                if self._sink_errors == "stop":
                    raise lane.error
                self.sink_failures[lane.sink.uri] = lane.error
        return any(lane.stop_requested for lane in self._lanes)


def run(
    source: Source,
    segmenter: Labeller,
    sinks: Sequence[Sink] = (),
    *,
    stop: threading.Event | None = None,
    on_result: OnResult | None = None,
    max_frames: int | None = None,
    sink_errors: SinkErrors = "stop",
    stages: StageBoard | None = None,
) -> Statistics:
    """Label `source` into `sinks` and return the statistics; see Pipeline.

    with open_source("drive.mp4") as source, open_sink("overlay.mp4") as sink:
        run(source, segmenter, [sink])
    """
    pipeline = Pipeline(
        source,
        segmenter,
        sinks,
        stop=stop,
        on_result=on_result,
        max_frames=max_frames,
        sink_errors=sink_errors,
        stages=stages,
    )
    return pipeline.run()
