"""Ctrl-C and SIGTERM while training: the running step is finished first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; the second one interrupts at once.

    A step is never cut in half: an optimizer stopped between two parameters cannot be resumed.
    SIGTERM is what batch systems and torchrun send before they kill.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = {number: signal.signal(number, on_signal)
                for number in (signal.SIGINT, signal.SIGTERM)}  # fmt: skip
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
