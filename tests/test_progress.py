"""Progress: parts that end whatever happens, counts of what is gone through."""

from __future__ import annotations

import pytest

from dedos_deploy.progress import QUIET, Progress, Stages


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, number: int, count: int, what: str) -> None:
        self.lines.append(f"begin {number}/{count} {what}")

    def count(self, done: int, total: int, unit: str = "image") -> None:
        self.lines.append(f"{unit} {done} of {total}")

    def end(self, *, completed: bool) -> None:
        self.lines.append("end" if completed else "stopped")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_part_that_is_interrupted_ends_all_the_same(error: type[BaseException]) -> None:
    told = Told()
    stages = Stages(told, 2)
    with stages.stage("reading") as progress:
        assert progress is told
    with pytest.raises(error), stages.stage("writing"):
        raise error
    assert told.lines == ["begin 1/2 reading", "end", "begin 2/2 writing", "stopped"]


def test_what_is_gone_through_is_counted_once_it_is_done() -> None:
    told = Told()
    for letter in told.counted("ab", 2, "letter"):
        told.lines.append(letter)
    assert told.lines == ["a", "letter 1 of 2", "b", "letter 2 of 2"]


def test_a_count_is_how_far_a_part_is() -> None:
    class Reached(Progress):
        def reached(self, fraction: float, text: str) -> None:
            told.append((fraction, text))

    told: list[tuple[float, str]] = []
    Reached().count(0, 0)
    Reached().count(3, 4, "frame")
    assert told == [(0.0, "image 0 of 0"), (0.75, "frame 3 of 4")]


def test_nobody_need_listen() -> None:
    with QUIET.part(1, 1, "anything"):
        QUIET.note("something")
        QUIET.warn("beware")
        assert list(QUIET.counted([1, 2], 2)) == [1, 2]
