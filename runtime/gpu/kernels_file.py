"""Where the CUDA kernels of this installation are."""

from __future__ import annotations

from pathlib import Path

KERNELS = "frame_kernels.fatbin"


def kernels_file() -> Path | None:
    """Return the fat binary with the CUDA kernels, None when it was built without nvcc."""
    from dedos_deploy import _native

    path = Path(_native.__file__).with_name(KERNELS)
    return path if path.is_file() else None
