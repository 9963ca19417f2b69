"""The benchmark of libdedos runs, agrees with the Python runtime, and keeps its JSON keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bindings import onnx_runtime

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "libdedos.py"


def test_reports_agreement_speed_and_memory(prefix: Path) -> None:
    few = ["--count", "3", "--timed", "1", "--rounds", "1", "--classes", "road,qwzx|sky"]
    command = [sys.executable, str(SCRIPT), *few, "--prefix", str(prefix), "--json"]
    command += ["--libraries", str(onnx_runtime())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["identical"] is True and report["frames"] == 3
    assert report["speed_ratio"] > 0 and 0 < report["memory_ratio"] < 1
    assert report["libraries"] == {onnx_runtime().name: 1.0}
