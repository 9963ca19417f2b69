"""The benchmark of a planner's questions proves agreement first and prints its stable keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "planner.py"


def test_every_answer_agrees_and_is_timed() -> None:
    arguments = ["--size", "97x130", "--rounds", "2", "--json"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["agreed"], report["frame_hw"]) == (True, [97, 130])
    assert set(report["ms"]) == set(
        "mask regions polygons free_space project_ground resized painted".split()
    )
    assert all(0 < ms <= report["ms"][name] for name, ms in report["fastest_ms"].items())
    assert set(report["fastest_ms"]) == set(report["ms"])


def test_a_size_that_measures_nothing_is_refused() -> None:
    given = [sys.executable, str(SCRIPT), "--size", "7x64"]
    done = subprocess.run(given, capture_output=True, text=True)
    assert done.returncode == 2 and "--size from 8x8 on is needed" in done.stderr


@pytest.mark.parametrize("name", ["planner", "dense_heads", "cameras"])
def test_a_size_that_is_none_is_told_how_to_write_one(name: str) -> None:
    script = SCRIPT.with_name(f"{name}.py")
    done = subprocess.run(
        [sys.executable, str(script), "--size", "4x"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "'4x' is not a size; write HEIGHTxWIDTH, as 240x320" in done.stderr
