"""How long work tells of itself: its parts, what a part is doing, and how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Progress:
    """Hears of a long operation and does nothing about it; who shows it overrides what it needs."""

    def begin(self, number: int, count: int, what: str) -> None:
        """Part `number` of `count`, from 1, starts; what: it does, as "building the engine"."""

    def note(self, text: str) -> None:
        """The part is at `text` now, heard of many times a second."""

    def count(self, done: int, total: int, unit: str = "image") -> None:
        """The part, or what it is at, has `done` of `total` of what one is called a `unit`."""
        self.reached(done / max(1, total), f"{unit} {done} of {total}")

    def reached(self, fraction: float, text: str) -> None:
        """The part, or what it is at, is over by `fraction`, [0, 1]; text: where that is."""

    def warn(self, text: str) -> None:
        """Something does not stop the work and should be known."""

    def end(self, *, completed: bool) -> None:
        """The part is over; completed: False after an error or an interrupt."""

    @contextmanager
    def part(self, number: int, count: int, what: str) -> Iterator[None]:
        """Begin a part, and end it with the block."""
        self.begin(number, count, what)
        completed = False
        try:
            yield
            completed = True
        finally:
            self.end(completed=completed)

    def counted(self, items: Iterable[Item], total: int, unit: str = "image") -> Iterator[Item]:
        """Yield `items`, and count each before it is asked for the next."""
        for done, item in enumerate(items, start=1):
            yield item
            self.count(done, total, unit)


QUIET = Progress()


class Stages:
    """Numbers the parts of one operation whose length is known beforehand."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self._total = total
        self._number = 0

    @contextmanager
    def stage(self, what: str) -> Iterator[Progress]:
        """Run the next part; yields the progress to tell."""
        self._number += 1
        with self.progress.part(self._number, self._total, what):
            yield self.progress
