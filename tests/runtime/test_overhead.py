"""The overhead benchmark proves agreement first and prints its stable keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "overhead.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_overhead_reports_agreement_throughput_and_memory(bundle_folder: Path) -> None:
    arguments = ["--bundle", str(bundle_folder), "--classes", "red,green,blue", "--json"]
    arguments += ["--frames", "2", "--rounds", "2", "--size", "60", "80", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["identical"] is True
    assert report["throughput_ratio"] > 0
    assert abs(report["extra_mb"] - (report["ours_peak_mb"] - report["bare_peak_mb"])) < 1e-6
    assert (report["slots"], report["frame_hw"]) == (3, [60, 80])
