"""The CUDA kernels: the same as on the CPU, bit for bit, and how long labels take."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from label_map import random_scores, scene_scores
from numpy.typing import NDArray

from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.device_labeller import DeviceLabeller
from dedos_deploy.runtime.gpu.kernels_file import kernels_file
from dedos_deploy.runtime.labelling import HostLabeller
from first_run.device import gpu, needed, spread
from first_run.steps import Failed, Record, Skipped

TESTS = Path(__file__).parents[2] / "tests"
sys.path += [str(TESTS / name) for name in ("gpu", "runtime")]

SLOTS = 171
CELLS_HW = (161, 161)
FRAME_HW = (1080, 1920)
RUNS = 50


def kernels(record: Record) -> None:
    """Run the tests that are marked `gpu`: they compare every kernel with the CPU's, bit for bit."""
    gpu(record)
    _need_kernels()
    needed("pytest")
    run_tests(record, TESTS / "gpu")


def run_tests(record: Record, folder: Path) -> None:
    """Run pytest in this process and note its counts. Raises Failed with the names of what failed."""
    import pytest

    tally = Tally()
    # Without the project's own options, which want a plug-in.
    arguments = ["-q", "-m", "gpu", "-o", "addopts=", "-p", "no:cacheprovider", str(folder)]
    code = pytest.main(arguments, plugins=[tally])
    record.note(passed=tally.passed, failed=tally.failed, skipped=dict(tally.skipped))
    if code != 0 or tally.failed:
        raise Failed(f"pytest ended with {int(code)}; failed: {', '.join(tally.failed) or 'none'}")


class Tally:
    """A plug-in of pytest that counts."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []
        self.skipped: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.skipped:
            self.skipped[str(report.longrepr[-1])] += 1
        elif report.when == "call":
            self.passed += 1


def scores(record: Record) -> None:
    """Note the milliseconds of a label map on the device, for smooth and for noisy scores."""
    cuda = gpu(record)
    fatbin = _need_kernels()
    for name, make in (("smooth", scene_scores), ("noisy", random_scores)):
        whole = make(SLOTS, CELLS_HW)
        for dtype in (np.float32, np.float16):
            times = label_times(cuda, fatbin, whole.astype(dtype), FRAME_HW, runs=RUNS)
            record.note(**{f"{name}_{np.dtype(dtype).name}_ms": times})


def label_times(
    cuda: Cuda, fatbin: Path, scores: NDArray[Any], frame_hw: tuple[int, int], *, runs: int
) -> dict[str, dict[str, float]]:
    """Return milliseconds of `pre` and `post` of a frame. Raises Failed for labels unlike the CPU's."""
    from scores_engine import ScoresEngine, some_table

    rows, columns = scores.shape[1:]
    frame = np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), np.uint8)
    table = some_table(len(scores), len(scores))
    engine = ScoresEngine(cuda, scores, (4 * rows, 4 * columns))
    labeller = DeviceLabeller(engine, engine.cuda.kernels(fatbin.read_bytes()))
    wanted = HostLabeller(engine.spec, engine.infer, threads=2).label(frame, table)
    parts: dict[str, list[float]] = {"pre": [], "post": []}
    for _ in range(runs):
        found = labeller.label(frame, table)
        for part, values in parts.items():
            values.append(found.latency_ms[part])
    labeller.close()
    engine.close()
    if not np.array_equal(found.label_map, wanted.label_map):
        raise Failed(f"{np.mean(found.label_map != wanted.label_map):.2%} of labels differ")
    return {part: spread(values) for part, values in parts.items()}


def _need_kernels() -> Path:
    found = kernels_file()
    if found is None:
        raise Skipped("this installation has no CUDA kernels; install from source with nvcc")
    return found
