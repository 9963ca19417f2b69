"""benchmarks/batches.py compares every row with the image alone, and keeps its JSON keys."""

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
    fast = ["--rounds", "2", "--slots", "5", "--threads", "1", "--json"]
    assert batches.main([*map(str, arguments), *fast]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return report


def test_rows_are_compared_before_they_are_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, two = (write_tiny_bundle(tmp_path / str(size), batch=size) for size in (1, 2))
    report = run(capsys, alone, two)
    row = report["batches"]["2"]
    assert (row["agreement"], row["max_abs"]) == (1.0, 0.0)
    assert row["cpu_gain"] > 0 and row["wall_gain"] > 0 and report["cpu_s_per_image"] > 0
    assert (report["preset"], report["precision"], report["slots"]) == ("nano", "fp32", 5)


def test_rows_that_come_out_otherwise_are_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = write_tiny_bundle(tmp_path / "1")
    two = write_tiny_bundle(tmp_path / "2", model=image_graph(batch=2, gain=0.5), batch=2)
    assert run(capsys, alone, two)["batches"]["2"]["max_abs"] > 0.01


def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = write_tiny_bundle(tmp_path / "2", batch=2)
    assert batches.main([str(two), str(two)]) == 2
    assert "the first bundle has batch 2, not 1" in capsys.readouterr().err
    assert batches.main([str(two)]) == 2
    assert "two bundles" in capsys.readouterr().err
