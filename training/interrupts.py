"""Ctrl-C and SIGTERM while training: the running step is finished first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from dedos_deploy.interrupts import SIGNALS, interrupts_taken

_LAUNCHER = "TORCHELASTIC_RUN_ID"
"""What torchrun sets in the processes it starts."""


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; a second Ctrl-C ends the process at once.

    A step is never cut in half: an optimizer stopped between two parameters cannot be resumed.
    A second SIGTERM means nothing: batch systems send it to the whole process group, where torchrun
    passes it on once more, as it does with Ctrl-C. Their way to end a process at once is SIGKILL.
    """
    repeated = SIGNALS if _LAUNCHER in os.environ else (signal.SIGTERM,)
    with interrupts_taken() as interrupts, interrupts.unlimited(repeated) as event:
        yield event


def stopped(steps: int) -> str:
    """Return the last words of a run that was interrupted after so many steps, its state saved."""
    return f"interrupted after step {steps}; everything up to there is saved, go on with --resume"
