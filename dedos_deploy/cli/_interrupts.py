"""Ctrl-C and SIGTERM: at once while loading, after the frame in work while labelling."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Takes over the two signals inside its block.

    Before `defer` a signal raises KeyboardInterrupt, which also leaves the block when a library
    turned it into an error of its own, as one that is being imported does. After `defer` the first
    signal sets the event that it returned, so that the work can end in order, and a second one ends
    the process at once.
    seen: whether a deferred signal came.
    """

    def __init__(self) -> None:
        self.seen = False
        self._stop = threading.Event()
        self._deferred = False
        self._held = False
        self._raised = False
        self._before: dict[signal.Signals, object] = {}

    def defer(self) -> threading.Event:
        """From now on ask for a stop instead of raising; return the event that asks."""
        self._deferred = True
        return self._stop

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal raise at the end of this block, so that what it opens is sure to be closed."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._stop.is_set():
            raise KeyboardInterrupt

    def __enter__(self) -> Interrupts:
        # Python sets handlers on its main thread only; elsewhere the owner of that thread decides.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                # A shell's background jobs ignore Ctrl-C on purpose.
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]
        if self._raised and isinstance(error, Exception):
            raise KeyboardInterrupt from error

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._deferred:
            if self._held:
                self._stop.set()
                return
            self._raised = True
            raise KeyboardInterrupt
        self.seen = True
        self._stop.set()
        for handled in self._before:
            signal.signal(handled, signal.SIG_DFL)
