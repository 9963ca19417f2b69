"""Ctrl-C and SIGTERM: at once while loading, after the work in hand otherwise, and in time whatever hangs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from types import FrameType, TracebackType

from dedos_deploy.files import discard_unfinished

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_INTERRUPTED = 130
WATCHER = "dedos-signals"

LIMIT_S = 1.5
"""From the first signal to the end of a process that did not come to its own: two seconds, less what
the last words and the system take."""

LAST_WORDS_S = 0.15
_LOOK_S = 0.05
_ENOUGH = b"\0"


class Interrupts:
    """Takes over the two signals inside its block.

    Before `defer` a signal raises KeyboardInterrupt, which also leaves the block when a library
    turned it into an error of its own, as one that is being imported does. After `defer` the first
    signal sets the event that it returned, so that the work can end in order. A second one ends the
    process at once, and LIMIT_S after the first it is ended too: from a thread of its own, since
    Python runs handlers on its main thread only, which may be stuck in native code.
    """

    seen: bool
    """Whether a signal came."""

    stop: threading.Event
    """Set by a signal that was deferred."""

    left: Callable[[], Sequence[str]]
    """Names what is still at work, for the last words."""

    say: Callable[[str], None]
    """Says the last words."""

    def __init__(self, prog: str = "dedos") -> None:
        self.seen = False
        self.left = tuple
        self.say = lambda text: print(f"{prog}: {text}", file=sys.stderr)
        self.stop = threading.Event()
        self._deferred = False
        self._limited = True
        self._held = False
        self._repeated: Collection[int] = ()
        self._raised = False
        self._before: dict[signal.Signals, object] = {}
        self._closing = contextlib.ExitStack()

    def defer(self) -> threading.Event:
        """From now on ask for a stop instead of raising; return the event that asks."""
        self._deferred = True
        return self.stop

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal raise at the end of this block, so that what it opens is sure to be closed."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.stop.is_set():
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def unlimited(self, repeated: Collection[int] = ()) -> Iterator[threading.Event]:
        """Only ask inside this block, and wait for its end however long it takes.

        repeated: signals that do not end the process at once when they are the second one.
        """
        before = self._deferred, self._limited, self._repeated
        self._deferred, self._limited, self._repeated = True, False, repeated
        try:
            yield self.stop
        finally:
            self._deferred, self._limited, self._repeated = before

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Raise KeyboardInterrupt for whatever a library made of it."""
        try:
            yield
        except Exception as error:
            if self._raised:
                raise KeyboardInterrupt from error
            raise

    def __enter__(self) -> Interrupts:
        # Python sets handlers on its main thread only; elsewhere the owner of that thread decides.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                # A shell's background jobs ignore Ctrl-C on purpose.
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
            self._closing.callback(self._restore, sys.unraisablehook, threading.excepthook)
            self._start_watching()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()
        if self._raised and isinstance(error, Exception):
            raise KeyboardInterrupt from error

    def _restore(
        self, unraisable: Callable[..., object], of_threads: Callable[..., object]
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]
        sys.unraisablehook, threading.excepthook = unraisable, of_threads

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        # The second one is the system's, which needs nobody's help.
        for handled in self._before:
            again = signal.SIG_IGN if handled in self._repeated else signal.SIG_DFL
            signal.signal(handled, again)
        if self._deferred or self._held:
            self.stop.set()
            return
        self._raised = True
        # Where it cannot be raised, in a destructor or a thread, it would be printed; what was cut
        # short also complains when it is thrown away.
        sys.unraisablehook = threading.excepthook = _keep_quiet
        raise KeyboardInterrupt

    # The thread that sees to it

    def _start_watching(self) -> None:
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        _of_this_process.add(writing.fileno())
        watcher = threading.Thread(target=self._watch, args=(reading,), name=WATCHER, daemon=True)
        self._closing.callback(reading.close)
        self._closing.callback(writing.close)
        self._closing.callback(watcher.join)
        self._closing.callback(writing.send, _ENOUGH)
        self._closing.callback(_of_this_process.discard, writing.fileno())
        self._closing.callback(signal.set_wakeup_fd, before)
        watcher.start()

    def _watch(self, reading: socket.socket) -> None:
        signals, deadline_s = 0, float("inf")
        while True:
            waiting_s = _LOOK_S if signals else None
            if select.select([reading], [], [], waiting_s)[0]:
                content = reading.recv(64)
                if _ENOUGH in content:
                    return
                for number in content:
                    signals += number in SIGNALS and not (signals and number in self._repeated)
            if signals and self._limited:
                deadline_s = min(deadline_s, time.monotonic() + LIMIT_S)
            if signals > 1 or time.monotonic() > deadline_s:
                self._end_now(signals)

    def _end_now(self, signals: int) -> None:
        # On threads, since a disk or a terminal may be what hangs.
        works = [
            threading.Thread(target=work, daemon=True)
            for work in (discard_unfinished, lambda: self._last_words(signals))
        ]
        for thread in works:
            thread.start()
        until_s = time.monotonic() + LAST_WORDS_S
        for thread in works:
            thread.join(max(0.0, until_s - time.monotonic()))
        os._exit(EXIT_INTERRUPTED)

    def _last_words(self, signals: int) -> None:
        if signals > 1:
            self.say("interrupted twice, ended at once")
        else:
            left = ", ".join(self.left()) or "what was being loaded"
            self.say(f"interrupted; did not end within 2 s and is left behind: {left}")
        sys.stdout.flush()


@contextlib.contextmanager
def interrupts_taken(prog: str = "dedos") -> Iterator[Interrupts]:
    """Yield whoever has taken the signals over, taking them over if nobody has."""
    global _taken  # noqa: PLW0603 (there is one pair of signals in a process)
    if _taken is not None:
        yield _taken
        return
    with Interrupts(prog) as taken:
        _taken = taken
        try:
            yield taken
        finally:
            _taken = None


_taken: Interrupts | None = None
_of_this_process: set[int] = set()


def _keep_quiet(*_: object) -> None:
    """Say nothing."""


def _stop_waking_the_parent() -> None:
    if _of_this_process:
        _of_this_process.clear()
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    # A Ctrl-C reaches parent and children; in the parent it must count once.
    os.register_at_fork(after_in_child=_stop_waking_the_parent)
