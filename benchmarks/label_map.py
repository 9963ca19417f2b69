"""Native label map against torch's interpolate and argmax: same labels, how much faster, what memory.

One run alternates the two on the same threads and takes medians of process CPU seconds, which other
programs on the machine disturb less than the clock. Memory is the growth of the peak resident set of
a process that runs only the native operation, inputs and outputs already in place.

    python benchmarks/label_map.py --threads 2 --json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy import _native
from dedos_deploy.bench.memory import memory_mb
from dedos_deploy.cli._options import typed
from dedos_deploy.options import whole_number

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    ids: NDArray[np.uint8] | NDArray[np.uint16]
    confidence: NDArray[np.uint8]
    counts: NDArray[np.uint64]


@dataclass(frozen=True)
class Timing:
    """Seconds of one run, by the clock and of all cores of this process."""

    wall_s: float
    cpu_s: float


def scene_scores(slots: int, size_hw: tuple[int, int], *, seed: int = 0) -> Scores:
    """Scores like a network's: a few large regions with their leader, soft edges, noise below."""
    import cv2

    generator = np.random.default_rng(seed)
    scores = np.empty((slots, *size_hw), np.float32)
    for slot in range(slots):
        # Features of 4 to 16 cells, as the coarse maps of a transformer have once enlarged.
        coarse = generator.standard_normal([max(2, side // (4 + slot % 13)) for side in size_hw])
        field = cv2.resize(coarse.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_CUBIC)
        noise = 0.05 * generator.standard_normal(size_hw, dtype=np.float32)
        scores[slot] = 1 / (1 + np.exp(3 - 2 * (field + noise)))
    return scores


def random_scores(slots: int, size_hw: tuple[int, int], *, seed: int = 0) -> Scores:
    """Every cell independent: nearly every slot competes for every pixel, the worst case."""
    return np.random.default_rng(seed).random((slots, *size_hw), dtype=np.float32)


def outputs_for(slots: int, size_hw: tuple[int, int]) -> Outputs:
    return Outputs(
        np.zeros(size_hw, np.uint8 if slots <= 254 else np.uint16),
        np.zeros(size_hw, np.uint8),
        np.zeros(slots + 1, np.uint64),
    )


def run_native(scores: Scores, outputs: Outputs, threads: int) -> None:
    slots = len(scores)
    thresholds = np.zeros(slots, np.float32)
    slot_ids = np.arange(slots, dtype=np.uint16)
    _native.label_map(
        scores, thresholds, slot_ids, outputs.ids, outputs.confidence, outputs.counts, threads
    )


def run_torch(scores: Scores, size_hw: tuple[int, int]) -> NDArray[np.int64]:
    import torch

    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(scores)[None], size=size_hw, mode="bilinear", align_corners=False
    )
    return enlarged[0].argmax(dim=0).numpy()


def run_curves(outputs: Outputs, curves: NDArray[np.uint8]) -> None:
    _native.read_curves(outputs.ids, curves, outputs.confidence)


def timed(work: Callable[[], object]) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def compare(
    scores: Scores, size_hw: tuple[int, int], *, threads: int, repeats: int
) -> dict[str, float | bool]:
    """Check that the labels agree, then time both in turn; milliseconds of CPU time and of the clock."""
    outputs = outputs_for(len(scores), size_hw)
    run_native(scores, outputs, threads)
    identical = bool((outputs.ids == run_torch(scores, size_hw)).all())
    curves = np.sort(np.random.default_rng(0).integers(0, 256, (len(scores) + 1, 256)), axis=1)
    curves = curves.astype(np.uint8)
    worth = curves[np.minimum(outputs.ids, len(scores)), outputs.confidence]
    run_curves(outputs, curves)
    identical = identical and bool((outputs.confidence == worth).all())
    native: list[Timing] = []
    read: list[Timing] = []
    reference: list[Timing] = []
    for _ in range(repeats):
        reference.append(timed(lambda: run_torch(scores, size_hw)))
        # As often as keeps the resolution of the CPU clock out of the result.
        native += [timed(lambda: run_native(scores, outputs, threads)) for _ in range(5)]
        read += [timed(lambda: run_curves(outputs, curves)) for _ in range(5)]
    native_ms = 1e3 * statistics.median(timing.cpu_s for timing in native)
    torch_ms = 1e3 * statistics.median(timing.cpu_s for timing in reference)
    native_wall_ms = 1e3 * statistics.median(timing.wall_s for timing in native)
    torch_wall_ms = 1e3 * statistics.median(timing.wall_s for timing in reference)
    return {
        "identical": identical,
        "speedup": torch_ms / native_ms,
        "speedup_wall": torch_wall_ms / native_wall_ms,
        "native_cpu_ms": native_ms,
        "torch_cpu_ms": torch_ms,
        "curves_cpu_ms": 1e3 * statistics.median(timing.cpu_s for timing in read),
        "native_wall_ms": native_wall_ms,
        "torch_wall_ms": torch_wall_ms,
    }


def print_memory(args: argparse.Namespace) -> None:
    """In a process of its own: print the megabytes that one call adds at its peak."""
    make = random_scores if args.worst else scene_scores
    scores = make(args.slots, tuple(args.cells))
    outputs = outputs_for(args.slots, tuple(args.size))
    for array in (outputs.ids, outputs.confidence, outputs.counts):
        array.fill(1)  # zeros are not resident until written
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory_mb("VmRSS")
    run_native(scores, outputs, args.threads)
    print(memory_mb("VmHWM") - before)


def measured_memory(args: argparse.Namespace, *, worst: bool) -> float:
    command = [sys.executable, __file__, "--memory-only", f"--threads={args.threads}"]
    command += ["--slots", str(args.slots), "--cells", *map(str, args.cells)]
    command += ["--size", *map(str, args.size), *(["--worst"] if worst else [])]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(finished.stdout)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--slots",
        type=typed(whole_number(1, 65535)),
        default=171,
        help="number of slots K (default: 171)",
    )
    parser.add_argument(
        "--cells", type=typed(whole_number()), nargs=2, default=[160, 160], metavar=("h", "w")
    )
    parser.add_argument(
        "--size", type=typed(whole_number()), nargs=2, default=[1080, 1920], metavar=("H", "W")
    )
    parser.add_argument(
        "--threads", type=typed(whole_number()), default=2, help="of both (default: 2)"
    )
    parser.add_argument(
        "--repeats", type=typed(whole_number()), default=5, help="torch runs timed (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worst", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.memory_only:
        print_memory(args)
        return 0
    import torch

    torch.set_num_threads(args.threads)
    cells_hw, size_hw = tuple(args.cells), tuple(args.size)
    report: dict[str, object] = {}
    for name, make in (("scene", scene_scores), ("random", random_scores)):
        repeats = args.repeats if name == "scene" else min(args.repeats, 3)
        scores = make(args.slots, cells_hw)
        result = compare(scores, size_hw, threads=args.threads, repeats=repeats)
        result["extra_mb"] = measured_memory(args, worst=name == "random")
        print(
            f"{name:>6}: {result['native_cpu_ms']:.1f} ms of CPU time against "
            f"{result['torch_cpu_ms']:.0f} ms, {result['speedup']:.0f}x faster "
            f"({result['speedup_wall']:.0f}x by the clock), labels "
            f"{'identical' if result['identical'] else 'DIFFER'}, "
            f"{result['curves_cpu_ms']:.1f} ms more with confidence curves, "
            f"{result['extra_mb']:.1f} MB of extra memory"
        )
        prefix = "" if name == "scene" else f"{name}_"
        report |= {prefix + key: value for key, value in result.items()}
    if args.json:
        report |= {
            "identical": report["identical"] and report["random_identical"],
            "slots": args.slots,
            "cells_hw": cells_hw,
            "size_hw": size_hw,
            "threads": args.threads,
            "torch": torch.__version__,
            "machine": platform.machine(),
        }
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
