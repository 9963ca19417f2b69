"""A cluster of two nodes on this machine, one of which is killed at work, and one that dedos-label begins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus_helpers import film, png
from corpus_nodes import NOTICED_SOON, STORE_BYTES
from ray.cluster_utils import Cluster

from dedos_deploy.cli.label import main
from dedos_deploy.corpus import open_corpus

FRAMES = 1500
SMALL = {"object_store_memory": STORE_BYTES, "include_log_monitor": False}

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", **NOTICED_SOON}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with room for one worker, to which nodes can be added."""
    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **SMALL}
    )
    yield found
    found.shutdown()


def started(bundle: str, output: Path, frames: int, *words: str) -> subprocess.Popen[str]:
    video = film(output.with_suffix(".avi"), frames)
    command = [sys.executable, "-m", "dedos_deploy.cli.label", str(video), "--bundle", bundle]
    command += ["--classes", "blue,green", "--output", str(output), "--shard-frames", "10"]
    return subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_parts(output: Path, run: subprocess.Popen[str], count: int) -> None:
    until_s = time.monotonic() + 90
    while len(list(output.glob("labels/part-*.parquet"))) < count:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.005)


def labellers() -> list[str]:
    """Return the actors that run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [line for line in [entry.read_text()] if "ray::Labeller" in line]
        except OSError:
            continue
    return found


def test_a_node_that_is_killed_at_work_costs_no_frame(
    cluster: Cluster, bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = cluster.add_node(num_cpus=2, **SMALL)
    output = tmp_path / "out"
    run = started(bundle, output, FRAMES, "--ray", cluster.address, "--json")
    wait_for_parts(output, run, 3)
    while sum("Labeller.label" in name for name in labellers()) < 2:
        assert run.poll() is None
    cluster.remove_node(node, allow_graceful=False)
    said, warned = run.communicate(timeout=120)
    assert run.returncode == 0, warned
    assert json.loads(said)["shards_left"] == 0
    assert "a process or its machine was lost at shard" in warned
    assert [row.frame for row in open_corpus(output)] == list(range(FRAMES))
    assert main(["verify", str(output), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["frames"], found["missing"], found["duplicates"]) == (FRAMES, 0, 0)


def test_ctrl_c_ends_the_actors(cluster: Cluster, bundle: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run = started(bundle, output, 5000, "--ray", cluster.address, "--workers", "1", "--quiet")
    wait_for_parts(output, run, 1)
    assert labellers()
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130 and "the same command goes on from there" in said, said
    until_s = time.monotonic() + 20
    while labellers() and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not labellers()


def test_a_cluster_of_this_machine_is_begun_and_ended(bundle: str, tmp_path: Path) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    for number in range(6):
        (pictures / f"{number}.png").write_bytes(png(number)[: 40 if number == 2 else None])
    words = [str(pictures), "--classes", "blue", "--bundle", bundle, "--output", str(output)]
    assert main([*words, "--ray", "local", "--workers", "1", "--quiet"]) == 3
    assert [Path(row.source).stem for row in open_corpus(output)] == ["0", "1", "3", "4", "5"]
    errors = (output / "errors.jsonl").read_text()
    assert "2.png" in errors and errors.count("\n") == 1
    assert not labellers()
