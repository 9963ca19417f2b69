"""What must not be used in a forked child: threads and locks of its parent are not there."""

from __future__ import annotations

import ctypes
import os
import weakref

from dedos_deploy.errors import EngineError


class OneProcess:
    """Belongs to the process that made it.

    A child that was forked has copies of locks which nobody will release, and of engines whose
    threads do not exist: using one would wait for ever, and so would destroying it.
    """

    def __init__(self, what: str, *kept: object) -> None:
        """what: its name in the error; kept: never destroyed in a child."""
        self._what = what
        self._process = os.getpid()
        self._kept = kept
        _guards.add(self)

    def check(self) -> None:
        """Raise EngineError in another process than the one that made it."""
        if os.getpid() != self._process:
            raise EngineError(
                f"this {self._what} was made in another process; make one after the fork, or let "
                "multiprocessing start its processes with spawn"
            )

    def keep_for_ever(self) -> None:
        """Give up what is kept, so that the end of this process does not destroy it."""
        for thing in self._kept:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


_guards: weakref.WeakSet[OneProcess] = weakref.WeakSet()


def _in_child() -> None:
    guards = list(_guards)
    for guard in guards:
        guard.keep_for_ever()
    if guards:
        _skip_destructors()


def _skip_destructors() -> None:
    """Let this process end after Python's own end, before that of C++ libraries.

    ONNX Runtime's waits there for a thread that only the parent has.
    """
    libc = ctypes.CDLL(None)
    # What is registered last is called first, and glibc hands it the exit status.
    if hasattr(libc, "on_exit"):
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
