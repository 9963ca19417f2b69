"""The confusion benchmark runs at any size, agrees with its references, and keeps its JSON keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "confusion.py"


def test_reports_speed_and_agreement() -> None:
    finished = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            "--classes",
            "5",
            "300",
            "--size",
            "48",
            "64",
            "--repeats=1",
            "--json",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    report = json.loads(finished.stdout.splitlines()[-1])
    assert report["identical"] is True
    found = [(case["measure"], case["maps"], case["classes"]) for case in report["cases"]]
    kinds = [("confusion", "scene"), ("confusion", "random"), ("boundary", "scene")]
    assert found == [(*kind, classes) for classes in (5, 300) for kind in kinds]
    assert all(case["speedup"] > 0 for case in report["cases"])
