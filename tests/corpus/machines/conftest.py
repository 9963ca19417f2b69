"""Run by `test_machines_and_buckets.py` in the environment of `.ci/corpus`, which has no test of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

BUNDLE = "DEDOS_CASES_BUNDLE"


@pytest.fixture(scope="session")
def bundle() -> str:
    """The bundle that finds blue, green and red, in a millisecond."""
    return os.environ[BUNDLE]
