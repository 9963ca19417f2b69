"""Several processes give one process's result; a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Write, micro_config
from safetensors.torch import load_file
from tiny_diffusion import write_tiny_diffusion

from dedos_deploy import presets
from dedos_deploy.cli.train import main

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from dataclasses import replace
from conftest import micro_config
from dedos_deploy import presets
# Without the detail branch, whose BatchNorm keeps running statistics of each process's own images.
presets.PRESETS["micro"] = replace(micro_config(), detail_width=0)
from dedos_deploy.cli.train import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process computes as the programs do."""
    monkeypatch.setitem(presets.PRESETS, "micro", replace(micro_config(), detail_width=0))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    return path


def options(root: Path, output: Path, *more: str) -> list[str]:
    return ["--preset", "micro", "--data", str(root), "--output", str(output), "--steps", "4",
            "--batch", "4", "--workers", "0", "--device", "cpu", "--threads", "1", "--no-amp",
            "--micro-batch", "2", "--eval-minutes", "0", *more]  # fmt: skip


def run(command: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_equal_one(
    program: Path, one_thread: None, write_folder: Write, tmp_path: Path
) -> None:
    root = write_folder(items=8)
    diffusion = write_tiny_diffusion(tmp_path / "sd")
    more = ("--diffusion", str(diffusion), "--diffusion-size", "32x32", "--bank-drop", "0.4")
    assert main(options(root, tmp_path / "one", *more)) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", "2"]  # fmt: skip
    run([*launcher, str(program), *options(root, tmp_path / "two", *more)])
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


def test_a_killed_run_repeats_the_losses_of_one_that_was_not(
    program: Path, one_thread: None, write_folder: Write, tmp_path: Path
) -> None:
    root = write_folder()
    more = ("--save-steps", "10", "--steps", "60")
    assert main(options(root, tmp_path / "whole", *more)) == 0
    output = tmp_path / "killed"
    started = subprocess.Popen([sys.executable, str(program), *options(root, output, *more)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 120
    while not (output / "state.safetensors").exists():
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert main(options(root, output, *more, "--resume")) == 0
    whole, killed = (
        {line["step"]: line["loss"]
         for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines())}
        for folder in (tmp_path / "whole", output)
    )  # fmt: skip
    assert whole == killed and max(whole) == 60


def test_a_batch_that_cannot_be_shared_is_named(
    program: Path, write_folder: Write, tmp_path: Path
) -> None:
    from dedos_deploy.errors import BadInputError
    from dedos_deploy.training.settings import settings_for
    from dedos_deploy.training.setup import micro_batch_size

    chosen = settings_for("nano", (str(write_folder()),), batch=6)
    assert micro_batch_size(chosen, 1) == 6 and micro_batch_size(chosen, 3) == 2
    with pytest.raises(BadInputError, match="batch 6 cannot be shared by 4 processes"):
        micro_batch_size(chosen, 4)
