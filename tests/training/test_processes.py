"""Several processes give one process's result; a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from micro import Write
from micro_program import program_config, stand_in
from safetensors import safe_open
from safetensors.torch import load_file

from dedos_deploy import presets
from dedos_deploy.cli.train import main
from dedos_deploy.training import setup

PROGRAM = str(Path(__file__).with_name("micro_program.py"))
LAUNCHER = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
]


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process computes as the programs do."""
    monkeypatch.setitem(presets.PRESETS, "micro", program_config())
    monkeypatch.setattr(setup, "load_diffusion", stand_in)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def options(root: Path, output: Path, *more: str) -> list[str]:
    return [
        "--preset",
        "micro",
        "--data",
        str(root),
        "--output",
        str(output),
        "--steps",
        "4",
        "--batch",
        "4",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--no-amp",
        "--micro-batch",
        "2",
        "--eval-minutes",
        "0",
        *more,
    ]


def run(command: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_equal_one(one_thread: None, write_folder: Write, tmp_path: Path) -> None:
    root = write_folder(items=8)
    more = ("--diffusion", "stand-in", "--bank-drop", "0.4")
    assert main(options(root, tmp_path / "one", *more)) == 0
    run([*LAUNCHER, PROGRAM, *options(root, tmp_path / "two", *more)])
    expected = load_file(tmp_path / "one" / "state.safetensors")
    found = load_file(tmp_path / "two" / "state.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.allclose(value.double(), found[name].double(), rtol=1e-4, atol=1e-6), name
    losses = []
    for name in ("one", "two"):
        line = (tmp_path / name / "log.jsonl").read_text().splitlines()[-1]
        losses.append(json.loads(line)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("mask_map", ["gate", "random"])
def test_a_smaller_micro_batch_gives_the_same_steps(
    one_thread: None, write_folder: Write, tmp_path: Path, mask_map: str
) -> None:
    root, losses = write_folder(), []
    more = ("--diffusion", "stand-in", "--bank-drop", "0.4", "--mask-map", mask_map)
    for micro in ("4", "1"):
        output = tmp_path / micro
        assert main(options(root, output, *more, "--steps", "2", "--micro-batch", micro)) == 0
        # Half of the run as it was cut before, and half cut otherwise.
        again = ("--steps", "4", "--resume", "--micro-batch", "2")
        assert main(options(root, output, *more, *again)) == 0
        lines = (output / "log.jsonl").read_text().splitlines()
        losses.append([line["loss"] for line in map(json.loads, lines) if "loss" in line])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_killed_run_repeats_the_losses_of_one_that_was_not(
    one_thread: None, write_folder: Write, tmp_path: Path
) -> None:
    root = write_folder()
    more = ("--save-steps", "10", "--steps", "30")
    assert main(options(root, tmp_path / "whole", *more)) == 0
    output = tmp_path / "killed"
    started = subprocess.Popen(
        [sys.executable, PROGRAM, *options(root, output, *more)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (output / "state.safetensors").exists():
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert main(options(root, output, *more, "--resume")) == 0
    whole, killed = (
        {
            line["step"]: line["loss"]
            for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        }
        for folder in (tmp_path / "whole", output)
    )
    assert whole == killed and max(whole) == 30


@pytest.mark.parametrize("starter", [[sys.executable], LAUNCHER], ids=["alone", "torchrun"])
def test_sigterm_to_all_processes_at_once_keeps_the_run(
    one_thread: None, write_folder: Write, tmp_path: Path, starter: list[str]
) -> None:
    root, output = write_folder(), tmp_path / "run"
    more = ("--save-steps", "1", "--steps", "100000", "--workers", "2")
    started = subprocess.Popen(
        [*starter, PROGRAM, *options(root, output, *more)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not (output / "checkpoint.safetensors").exists():
            assert time.monotonic() < deadline and started.poll() is None
            time.sleep(0.01)
        # As Slurm does it: the workers that load images and torchrun itself get it, too.
        os.killpg(started.pid, signal.SIGTERM)
        os.killpg(started.pid, signal.SIGTERM)
        _, err = started.communicate(timeout=60)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    told = re.findall(r"dedos-train: interrupted after step (\d+); .*go on with --resume\n", err)
    assert told and len(set(told)) == 1, err[-3000:]
    assert "DataLoader" not in err and "twice" not in err
    if starter == [sys.executable]:
        assert started.returncode == 130 and "Traceback" not in err
    reached = int(told[0])
    assert main(options(root, output, "--steps", str(reached + 1), "--resume")) == 0
    with safe_open(output / "state.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["record"])["step"] == reached + 1


def test_a_batch_that_cannot_be_shared_is_named(write_folder: Write, tmp_path: Path) -> None:
    from dedos_deploy.errors import BadInputError
    from dedos_deploy.training.settings import settings_for
    from dedos_deploy.training.setup import micro_batch_size

    chosen = settings_for("nano", (str(write_folder()),), batch=6)
    assert micro_batch_size(chosen, 1) == 6 and micro_batch_size(chosen, 3) == 2
    with pytest.raises(BadInputError, match="batch 6 cannot be shared by 4 processes"):
        micro_batch_size(chosen, 4)
