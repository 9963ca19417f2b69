"""How long work reports itself: named stages, and notes inside a stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a long operation; a command line draws them, a library ignores them."""

    def begin(self, index: int, total: int, title: str) -> None:
        """Stage `index` of `total` (counted from 1) starts."""

    def note(self, text: str) -> None:
        """What the running stage is doing right now."""

    def warn(self, text: str) -> None:
        """Something the user should know that does not stop the work."""

    def end(self, *, completed: bool) -> None:
        """The running stage ended; completed is False after an error or an interrupt."""


class Quiet:
    """A Progress that shows nothing."""

    def begin(self, index: int, total: int, title: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def end(self, *, completed: bool) -> None:
        pass


class Stages:
    """Numbers the stages of one operation whose length is known beforehand."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.total = total
        self.index = 0

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Run one stage; yields the progress to write notes to."""
        self.index += 1
        self.progress.begin(self.index, self.total, title)
        completed = False
        try:
            yield self.progress
            completed = True
        finally:
            self.progress.end(completed=completed)
