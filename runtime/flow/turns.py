"""Whose turn it is, and what is too late."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dedos_deploy.runtime.flow.feed import FEED_JOIN_S, Feed
from dedos_deploy.runtime.flow.feed_options import FeedOptions
from dedos_deploy.runtime.flow.lanes import Lane, SinkLane
from dedos_deploy.runtime.flow.report import CameraReport
from dedos_deploy.runtime.flow.source_state import SourceState
from dedos_deploy.runtime.flow.stages import StageBoard
from dedos_deploy.runtime.flow.statistics import Meter
from dedos_deploy.runtime.flow.workers import JOIN_S, Patience, WhenFull
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.pixels import HostPixels
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink
from dedos_deploy.runtime.sources.contract import POLL_S, Source
from dedos_deploy.runtime.together import Together

LATE = "too late"
"""Cause of a drop: the frame would have been older than its camera allows when it was done."""

PREDICTED_FROM = 64
"""Runs of the engine from whose 95th percentile the next one's duration is predicted."""

TRY_AGAIN_S = 1.0
"""After so long without a frame that was in time, one is labelled to see how long the engine takes now."""


class PendingResult(Protocol):
    """A frame under way in the engine."""

    @property
    def ready(self) -> bool: ...

    def result(self) -> Segmentation: ...


class AnySegmenter(Protocol):
    """What a run labels frames with: a Segmenter, a view of one, or what stands in for it."""

    def segment(
        self, frame_bgr: HostPixels, *, timestamp_s: float | None = None
    ) -> Segmentation: ...

    def submit(
        self, frame_bgr: HostPixels, *, timestamp_s: float | None = None
    ) -> PendingResult: ...


@dataclass(frozen=True)
class Camera:
    """A source with its own vocabulary."""

    name: str
    """Unique."""

    open_it: Callable[[], Source]
    """Opens the source, called on its thread and again after a loss."""

    segmenter: AnySegmenter
    """Labels its frames, `Segmenter.share` gives one per camera on one engine."""

    sinks: Sequence[Sink] = ()
    """Take its results, each on a thread of its own, windows excepted."""

    live: bool = True
    """False if every frame counts, as of a recording."""

    max_latency_s: float | None = None
    """Frames that would be done later than that after their capture are dropped before the engine
    runs, None to label all that come."""

    feed: FeedOptions = field(default_factory=FeedOptions)


class Seat:
    """A camera while it is served."""

    def __init__(self, camera: Camera, *, on_frame: Callable[[], None], stages: StageBoard) -> None:
        """Open it. on_frame: called when it may be its turn."""
        self.camera = camera
        self.clock = 0.0
        self.given = 0
        self.delivered = 0
        self.meter = Meter()
        policy: WhenFull = "drop_oldest" if camera.live else "wait"
        self.lanes: list[Lane] = [
            Lane(sink, stages=stages)
            if sink.on_callers_thread
            else SinkLane(sink, when_full=policy, on_room=on_frame, stages=stages)
            for sink in camera.sinks
        ]
        self.feed = Feed(
            camera.name,
            camera.open_it,
            options=camera.feed,
            on_frame=on_frame,
            stages=stages,
        )

    @property
    def can_be_served(self) -> bool:
        """Whether a frame is ready and no sink of a recording would have to be waited for."""
        under_way = self.given - self.delivered
        return self.feed.waiting and all(lane.has_room_for(under_way) for lane in self.lanes)

    def deliver(self, frame: Frame, result: Segmentation) -> None:
        """Hand a result to all sinks."""
        for lane in self.lanes:
            lane.put(frame, result)
        self.delivered += 1
        self.meter.add(frame, result)

    def close(self, patience: Patience) -> None:
        """Let feed and sinks end that can in time."""
        # A driver may hang; a file is done soon, and what is lent must not be closed while it is read.
        may_hang = self.camera.live and not self.camera.feed.lent
        self.feed.close(min(FEED_JOIN_S if may_hang else JOIN_S, patience.left_s()))
        for lane in self.lanes:
            lane.close(patience.left_s())

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


class Turns:
    """Gives frames out, one at a time, fairly: of the cameras with a frame ready, the one that has
    had the least goes first; a camera that was away does not make up for it. Others that have its
    words may go with it."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._durations_s: deque[float] = deque(maxlen=PREDICTED_FROM)
        self._time = 0.0
        self._took_s = time.monotonic()
        self._is_trying = False

    def wake(self) -> None:
        """Look again, from any thread: a frame or room for its result has come."""
        with self._ready:
            self._ready.notify()

    def next(self, seats: Sequence[Seat], *, wait: bool = True) -> tuple[Seat, Frame] | None:
        """Return the next camera and its frame, None when none is there; wait: for a moment."""
        for seat in seats:
            seat.feed.ask()
        with self._ready:
            waiting = [seat for seat in seats if seat.can_be_served]
            if not waiting and wait:
                self._ready.wait(POLL_S)
                waiting = [seat for seat in seats if seat.can_be_served]
        # Start-time fair queueing: a camera's clock runs on by one for every frame it is given, and
        # one that had nothing to offer joins at the time of the others.
        for seat in waiting:
            seat.clock = max(seat.clock, self._time)
        for seat in sorted(waiting, key=lambda seat: seat.clock):
            turn_s = seat.clock
            frame = self._take(seat)
            if frame is not None:
                self._time = turn_s
                return seat, frame
        return None

    def beside(
        self, first: Seat, seats: Sequence[Seat], together: Together, most: float
    ) -> list[tuple[Seat, Frame]]:
        """Return other cameras with the words of `first` whose frame is ready now, and their frames,
        at most as many as fill a run with it; a frame that is not there is not waited for.

        most: frames in all. Each counts as a turn of its camera.
        """
        words = together.words_of(first.camera.segmenter)
        others = [
            seat
            for seat in seats
            if seat is not first
            and seat.can_be_served
            and words == together.words_of(seat.camera.segmenter) is not None
        ]
        there = min(most, 1 + len(others))
        room = max((size for size in together.batches if size <= there), default=1) - 1
        found: list[tuple[Seat, Frame]] = []
        for seat in sorted(others, key=lambda seat: seat.clock):
            if len(found) == room:
                break
            seat.clock = max(seat.clock, self._time)
            frame = self._take(seat)
            if frame is not None:
                found.append((seat, frame))
        return found

    def _take(self, seat: Seat) -> Frame | None:
        """Return the camera's frame unless it is gone or too late; then it was the camera's turn."""
        frame = seat.feed.take()
        if frame is None:
            return None
        if self._is_late(seat, frame) and not self._tries_again():
            seat.feed.count_drop(LATE)
            return None
        seat.clock += 1.0
        seat.given += 1
        return frame

    def took(self, duration_s: float) -> None:
        """Note how long the engine took for a frame, or for those that shared a run."""
        if self._is_trying:
            self._durations_s.clear()
        self._is_trying = False
        self._durations_s.append(duration_s)
        self._took_s = time.monotonic()

    def _tries_again(self) -> bool:
        """Return whether a frame that seems too late is labelled all the same, to see how it goes now:
        what was slow once must not make every frame late for ever."""
        self._is_trying = time.monotonic() - self._took_s > TRY_AGAIN_S
        return self._is_trying

    def _is_late(self, seat: Seat, frame: Frame) -> bool:
        limit_s = seat.camera.max_latency_s
        if limit_s is None or not self._durations_s:
            return False
        predicted_s = float(np.percentile(self._durations_s, 95))
        return time.monotonic() + predicted_s - frame.timestamp_s > limit_s
