"""What every subject of the fuzzer gives: seeds, damaged inputs, and one way to take them in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar


@dataclass(frozen=True)
class Limits:
    """What one case may take.

    seconds: of wall clock; memory_mb: by which resident memory may rise over what it was before;
    address_space_mb: by which the address space may, for what is asked for and never touched.
    """

    seconds: float = 10.0
    memory_mb: float = 1024.0
    address_space_mb: int = 6144


class Misbehaved(Exception):
    """What a subject finds itself: a wrong result, an answer 500; kind: one word for it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Subject(ABC):
    """One thing that takes input from outside; it lives in a process that may die of any case.

    name: as `--only` has it; preload: modules that are imported once, before processes fork;
    allowed: errors besides DedosError that are a proper refusal.
    """

    name: ClassVar[str]
    preload: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[Limits] = Limits()
    allowed: ClassVar[tuple[type[Exception], ...]] = ()

    def write_seeds(self, folder: Path) -> None:  # noqa: B027 - not all have files
        """Write valid inputs; the same bytes every time."""

    @abstractmethod
    def open(self, seeds: Path) -> None:
        """Read the seeds and get ready, in the process that will run cases."""

    def close(self) -> None:  # noqa: B027 - not all hold something
        """Release what `open` took."""

    @abstractmethod
    def whole(self, folder: Path) -> Iterator[Any]:
        """Yield inputs that are not damaged; each must be accepted, or the fuzzing is void."""

    @abstractmethod
    def make(self, random: Random, folder: Path) -> Any:
        """Return a damaged input that depends on `random` alone; files go to the empty `folder`."""

    @abstractmethod
    def attempt(self, made: Any) -> None:
        """Take an input in. Raises DedosError or one of `allowed` to refuse it, Misbehaved for a find."""

    def resident_mb(self) -> float | None:
        """Return the memory of what is attacked, None where it lives in the process that asks."""
        return None

    def keep(self, made: Any, folder: Path) -> None:  # noqa: B027 - files are there already
        """Write an input that is no file into the folder, for whoever looks into a finding."""


def random_of(seed: int, subject: str, case: int) -> Random:
    """Return the generator of a case: a function of these three, in every version of Python."""
    return Random(f"{seed}/{subject}/{case}")
