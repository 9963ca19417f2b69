"""The benchmark of flicker: labels change less when smoothed, its keys stay, and what measures nothing ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "flicker.py"
sys.path.append(str(SCRIPT.parent))

import flicker  # noqa: E402


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


def test_labels_flicker_less_when_smoothed() -> None:
    hall = "scene:hall?size=96x128&frames=3=floor,wall,door"
    few = ("--frames", "3", "--still", "3", "--rounds", "2")
    done = run("--clip", hall, *few, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    for name in ("still_change", "warped_disagreement"):
        assert 0 <= report[f"{name}_stable"] < report[name] < 0.5
    assert abs(report["miou_change"]) < 20 and abs(report["boundary_iou_change"]) < 20
    assert min(report["native_ms"], report["all_ms"], report["label_map_ms"]) > 0
    assert [clip["frames"] for clip in report["clips"].values()] == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "1"], "argument --frames: '1' is no whole number from 2 on"),
        (["--clip", "walk.mp4"], "names no words; write ADDRESS=WORD,WORD"),
        (["--clip", "/no/walk.mp4=floor"], "flicker: error: source '/no/walk.mp4' does not exist"),
        (["--labelled", "/no/folder", "--frames", "2"], "flicker: error: "),
        (["--clip", "scene:hall?frames=3&size=24x32=floor", "--skip", "2"], "fewer than two fr"),
    ],
)
def test_what_measures_nothing_is_refused(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode != 0 and said in done.stderr and "Traceback" not in done.stderr


def test_no_time_is_that_of_a_first_frame() -> None:
    """Which has nothing to move, and is done sooner."""
    scores = np.random.default_rng(0).random((flicker.SLOTS, 12, 16), np.float32)
    steps = flicker._steps(scores, np.full((48, 64, 3), 90, np.uint8))
    assert steps["all_ms"]() is not scores
