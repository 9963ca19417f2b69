"""benchmarks/fuzz.py with subjects of its own, each of which has one fault, or none.

python planted_faults.py --only segv,hang
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fuzz  # noqa: E402
from fuzzing.subject import Limits, Misbehaved, Subject  # noqa: E402

from dedos_deploy.errors import BadInputError  # noqa: E402
from dedos_deploy.presets import get_preset  # noqa: E402
from dedos_deploy.runtime.sources.images import find_images


class Panic(BaseException):
    """As libraries written in Rust raise them: not an Exception."""


def hang() -> None:
    threading.Lock().acquire()
    threading.Event().wait()


def fill_memory() -> None:
    bytearray(b"x" * (200 << 20))


def panic() -> None:
    raise Panic("a panic")


def wrong_result() -> None:
    raise Misbehaved("result", "two and two are five")


def several_lines() -> None:
    raise BadInputError("one line\nand \x1b[2J another")


FAULTS: dict[str, Callable[[], object]] = {
    "accepts": lambda: None,
    "refuses": lambda: get_preset("nan0"),
    # Frames of the package, so that the innermost of them must be named.
    "raises": lambda: find_images(Path("/"), None),  # type: ignore[arg-type]
    "panics": panic,
    "hangs": hang,
    "segv": lambda: ctypes.string_at(16),
    "aborts": os.abort,
    "leaves": lambda: os._exit(3),
    "fills": fill_memory,
    "asks": lambda: bytearray(1 << 40),
    "wrong": wrong_result,
    "talks": several_lines,
}


LIMITS = Limits(seconds=30.0, memory_mb=100.0)


class Planted(Subject):
    """Does what it is for, on every input."""

    limits = LIMITS

    def open(self, seeds: Path) -> None:
        """Nothing is read."""

    def whole(self, folder: Path) -> Iterator[None]:
        yield None

    def make(self, random: Random, folder: Path) -> Path:
        path = folder / "input.txt"
        path.write_text(str(random.random()))
        return path

    def attempt(self, made: Path | None) -> None:
        if made is not None:
            FAULTS[self.name]()


class BadSeeds(Planted):
    """Refuses what it should take."""

    name = "bad-seeds"

    def attempt(self, made: Path | None) -> None:
        raise BadInputError("not even this")


fuzz.SUBJECTS.clear()
fuzz.SUBJECTS |= {name: type(name, (Planted,), {"name": name}) for name in FAULTS}
fuzz.SUBJECTS["hangs"].limits = replace(LIMITS, seconds=1.0)
fuzz.SUBJECTS[BadSeeds.name] = BadSeeds

if __name__ == "__main__":
    sys.exit(fuzz.main())
