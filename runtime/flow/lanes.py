"""One lane per sink: on a thread of its own, or on the caller's where a sink needs that."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from dedos_deploy.borders import is_panic
from dedos_deploy.closing import Closing
from dedos_deploy.errors import DedosError, SinkError
from dedos_deploy.runtime.flow.stages import StageBoard
from dedos_deploy.runtime.flow.workers import Handover, WhenFull
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, StopRequested
from dedos_deploy.runtime.sources.contract import Outcome

log = logging.getLogger(__name__)

CAPACITY = 4
DRAIN_S = 1.0

SLOW, FAILED = "sink too slow", "sink failed"


class Lane(Closing):
    """Results on their way into one sink, written at once and on the thread that puts: for windows.

    What the sink raises is said once and counted, and the sink gets no more; `error` has it.
    `stop_requested` is set when a sink asks for the end, as a window does.
    """

    def __init__(self, sink: Sink, *, stages: StageBoard | None = None) -> None:
        """stages: told of every write."""
        self.sink = sink
        self.error: Exception | None = None
        self.stop_requested = False
        self.written = 0
        self._stages = stages or StageBoard()
        self._refused = 0
        self._lost = 0

    @property
    def drops(self) -> dict[str, int]:
        """Results that the sink did not get, by cause."""
        failed = self._refused + self._lost
        return {FAILED: failed} if failed else {}

    @property
    def runs(self) -> bool:
        """Whether it is still at work, so that the sink cannot be closed."""
        return False

    def has_room_for(self, more: int) -> bool:
        """Return whether so many and one more can be put without losing one."""
        return True

    def put(self, frame: Frame, result: Segmentation) -> None:
        """Hand over a result."""
        if self.error is None:
            self._write(frame, result)
        if self.error is not None:
            self._refused += 1

    def request_finish(self) -> None:
        """Take no more; returns at once."""

    def finish(self, timeout_s: float) -> bool:
        """Take no more and let the sink write what is left; return whether it has, in time."""
        return True

    def close(self, timeout_s: float = DRAIN_S) -> None:
        """Finish, at most for a moment after the first request; who opened the sink closes it."""

    def _write(self, frame: Frame, result: Segmentation) -> bool:
        """Write a result; return whether the sink takes more."""
        try:
            with self._stages.busy("write", self.sink.uri, frame.frame_id):
                self.sink.write(frame, result)
            self.written += 1
        except StopRequested:
            self.stop_requested = True
        except BaseException as error:
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            self.error = error if isinstance(error, Exception) else _given_up(self.sink.uri, error)
            level = logging.WARNING if isinstance(error, DedosError) else logging.ERROR
            log.log(
                level,
                "output %s stops: %s: %s",
                self.sink.uri,
                type(error).__name__,
                error,
                extra={"output": self.sink.uri},
            )
        return self.error is None and not self.stop_requested


def _given_up(uri: str, error: BaseException) -> SinkError:
    return SinkError(f"output {uri!r} ends, since its library gave up ({type(error).__name__})")


class SinkLane(Lane):
    """A sink on its own thread, so that a slow or failing one holds up nothing else.

    when_full: `drop_oldest` for live sources; `wait` for recordings, whose owner puts nothing while
    `has_room_for` says so, so that the sink holds up its own source and no other.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        when_full: WhenFull,
        on_room: Callable[[], None] = lambda: None,
        stages: StageBoard | None = None,
    ) -> None:
        """on_room: called on the lane's thread whenever there is room again; stages: told of every
        write."""
        super().__init__(sink, stages=stages)
        self._when_full = when_full
        self._on_room = on_room
        self._items: Handover[tuple[Frame, Segmentation]] = Handover(
            CAPACITY, when_full="drop_oldest"
        )
        self._left = 0
        self._finishing_s = float("inf")
        self._process = OneProcess("SinkLane")
        self._thread = threading.Thread(
            target=self._run, name=f"dedos-sink {sink.uri}", daemon=True
        )
        self._thread.start()

    @property
    def drops(self) -> dict[str, int]:
        self._process.check()
        slow = self._items.dropped + self._left
        return {**({SLOW: slow} if slow else {}), **super().drops}

    def has_room_for(self, more: int) -> bool:
        return (
            self._when_full == "drop_oldest"
            or self.error is not None
            or len(self._items) + more < CAPACITY
        )

    def put(self, frame: Frame, result: Segmentation) -> None:
        """Hand over a result; never waits."""
        self._process.check()
        if not self._items.put((frame, result)):
            self._refused += 1

    def request_finish(self) -> None:
        self._process.check()
        self._finishing_s = min(self._finishing_s, time.monotonic())
        self._items.finish()

    def finish(self, timeout_s: float) -> bool:
        self.request_finish()
        self._thread.join(timeout_s)
        return not self.runs

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def close(self, timeout_s: float = DRAIN_S) -> None:
        self.request_finish()
        left_s = self._finishing_s + DRAIN_S - time.monotonic()
        if not self.finish(max(0.0, min(left_s, timeout_s))):
            self._left += self._items.clear()
            log.warning("output %s did not finish in time and is left behind", self.sink.uri)

    def _run(self) -> None:
        while not isinstance(item := self._items.get(), Outcome):
            self._on_room()
            if not self._write(*item):
                break
        if self.error is not None:
            # What waited for a sink that failed is its loss, and so is the one it failed at.
            self._lost = 1 + self._items.close()
            self._on_room()
