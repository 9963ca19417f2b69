"""The first fifteen minutes on a GPU: what holds of the GPU path, and how fast it is, in one file.

Every step runs in a process of its own that is killed at its limit; its result, `ok`, `failed`, `skipped`
or `timed out` with the reason, its seconds and its figures, is in the output file before the next one
starts, so that a run which is killed leaves what it has found. Steps say what they need: without a
GPU all but the doctor are skipped, with the reason. Nothing is downloaded, and the models are made here.

    python benchmarks/first_run_on_gpu.py
    python benchmarks/first_run_on_gpu.py --minutes 5 --steps doctor,kernels --output h200.json

| step | needs beside a GPU |
|---|---|
| doctor | nothing, not even the GPU: what dedos-doctor finds, versions, clocks |
| kernels | pytest, a C++ compiler: the tests marked `gpu`, kernels bit for bit among them |
| scores | the CUDA kernels: milliseconds of the label map for smooth and for noisy scores |
| attention | TensorRT, onnx: toy attention with and without FP32 islands, fused or not, error |
| engines | onnx, tokenizers: a tiny bundle through every engine, the parity gate included |
| class_changes | the same: a thousand of them, and the memory before and after |
| first_use | TensorRT, torch: the longest frame when words go from 16 to 17 to 65, nano in FP16 |
| paper_l | TensorRT or ONNX Runtime with CUDA, torch: with a CUDA graph and without, and its layers |
| batches | TensorRT, torch: edge-b with 1, 2 and 4 images per run: time per image, rows against each alone |
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from first_run.attention import attention
from first_run.batches import batches
from first_run.device import doctor
from first_run.kernels import kernels, scores
from first_run.paper_l import paper_l
from first_run.steps import Step, not_run, run_step
from first_run.tiny_engines import class_changes, engines, first_use

from dedos_deploy.cli._options import typed
from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.files import write_atomically
from dedos_deploy.options import real_number
from dedos_deploy.threads import usable_cores

STEPS = (
    Step("doctor", 60, doctor),
    Step("kernels", 180, kernels),
    Step("scores", 60, scores),
    Step("attention", 150, attention),
    Step("engines", 150, engines),
    Step("class_changes", 60, class_changes),
    Step("first_use", 180, first_use),
    Step("paper_l", 420, paper_l),
    Step("batches", 300, batches),
)
LEAST_S = 1.0
"""A step is not begun with less time than that."""

INTERRUPTED = 130
PACKAGES = (
    "dedos-deploy numpy onnx onnxruntime onnxruntime-gpu torch tensorrt tensorrt-cu12 tensorrt-cu13 "
    "tensorrt-rtx-cu12 tensorrt-rtx-cu13 cuda-python cuda-bindings pytest"
).split()


class Results:
    """What is known so far, in one file."""

    def __init__(self, path: Path, minutes: float) -> None:
        self._path = path
        self.steps: dict[str, dict[str, Any]] = {}
        self._facts = {
            "machine": platform.machine(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": usable_cores(),
            "versions": _versions(),
            "minutes": minutes,
        }
        self._write()

    def add(self, name: str, result: dict[str, Any]) -> None:
        self.steps[name] = result
        self._write()

    def _write(self) -> None:
        content = json.dumps({**self._facts, "steps": self.steps}, indent=2) + "\n"
        write_atomically(self._path, content.encode())


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def run_all(steps: Sequence[Step], seconds: float, results: Results, scratch: Path) -> None:
    """Run steps one after the other until the time is over; the rest is skipped with that reason."""
    over_s = time.monotonic() + seconds
    models = scratch / "models"
    models.mkdir()
    for step in steps:
        left_s = over_s - time.monotonic()
        if left_s < min(LEAST_S, step.limit_s):
            result = not_run(f"no time left of {seconds / 60:g} minutes; run it with --steps")
        else:
            result = run_step(step, min(left_s, step.limit_s), scratch / step.name, models)
        results.add(step.name, result)
        print(f"{step.name}: {result['outcome']}, {result['seconds']:.1f} s {result['reason']}")


def build_parser(steps: Sequence[Step]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=typed(real_number(above=0)), default=14.0, help="in all (default: 14)"
    )
    parser.add_argument("--steps", default=",".join(step.name for step in steps), metavar="A,B")
    parser.add_argument("--output", type=Path, default=Path("first_run_on_gpu.json"))
    return parser


def chosen(steps: Sequence[Step], names: str) -> list[Step]:
    """Return the steps of a list, in the order of `steps`. Raises BadInputError."""
    known = [step.name for step in steps]
    for name in names.split(","):
        if name not in known:
            raise BadInputError(
                f"unknown step {name!r}{nearest(name, known)}; choose from {', '.join(known)}"
            )
    return [step for step in steps if step.name in names.split(",")]


def main(argv: Sequence[str] | None = None, steps: Sequence[Step] = STEPS) -> int:
    """Run, and return 0 if nothing failed and nothing took too long, else 1."""
    args = build_parser(steps).parse_args(argv)
    try:
        asked = chosen(steps, args.steps)
        if not args.output.parent.is_dir():
            raise BadInputError(f"the folder of --output {args.output} does not exist; create it")
    except BadInputError as error:
        print(f"first_run_on_gpu: error: {error}", file=sys.stderr)
        return 2
    results = Results(args.output, args.minutes)
    # What is killed by `timeout` ends its step, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="dedos-first-run-") as folder:
        try:
            run_all(asked, 60 * args.minutes, results, Path(folder))
        except KeyboardInterrupt:
            print(f"first_run_on_gpu: ended early; {args.output} has what was found")
            return INTERRUPTED
    bad = {"failed", "timed out"} & {result["outcome"] for result in results.steps.values()}
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
