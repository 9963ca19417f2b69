"""CUDA's compilers, where the tests find them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def _packaged(pattern: str) -> str | None:
    """Return a program that one of NVIDIA's packages brings."""
    found = (path for folder in sys.path for path in Path(folder).glob(f"nvidia/{pattern}"))
    return next(map(str, found), None)


# The packaged one first: it has its other programs beside it.
NVCC = _packaged("cu*/bin/nvcc") or shutil.which("nvcc")

PTXAS_12 = _packaged("cuda_nvcc/bin/ptxas")
"""The assembler of CUDA 12, of the package nvidia-cuda-nvcc-cu12, which has no nvcc."""
