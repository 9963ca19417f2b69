"""A sink on its own thread, so that a slow or failing one holds up nothing else."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from dedos_deploy.closing import Closing
from dedos_deploy.errors import DedosError
from dedos_deploy.runtime.frames import Frame
from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks import Sink, StopRequested
from dedos_deploy.runtime.stages import StageBoard
from dedos_deploy.runtime.workers import WhenFull

log = logging.getLogger(__name__)

CAPACITY = 4
DRAIN_S = 1.0

SLOW, FAILED = "sink too slow", "sink failed"


class SinkLane(Closing):
    """Results on their way into one sink.

    when_full: `drop_oldest` for live sources; `wait` for recordings, whose owner puts nothing while
    `has_room` is False, so that the sink holds up its own source and no other. What the sink raises
    is said once and counted, and the sink gets no more; `error` has it. `stop_requested` is set when
    a sink asks for the end, as a window does.
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
        self.sink = sink
        self.error: Exception | None = None
        self.stop_requested = False
        self._when_full = when_full
        self._on_room = on_room
        self._stages = stages or StageBoard()
        self._changed = threading.Condition()
        self._items: deque[tuple[Frame, Segmentation]] = deque()
        self._drops: Counter[str] = Counter()
        self._closing_s = float("inf")
        self._written = 0
        self._process = OneProcess("SinkLane")
        self._thread = threading.Thread(
            target=self._run, name=f"dedos-sink {sink.uri}", daemon=True
        )
        self._thread.start()

    @property
    def drops(self) -> dict[str, int]:
        self._process.check()
        with self._changed:
            return dict(self._drops)

    @property
    def written(self) -> int:
        return self._written

    @property
    def has_room(self) -> bool:
        """Whether a result can be put without losing another."""
        return (
            self._when_full == "drop_oldest"
            or self.error is not None
            or len(self._items) < CAPACITY
        )

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until there is room, at most `timeout_s`; return whether there is."""
        self._process.check()
        with self._changed:
            return self._changed.wait_for(lambda: self.has_room, timeout_s)

    def put(self, frame: Frame, result: Segmentation) -> None:
        """Hand over a result; never waits."""
        self._process.check()
        with self._changed:
            if self.error is not None:
                self._drops[FAILED] += 1
                return
            while len(self._items) >= CAPACITY:
                self._items.popleft()
                self._drops[SLOW] += 1
            self._items.append((frame, result))
            self._changed.notify_all()

    def request_finish(self) -> None:
        """Take no more; returns at once."""
        self._process.check()
        with self._changed:
            self._closing_s = min(self._closing_s, time.monotonic())
            self._changed.notify_all()

    def finish(self, timeout_s: float) -> bool:
        """Take no more and let the sink write what is left; return whether it has, in time."""
        self.request_finish()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def runs(self) -> bool:
        """Whether its thread is still at work, so that the sink cannot be closed."""
        return self._thread.is_alive()

    def close(self, timeout_s: float = DRAIN_S) -> None:
        """Finish, at most for a moment after the first request; who opened the sink closes it."""
        self.request_finish()
        left_s = self._closing_s + DRAIN_S - time.monotonic()
        if not self.finish(max(0.0, min(left_s, timeout_s))):
            with self._changed:
                self._drops[SLOW] += len(self._items)
                self._items.clear()
            log.warning("output %s did not finish in time and is left behind", self.sink.uri)

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                with self._stages.busy("write", self.sink.uri, item[0].frame_id):
                    self.sink.write(*item)
                self._written += 1
            except StopRequested:
                self.stop_requested = True
                return
            except Exception as error:
                self._fail(error)
                return

    def _next(self) -> tuple[Frame, Segmentation] | None:
        with self._changed:
            while not self._items and self._closing_s == float("inf"):
                self._changed.wait()
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
        self._on_room()
        return item

    def _fail(self, error: Exception) -> None:
        level = logging.WARNING if isinstance(error, DedosError) else logging.ERROR
        log.log(
            level,
            "output %s stops: %s: %s",
            self.sink.uri,
            type(error).__name__,
            error,
            extra={"output": self.sink.uri},
        )
        with self._changed:
            self.error = error
            self._drops[FAILED] += 1 + len(self._items)
            self._items.clear()
            self._changed.notify_all()
        self._on_room()
