"""The plain loop with workers that end without a word, as the system's killer of processes makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from dedos_deploy.corpus import loop
from dedos_deploy.corpus.beginning import Begun, Wanted, begin
from dedos_deploy.corpus.labelling import Job, ShardReport
from dedos_deploy.corpus.loop import label_shards
from dedos_deploy.corpus.workers import Heard
from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.locks import held
from dedos_deploy.progress import Progress

Jobs = Callable[..., Job]


class Scripted:
    """The contract of Workers: ends at some shards so many times, before others not at all."""

    deaths: ClassVar[dict[int, int]] = {}
    never_ready: ClassVar[set[int]] = set()

    def __init__(self, job: Job) -> None:
        self._said: list[Heard] = []
        self.alive: set[int] = set()
        self.started = 0

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.alive.clear()

    def __len__(self) -> int:
        return len(self.alive)

    def start(self) -> int:
        number, self.started = self.started, self.started + 1
        self.alive.add(number)
        self._said.append(
            Heard(number, "gone" if number in self.never_ready else "ready", text="died")
        )
        return number

    def give(self, worker: int, shard: int, pieces: object) -> None:
        if self.deaths.get(shard, 0):
            self.deaths[shard] -= 1
            self._said.append(Heard(worker, "gone", text="was ended by SIGKILL"))
        else:
            report = ShardReport(shard, 1, ())
            self._said.append(Heard(worker, "done", report=report, frames=1))

    def end(self, worker: int) -> None:
        self.alive.discard(worker)

    def heard(self, timeout_s: float) -> Iterator[Heard]:
        assert self._said, "the loop waits for nobody"
        heard = self._said.pop(0)
        if heard.kind == "gone":
            self.alive.discard(heard.worker)
        yield heard


class Warnings(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def begun(job: Jobs, video: Path, monkeypatch: pytest.MonkeyPatch) -> Begun:
    monkeypatch.setattr(loop, "Workers", Scripted)
    monkeypatch.setattr(Scripted, "deaths", {})
    monkeypatch.setattr(Scripted, "never_ready", set())
    return begin(job(), Wanted((str(video),), shard_frames=10))


def test_a_shard_whose_worker_is_killed_is_done_by_another(begun: Begun, job: Jobs) -> None:
    Scripted.deaths = {1: 1}
    warnings = Warnings()
    outcome = label_shards(begun, job(), workers=2, progress=warnings)
    assert (outcome.done, outcome.frames, outcome.lost) == (3, 3, {})
    assert warnings.said == ["a process was ended by SIGKILL at shard 1"]


def test_of_two_runs_that_begin_at_once_one_is_refused(
    begun: Begun, job: Jobs, video: Path, tmp_path: Path
) -> None:
    """The shards of the other are cut elsewhere: parts of both would be one data set."""
    other = begin(job(), Wanted((str(video),), shard_frames=7))
    (tmp_path / "out").mkdir()
    with held(tmp_path / "out"), pytest.raises(BadInputError, match="begun .* at the same time"):
        label_shards(other, job(), workers=1)
    assert label_shards(begun, job(), workers=1).done == 3
    with pytest.raises(BadInputError, match="run the same command again to go on with it"):
        label_shards(other, job(), workers=1)
    assert len(begin(job(), Wanted((str(video),), shard_frames=7)).manifest) == 3


def test_a_shard_that_kills_its_workers_is_left_out_and_named(begun: Begun, job: Jobs) -> None:
    Scripted.deaths = {0: 9}
    outcome = label_shards(begun, job(), workers=1)
    assert (outcome.done, outcome.lost) == (2, {0: "was ended by SIGKILL"})


def test_workers_that_cannot_begin_are_not_replaced_for_ever(begun: Begun, job: Jobs) -> None:
    Scripted.never_ready = {1}
    warnings = Warnings()
    assert label_shards(begun, job(), workers=2, progress=warnings).done == 3
    assert warnings.said == ["a process died before it could label; going on without it"]
    Scripted.never_ready = {0, 1}
    with pytest.raises(EngineError, match="a process that should label died .*fewer --workers"):
        label_shards(begun, job(), workers=2)
