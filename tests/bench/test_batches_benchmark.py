"""benchmarks/batches.py compares rows with frames alone, runs the real flow, and keeps its JSON keys."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS.parent / "benchmarks"), str(TESTS / "runtime")]

import batches  # noqa: E402
from tiny_bundle import image_graph, write_tiny_bundle  # noqa: E402


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    fast = ["--rounds", "2", "--frames", "6", "--threads", "1", "--json"]
    assert batches.main([*map(str, arguments), *fast]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return report


def test_rows_are_compared_before_cameras_are_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(capsys, write_tiny_bundle(tmp_path / "held", batches=(2, 4)), "--cameras", 4)
    assert list(report["batches"]) == ["2", "4"]
    for batch, row in report["batches"].items():
        assert (row["agreement"], row["confidence"]) == (1.0, 0.0)
        assert row["cpu_gain"] > 0 and row["wall_gain"] > 0 and report["cpu_s_per_frame"] > 0
        # The last frames of cameras may find no other.
        assert 1 < row["frames_per_run"] <= int(batch)
    assert (report["preset"], report["precision"], report["cameras"]) == ("nano", "fp32", 4)


def test_rows_that_come_out_otherwise_are_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"model.batch2.onnx": image_graph(batch=2, gain=0.5)}
    report = run(capsys, write_tiny_bundle(tmp_path / "wrong", files=wrong), "--batch", 2)
    assert report["batches"]["2"]["confidence"] > 0.01


def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = str(write_tiny_bundle(tmp_path / "alone"))
    for arguments, said in (
        ([alone], "nothing to compare: the bundle holds graphs for 1 per run"),
        ([alone, "--batch", "2"], "no graph for 2 frames per run, only for 1"),
    ):
        assert batches.main(arguments) == 2
        assert said in capsys.readouterr().err
