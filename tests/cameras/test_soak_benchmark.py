"""benchmarks/soak.py finds what is wrong, and nothing where nothing is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from camera_fakes import SleepyLabeller

from dedos_deploy.runtime import Frame

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_a_short_soak_leaves_nothing_behind() -> None:
    arguments = ["--frames", "3000", "--changes", "100", "--losses", "20", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["frames"], report["mistakes"]) == (3000, 0)
    assert report["class_changes"] >= 90 and report["source_losses"] >= 15
    assert (report["threads_left"], report["descriptors_left"]) == (0, 0)
    assert set(report["stop_s"]) == {"nothing", "source", "sink", "both"}


def test_it_notices_another_picture_and_other_words(
    benchmark_script: Callable[[str], ModuleType],
) -> None:
    soak = benchmark_script("soak")
    parser = soak.build_parser()
    run = soak.Soak(parser.parse_args([]))
    run.words = [{1: ("another",)}]
    picture = np.zeros((48, 96, 3), np.uint8)
    result = SleepyLabeller().segment(picture)
    run.check("0", Frame(picture, 5, 0.0, "test", "5"), result)
    assert len(run.mistakes) == 2
    assert "frame 5 is another picture" in run.mistakes[0]
    assert "{'a'} under version 1" in run.mistakes[1]
