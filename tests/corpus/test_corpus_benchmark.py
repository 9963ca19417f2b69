"""benchmarks/corpus.py compares before it times, verifies what it labelled, and keeps its JSON keys;
benchmarks/corpus_nodes.py notes what workers do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from corpus_helpers import film

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import corpus as benchmark  # noqa: E402
import corpus_nodes  # noqa: E402
from corpus_nodes import Watched  # noqa: E402

from dedos_deploy.corpus.workers import Heard, Pool  # noqa: E402


def test_it_reports_what_it_claims(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SAMPLE_S", 0.02)
    arguments = [
        str(film(tmp_path / "film.avi", 25)),
        "--bundle",
        bundle,
        "--classes",
        "blue,green",
    ]
    arguments += ["--frames", "40", "--rounds", "1", "--kills", "0", "--workers", "1", "--json"]
    assert benchmark.main([*arguments, "--rated", "41"]) == 2
    assert "--rated must lie in [1, 40]" in capsys.readouterr().err
    assert benchmark.main([*arguments, "--rated", "20"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["frames"], report["rated"], report["agreement"]) == (40, 20, 1.0)
    assert (report["missing"], report["duplicates"], report["wrong"]) == (0, 0, 0)
    assert report["loop_ratio"] > 0 and report["cpu_ratio"] > 0 and report["manifest_100k_s"] > 0
    assert isinstance(report["growth_mb"], float)


def test_memory_is_that_of_children_and_of_theirs() -> None:
    # A shell that has one command left becomes that command.
    with subprocess.Popen(["sh", "-c", "sleep 30; true"]) as child:
        until_s = time.monotonic() + 5
        while len(found := list(benchmark._below(str(child.pid)))) < 1:
            assert time.monotonic() < until_s
        assert str(child.pid) in list(benchmark._below("self"))
        assert set(found) <= set(benchmark._below("self")) and benchmark._resident(found[0]) > 0
        for process in (*map(int, found), child.pid):
            os.kill(process, signal.SIGKILL)
    assert benchmark._resident(str(child.pid)) == 0


def test_memory_that_grows_is_seen() -> None:
    flat = benchmark.Memory([1.0, *[50.0] * 20])
    rising = benchmark.Memory([float(n) for n in range(40)])
    assert flat.growth_mb == 0.0 and rising.growth_mb == 20.0
    with pytest.raises(benchmark.BadInputError, match="more --frames"):
        _ = benchmark.Memory([1.0]).growth_mb


class Told(Pool):
    """Says what a test wants it to."""

    def __init__(self, *said: Heard) -> None:
        self._said = list(said)

    def __len__(self) -> int:
        return 1

    def start(self) -> int:
        return 0

    def give(self, worker: int, shard: int, pieces: object) -> None:
        pass

    def end(self, worker: int) -> None:
        pass

    def heard(self, timeout_s: float) -> Iterator[Heard]:
        yield self._said.pop(0)

    def close(self) -> None:
        pass


def test_attempts_are_noted_with_their_ends() -> None:
    kinds = (("ready", 0), ("ready", 1), ("done", 0), ("gone", 1), ("gone", 2))
    watched = Watched(Told(*(Heard(worker, kind) for kind, worker in kinds)), {0: 5, 1: 3})
    for kind, worker in kinds:
        assert [heard.kind for heard in watched.heard(0.0)] == [kind]
        if kind == "ready":
            watched.give(worker, worker, [])
    assert len(watched.ready_s) == 2 and watched.done == 1
    assert [(one.worker, one.frames, one.is_done) for one in watched.attempts] == [
        (0, 5, True),
        (1, 3, False),
    ]
    first, second = watched.attempts
    assert watched.ready_s[0] <= first.began_s <= first.ended_s <= second.ended_s


class Cluster:
    """Of Ray what begins nodes and kills them."""

    address = "127.0.0.1:6379"

    def __init__(self, **_: object) -> None:
        self.added, self.removed = 0, 0

    def add_node(self, **_: object) -> None:
        self.added += 1

    def remove_node(self, node: None, *, allow_graceful: bool) -> None:
        self.removed += 1


@pytest.mark.parametrize(
    ("after", "away_s", "killed", "back"), [(1, 600.0, 0, 0), (0, 600.0, 1, 0), (0, 0.0, 1, 1)]
)
def test_nothing_fails_and_nothing_begins_once_labelling_has_ended(
    after: int, away_s: float, killed: int, back: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in corpus_nodes.NOTICED_SOON.items():
        monkeypatch.setenv(name, value)
    ray = ModuleType("ray")
    ray.cluster_utils = ModuleType("ray.cluster_utils")
    ray.cluster_utils.Cluster = Cluster
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.cluster_utils", ray.cluster_utils)
    nodes = corpus_nodes.Nodes()
    cluster = nodes._cluster
    with pytest.raises(RuntimeError, match="as where no engine loads"):
        with nodes.failing(Watched(Told(), {}), after=after, away_s=away_s):
            until_s = time.monotonic() + 5
            while (cluster.removed, cluster.added - 1) != (killed, back):
                assert time.monotonic() < until_s
            raise RuntimeError("as where no engine loads")
    assert (cluster.removed, cluster.added - 1) == (killed, back)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "0"], "argument --frames: '0' is no whole number from 1 on"),
        (["--shard", "-1"], "argument --shard: '-1' is no whole number from 1 on"),
        (["--kill-at", "1"], "argument --kill-at: '1' is no finite number from 0, below 1"),
        (["--away", "nan"], "argument --away: 'nan' is no finite number from 0, below 600"),
    ],
)
def test_numbers_that_no_cluster_can_run_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        corpus_nodes.main(["/nowhere.mp4", *arguments])
    assert message in capsys.readouterr().err


def test_a_video_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    message = "'/nowhere.mp4' does not exist"
    assert corpus_nodes.main(["/nowhere.mp4"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
