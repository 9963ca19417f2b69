"""Ctrl-C and SIGTERM while training: the running step is finished first."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from dedos_deploy.interrupts import interrupts_taken


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; the second one ends the process at once.

    A step is never cut in half: an optimizer stopped between two parameters cannot be resumed.
    SIGTERM is what batch systems and torchrun send before they kill.
    """
    with interrupts_taken() as interrupts, interrupts.unlimited() as event:
        yield event
