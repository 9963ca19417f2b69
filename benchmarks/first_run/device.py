"""What this machine has: a GPU, TensorRT's flavours, engines; and the doctor's findings."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from types import ModuleType

import numpy as np

from dedos_deploy.errors import DedosError
from dedos_deploy.runtime.doctor import examine
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.flavours import FLAVOURS, Flavour
from first_run.steps import Failed, Record, Skipped

DATA_CENTRE = (9, 10)
"""Majors of compute capabilities that TensorRT for RTX does not build for."""

CLOCKS = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"


def doctor(record: Record) -> None:
    """Note the doctor's findings, and what nvidia-smi says of clocks where it is there."""
    findings = examine()
    record.note(findings=[asdict(finding) for finding in findings])
    if (tool := shutil.which("nvidia-smi")) is not None:
        command = [tool, f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        record.note(clocks=clocks_in(done.stdout) or done.stderr.strip())
    bad = [finding.found for finding in findings if finding.verdict == "bad"]
    if bad:
        raise Failed("; ".join(bad))


def clocks_in(told: str) -> list[dict[str, str]]:
    """Return what nvidia-smi told of each GPU; nothing for lines that are no answer."""
    names = CLOCKS.split(",")
    rows = [line.split(", ") for line in told.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def gpu(record: Record) -> Cuda:
    """Return the GPU and note what it is. Raises Skipped."""
    try:
        cuda = Cuda.open()
    except (DedosError, ImportError) as error:
        raise Skipped(str(error)) from error
    device = cuda.device
    record.note(device=device.name, compute_capability=device.sm, driver=device.driver)
    return cuda


def needed(*modules: str) -> None:
    """Raise Skipped that names the modules which are not installed."""
    missing = []
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise Skipped(f"needs {', '.join(missing)}, not installed here")


def flavours(record: Record, cuda: Cuda) -> dict[str, tuple[Flavour, ModuleType]]:
    """Return TensorRT's flavours that work on this GPU, by target, and note why others do not."""
    found: dict[str, tuple[Flavour, ModuleType]] = {}
    missing: dict[str, str] = {}
    for target, flavour in FLAVOURS.items():
        if flavour.portable and cuda.device.capability[0] in DATA_CENTRE:
            missing[target] = "TensorRT for RTX does not build for data-centre GPUs"
            continue
        try:
            found[target] = flavour, flavour.load("the first run")
        except (DedosError, ImportError, OSError) as error:
            missing[target] = str(error)
    record.note(missing=missing)
    return found


def some_flavour(record: Record, cuda: Cuda) -> dict[str, tuple[Flavour, ModuleType]]:
    """Return `flavours`. Raises Skipped without any."""
    found = flavours(record, cuda)
    if not found:
        raise Skipped("; ".join(record.figures["missing"].values()))
    return found


def has_onnx_cuda() -> bool:
    """Return whether this ONNX Runtime has CUDA."""
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p99 and the largest of some times, with three digits."""
    points = {f"p{at}": float(np.percentile(values, at)) for at in (50, 90, 99)}
    return {name: round(value, 3) for name, value in (points | {"max": max(values)}).items()}
