"""Threads with an owner, and the bounded hand-over through which their items and errors come out."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.sources.contract import Outcome

log = logging.getLogger(__name__)

Item = TypeVar("Item")
WhenFull = Literal["wait", "drop_oldest"]
JOIN_S = 5.0
FOR_EVER = 1e9

LABEL_S = 0.7
"""How long a stop waits for the frame that is being labelled."""
STOP_S = 1.0
"""How long a run may still last after a stop was asked for; what is stuck is left behind."""
ENGINE_IS_STUCK = f"the engine did not finish its frame within {LABEL_S:g} s and is left behind"


class Patience:
    """How long a run goes on: for ever, until `stop` is set, then so many seconds more."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._asked_s: float | None = None

    def left_s(self, seconds: float = STOP_S) -> float:
        """Return how much of `seconds` since the stop is left, infinity without a stop."""
        if self._asked_s is None:
            if not self._stop.is_set():
                return float("inf")
            self._asked_s = time.monotonic()
        return max(0.0, self._asked_s + seconds - time.monotonic())


class Handover(Generic[Item]):
    """At most `capacity` items between one producer and one consumer thread.

    when_full: `wait` keeps every item (files), `drop_oldest` keeps the newest and counts the rest
    in `dropped` (live).
    """

    def __init__(self, capacity: int, *, when_full: WhenFull) -> None:
        self.dropped = 0
        self._capacity = capacity
        self._when_full = when_full
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> bool:
        """Hand over `item`; return False when the consumer has closed and wants no more."""
        with self._changed:
            while len(self._items) >= self._capacity and not self._closed:
                if self._when_full == "drop_oldest":
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def finish(self, error: BaseException | None = None) -> None:
        """Say that no item follows; the consumer meets `error` after the items that are left."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def clear(self) -> int:
        """Drop what is left; return how much that was."""
        with self._changed:
            left = len(self._items)
            self._items.clear()
            self._changed.notify_all()
            return left

    def close(self) -> int:
        """Drop what is left and let a waiting producer go; return how much was left."""
        with self._changed:
            self._closed = True
            return self.clear()

    def take(self) -> Item | None:
        """Return the next item, None if there is none now; never waits, raises nothing."""
        with self._changed:
            return self._pop() if self._items else None

    def get(self, timeout_s: float = FOR_EVER) -> Item | Outcome:
        """Return the next item, Outcome.TIMEOUT, or Outcome.END; raise the producer's error."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._items:
                if self._error is not None:
                    raise self._error
                if self._finished or self._closed:
                    return Outcome.END
                left = deadline - time.monotonic()
                if left <= 0:
                    return Outcome.TIMEOUT
                self._changed.wait(left)
            return self._pop()

    def _pop(self) -> Item:
        item = self._items.popleft()
        self._changed.notify_all()
        return item


class Worker(Generic[Item]):
    """A thread that runs `work(emit, stop)` and hands over what it emits.

    `emit(item)` returns False, and `stop` is set, once the work should end. The owner takes the
    items with `get`, which raises what the work raised, and must call `close`.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Callable[[Item], bool], threading.Event], None],
        handover: Handover[Item],
    ) -> None:
        self.handover = handover
        self._work = work
        self._stop = threading.Event()
        self._process = OneProcess("worker")
        # A daemon, so that a driver stuck in a system call cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def get(self, timeout_s: float) -> Item | Outcome:
        self._process.check()
        return self.handover.get(timeout_s)

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def request_stop(self) -> None:
        """Ask the work to end after the item it is busy with; returns at once."""
        self._stop.set()

    def abandon(self) -> None:
        """Ask the work to end and take nothing from it any more; returns at once."""
        self._process.check()
        self.request_stop()
        self.handover.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread, at most `timeout_s`; return whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self, timeout_s: float = JOIN_S) -> None:
        """Stop the work and wait for its thread, at most `timeout_s`; may be called twice."""
        self.abandon()
        if not self.join(timeout_s):
            log.warning("thread %s did not end within %g s", self._thread.name, timeout_s)

    def _run(self) -> None:
        try:
            self._work(self.handover.put, self._stop)
        except BaseException as error:  # crosses to the owner's thread, where `get` raises it
            self.handover.finish(error)
        else:
            self.handover.finish()
