"""The label map benchmark runs at any size and keeps its JSON keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "label_map.py"


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_reports_speed_agreement_and_memory() -> None:
    pytest.importorskip("torch")
    arguments = ["--slots", "20", "--cells", "32", "32", "--size", "270", "480"]
    finished = subprocess.run(
        [sys.executable, SCRIPT, *arguments, "--repeats=1", "--threads=1", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    report = json.loads(finished.stdout.splitlines()[-1])
    assert report["identical"] is True
    assert report["speedup"] > 0
    assert 0 <= report["extra_mb"] < 30
