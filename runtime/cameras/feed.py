"""One source on its own thread: opened again when it is lost, its newest frame kept ready."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dedos_deploy.closing import Closing
from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.frames import POLL_S, Frame, Outcome, Source
from dedos_deploy.runtime.live_sources import SUPERSEDED, Reconnect
from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.stages import ObservedSource, StageBoard

log = logging.getLogger(__name__)

JOIN_S = 0.9


class SourceState(enum.Enum):
    """connecting: not a frame yet, or being opened again; live: frames come; stalled: none came for a
    while, although nothing failed; lost: it failed and its attempts are used up; ended: it had an
    end and has reached it."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    LOST = "lost"
    ENDED = "ended"

    @property
    def final(self) -> bool:
        return self in (SourceState.LOST, SourceState.ENDED)


@dataclass(frozen=True)
class FeedOptions:
    """reconnect: how a source that failed, also at its first opening, is opened again; stall_s:
    silence after which it counts as stalled; ahead: frames read ahead from a recording."""

    reconnect: Reconnect = field(default_factory=Reconnect)
    stall_s: float = 2.0
    ahead: int = 2


@dataclass(frozen=True)
class FeedReport:
    """state, and for how many seconds; frames: read so far; drops: by cause; reconnects: how often
    it was opened again; error: the last failure, without credentials, "" for none."""

    state: SourceState
    since_s: float
    frames: int
    drops: dict[str, int]
    reconnects: int
    error: str


class Feed(Closing):
    """A source that never blocks who reads it.

    Live sources keep only their newest frame, recordings wait until theirs are taken. A source that
    raises is closed and opened again as `options` say; nothing it does reaches another feed.
    """

    def __init__(
        self,
        name: str,
        open_it: Callable[[], Source],
        *,
        options: FeedOptions | None = None,
        on_frame: Callable[[], None] = lambda: None,
        stages: StageBoard | None = None,
    ) -> None:
        """name: for logs and threads; open_it: called on the feed's thread, again after a loss;
        on_frame: called there when a frame is ready or the feed is over; stages: told of every
        opening and read."""
        self.name = name
        self._open_it = open_it
        self._options = options or FeedOptions()
        self._on_frame = on_frame
        self._stages = stages or StageBoard()
        self._lock = threading.Lock()
        self._taken = threading.Condition(self._lock)
        self._ready: deque[Frame] = deque()
        self._drops: Counter[str] = Counter()
        self._state = SourceState.CONNECTING
        self._since_s = self._last_frame_s = time.monotonic()
        self._frames = 0
        self._openings = 0
        self._error = ""
        self._inner_drops: dict[str, int] = {}
        self._earlier_drops: Counter[str] = Counter()
        self._stop = threading.Event()
        self._stop_s = 0.0
        self._process = OneProcess("Feed")
        # A daemon, so that a driver stuck in a system call cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name=f"dedos-feed {name}", daemon=True)
        self._thread.start()

    def take(self) -> Frame | None:
        """Return the frame that is ready, None if there is none; never waits."""
        self._process.check()
        with self._taken:
            if not self._ready:
                return None
            frame = self._ready.popleft()
            self._taken.notify()
            return frame

    @property
    def waiting(self) -> bool:
        """Whether a frame is ready."""
        return bool(self._ready)

    @property
    def over(self) -> bool:
        """Whether no frame will come any more."""
        self._process.check()
        with self._lock:
            return self._state.final and not self._ready

    def count_drop(self, cause: str) -> None:
        """Count a frame that was taken and not labelled."""
        self._process.check()
        with self._lock:
            self._drops[cause] += 1

    def report(self) -> FeedReport:
        """Return how it is, from any thread."""
        self._process.check()
        now_s = time.monotonic()
        with self._lock:
            state, since_s = self._state, self._since_s
            silent_s = now_s - self._last_frame_s
            if state is SourceState.LIVE and not self._ready and silent_s > self._options.stall_s:
                state, since_s = SourceState.STALLED, self._last_frame_s
            drops = self._drops + self._earlier_drops + Counter(self._inner_drops)
            return FeedReport(
                state,
                now_s - since_s,
                self._frames,
                dict(drops),
                max(0, self._openings - 1),
                self._error,
            )

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def request_stop(self) -> None:
        """Ask the thread to end; returns at once."""
        self._process.check()
        with self._taken:
            if not self._stop.is_set():
                self._stop.set()
                self._stop_s = time.monotonic()
            self._taken.notify_all()

    def close(self) -> None:
        """Stop, and wait for the thread a moment after the first request: one that is stuck in a
        driver is left behind."""
        self.request_stop()
        self._thread.join(max(0.0, self._stop_s + JOIN_S - time.monotonic()))
        if self._thread.is_alive():
            log.warning(
                "feed %s did not end within %g s and is left behind",
                self.name,
                JOIN_S,
                extra={"camera": self.name},
            )

    # On the feed's thread

    def _run(self) -> None:
        waits = self._options.reconnect.waits_s()
        while not self._stop.is_set():
            seen = self._frames
            try:
                self._read_all()
                # One that was stopped has not ended; it stays what it was.
                if not self._stop.is_set():
                    self._enter(SourceState.ENDED)
                return
            except Exception as error:
                # Whatever a source raises is its own; a bug in one must not end the others.
                level = logging.WARNING if isinstance(error, SourceError) else logging.ERROR
                log.log(
                    level,
                    "camera %s: %s: %s",
                    self.name,
                    type(error).__name__,
                    error,
                    extra={"camera": self.name},
                )
                self._fail(error)
            if self._frames > seen:
                waits = self._options.reconnect.waits_s()
            wait_s = next(waits, None)
            if wait_s is None:
                self._enter(SourceState.LOST)
                return
            self._stop.wait(wait_s)

    def _read_all(self) -> None:
        with self._opened() as source:
            self._openings += 1
            while not self._stop.is_set():
                item = source.read(POLL_S)
                self._inner_drops = dict(source.drops)
                if item is Outcome.END:
                    return
                if isinstance(item, Frame):
                    self._put(item, live=source.live)

    def _opened(self) -> Source:
        with self._stages.busy("open", self.name):
            return ObservedSource(self._open_it(), self._stages, subject=self.name)

    def _put(self, frame: Frame, *, live: bool) -> None:
        with self._taken:
            came = self._state is not SourceState.LIVE
            if came:
                self._state, self._since_s = SourceState.LIVE, time.monotonic()
            self._frames += 1
            self._last_frame_s = time.monotonic()
            if live:
                self._drops[SUPERSEDED] += len(self._ready)
                self._ready.clear()
            while len(self._ready) >= self._options.ahead and not self._stop.is_set():
                self._taken.wait()
            self._ready.append(frame)
        if came:
            self._tell(SourceState.LIVE)
        self._on_frame()

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._error = str(error) or type(error).__name__
            # A source that is opened again counts its own drops from nothing.
            self._earlier_drops += Counter(self._inner_drops)
            self._inner_drops = {}
        self._enter(SourceState.CONNECTING)

    def _enter(self, state: SourceState) -> None:
        with self._lock:
            new = self._state is not state
            if new:
                self._state, self._since_s = state, time.monotonic()
        if new:
            self._tell(state)
        self._on_frame()

    def _tell(self, state: SourceState) -> None:
        log.info(
            "camera %s is %s",
            self.name,
            state.value,
            extra={"camera": self.name, "state": state.value},
        )
