"""benchmarks/cameras.py prints its stable keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cameras.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_reports_shares_latency_and_memory(bundle_folder: Path) -> None:
    arguments = ["--bundle", str(bundle_folder), "--classes", "red,green", "--cameras", "3"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--seconds", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert {
        "cameras",
        "fairness",
        "latency_p99_ms",
        "rate_change_with_dead_camera",
        "growth_mb",
    } <= set(report)
    assert report["cameras"] == 3 and 0.5 < report["fairness"] <= 1.0
    assert 60 < report["fps_labelled"] <= 95
