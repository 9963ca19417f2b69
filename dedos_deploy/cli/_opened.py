"""What a run has opened, closed so that one thing that hangs keeps no other from being completed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TypeVar

from dedos_deploy.runtime.flow.workers import Patience

log = logging.getLogger(__name__)

CLOSE_S = 1.25
"""How long after a stop was asked for what is being closed is waited for."""

LOOK_S = 0.05
Thing = TypeVar("Thing", bound=AbstractContextManager[object])


class Opened:
    """Things with a name, each closed on a thread of its own, all at once."""

    left: list[str]
    """Names of those that were not closed, since they were still at work or did not come back."""

    at_work: Collection[object]
    """What is not to be closed, as its threads have not come back."""

    def __init__(self, stop: threading.Event) -> None:
        """stop: once it is set, `finish` waits no longer than CLOSE_S."""
        self.left = []
        self.at_work = ()
        self._patience = Patience(stop)
        self._things: list[tuple[str, AbstractContextManager[object]]] = []
        self._closings: list[_Closing] = []

    def closing(self) -> list[str]:
        """Return the names of what is being closed now, from any thread."""
        return [closing.name for closing in self._closings if closing.runs]

    def enter(self, name: str, thing: Thing, *, on_this_thread: bool = False) -> Thing:
        """Keep a thing that is open and return it."""
        self._things.append((name, thing if not on_this_thread else _Direct(thing)))
        return thing

    def finish(self) -> dict[str, Exception]:
        """Close everything but what is `at_work`; return what was raised, by name.

        May be called twice.
        """
        things, self._things = self._things[::-1], []
        self.left += [name for name, thing in things if _is_among(thing, self.at_work)]
        closings = self._closings
        for name, thing in things:
            if not _is_among(thing, self.at_work):
                closings.append(_Closing(name, thing))
        while any(closing.runs for closing in closings):
            left_s = self._patience.left_s(CLOSE_S)
            if left_s == 0.0:
                break
            for closing in closings:
                closing.wait(min(LOOK_S, left_s))
        self.left += self.closing()
        self._closings = []
        return {closing.name: closing.error for closing in closings if closing.error is not None}

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raised = self.finish()
        for name, other in raised.items():
            if error is None:
                raise other
            if str(other) != str(error):
                log.warning("%s: %s", name, other)


class _Direct(ExitStack):
    """A thing that must be closed on the thread that opened it, as a window."""

    def __init__(self, thing: AbstractContextManager[object]) -> None:
        super().__init__()
        self.push(thing)


class _Closing:
    """One thing while it is being closed."""

    def __init__(self, name: str, thing: AbstractContextManager[object]) -> None:
        self.name = name
        self.error: Exception | None = None
        self._thread: threading.Thread | None = None
        if isinstance(thing, _Direct):
            self._close(thing)
            return
        # A daemon: a disk or driver that does not come back cannot keep the process.
        self._thread = threading.Thread(
            target=self._close, args=(thing,), name=f"dedos-close {name}", daemon=True
        )
        self._thread.start()

    @property
    def runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _close(self, thing: AbstractContextManager[object]) -> None:
        try:
            thing.__exit__(None, None, None)
        except Exception as error:  # crosses to the owner's thread, which says it
            self.error = error


def _is_among(thing: object, things: Collection[object]) -> bool:
    return any(thing is other for other in things)
