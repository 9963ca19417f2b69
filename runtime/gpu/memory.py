"""How much memory building an engine takes, predicted before an 8 GB board finds out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dedos_deploy.errors import EngineError

MIB = 2**20
GIB = 2**30

FIXED = 1536 * MIB
"""CUDA, the library and its kernels."""

PER_MODEL_BYTE = 6.0
LOW_PER_MODEL_BYTE = 4.0
"""Parsed weights, their rearranged copies, the engine and its serialized form. Builds of INT8 graphs for
RTX took 0.8 GB for 100 MB and 1.2 GB for 122 MB besides the fixed part's CUDA context."""

WORKSPACE = 1024 * MIB
LOW_WORKSPACE = 256 * MIB


@dataclass(frozen=True)
class BuildMemory:
    """Bytes that a build takes, and that there are."""

    available: int | None
    """Bytes that can be had, None where nothing tells."""

    wanted: int
    """Bytes that a build is predicted to take."""

    least: int
    """Bytes that a build by the low-memory recipe is predicted to take."""

    @property
    def low(self) -> bool:
        """Whether to use the low-memory recipe: less workspace, fewer tactics."""
        return self.available is not None and self.available < self.wanted

    def workspace(self, *, shared: bool) -> int | None:
        """Return the most scratch memory that a layer may take while tactics are tried, None for
        TensorRT's own limit, which is all of the GPU's memory.

        shared: the GPU's memory is the CPU's, too. What is tried there would be taken from everything
        else that runs, so it gets half of what is left beside the build itself, and at least what was
        predicted for it.
        """
        if self.low:
            return LOW_WORKSPACE
        if not shared:
            return None
        spare = WORKSPACE if self.available is None else self.available - self.wanted + WORKSPACE
        return max(WORKSPACE, spare // 2)

    def check(self) -> None:
        """Raise EngineError when even the low-memory recipe will not fit."""
        if self.available is None or self.available >= self.least:
            return
        raise EngineError(
            f"building this engine takes about {self.least / GIB:.1f} GiB and "
            f"{self.available / GIB:.1f} GiB are free; close other programs and the desktop, add "
            "swap, or choose a smaller preset or --size"
        )


def graph_bytes(model: Path) -> int:
    """Return the bytes of the graph in `model` and of the weights beside it."""
    # Graphs for several frames per run have their weights where model.onnx has them.
    files = {model, *model.parent.glob(f"{model.name}.data"), *model.parent.glob("model.onnx.data")}
    return sum(path.stat().st_size for path in files)


def build_memory(model: Path, available: int | None) -> BuildMemory:
    """Predict the memory of a build of the graph in `model`, weights beside it counted."""
    size = graph_bytes(model)
    wanted = FIXED + WORKSPACE + int(PER_MODEL_BYTE * size)
    least = FIXED + LOW_WORKSPACE + int(LOW_PER_MODEL_BYTE * size)
    return BuildMemory(available, wanted, least)


def available_bytes(path: Path = Path("/proc/meminfo")) -> int | None:
    """Return the bytes of main memory that can be had without swapping, None where unknown.

    >>> available_bytes(Path("/nowhere")) is None
    True
    """
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
