"""benchmarks/int8.py compares labels first, then speed, memory and size, under keys that stay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy.export import ExportOptions, TrainedModel, export_bundle
from dedos_deploy.export.options import STORAGES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "int8.py"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def bundles(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One model with whole and with halved weights: same labels, different size."""
    folder = tmp_path_factory.mktemp("bundles")
    for storage in STORAGES:
        options = ExportOptions(storage=storage, frame_count=1)
        export_bundle(trained, folder / f"{storage}.dedos", options=options)
    return folder / "full.dedos", folder / "half.dedos"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_reports_agreement_speed_memory_and_size(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for index in range(2):
        picture = rng.integers(0, 255, (48, 64, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture)
    paths = [str(path) for path in bundles]
    options = ["--slots", "5", "--rounds", "3", "--threads", "1", "--compared", "2", "--json"]
    done = _run("--bundles", *paths, "--frames", str(tmp_path), *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    whole, half = bundles
    assert report["size_ratio"] == half.stat().st_size / whole.stat().st_size < 1
    assert report["agreement"] > 0.98
    assert report["memory_ratio"] == report["peak_mb"][1] / report["peak_mb"][0]
    assert report["speedup"] > 0 and report["slots"] == 5


def test_a_bundle_that_is_missing_is_one_sentence() -> None:
    done = _run("--bundles", "none.dedos", "none.dedos", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and "none.dedos" in done.stderr
