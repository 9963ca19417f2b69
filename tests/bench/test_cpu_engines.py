"""benchmarks/cpu_engines.py: engines beside ONNX Runtime, labels before time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS.parent / "benchmarks"), str(TESTS / "runtime")]

pytest.importorskip("openvino", reason="needs pip install 'dedos-deploy[openvino]'")

import cpu_engines  # noqa: E402
from tiny_bundle import write_tiny_bundle  # noqa: E402

FAST = ["--slots", "3", "--rounds", "1", "--compared", "1", "--threads", "1", "--json"]


def test_scores_in_half_are_compared_and_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As bundles for GPUs give them, in FP16."""
    bundle = write_tiny_bundle(tmp_path / "b", target="rtx", half=True)
    assert cpu_engines.main(["--bundles", str(bundle), *FAST]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["slots"] == 3 and row["engines"]["onnxruntime"]["agreement"] == 1
    assert row["engines"]["openvino fp32"]["agreement"] > 0.99
    assert min(engine["cpu_ms"] for engine in row["engines"].values()) > 0
