"""The CUDA kernels of this installation: where they are, and for which GPUs and drivers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dedos_deploy.errors import EngineError

KERNELS = "frame_kernels.fatbin"

KERNEL_NAMES = (
    "dedos_resize",
    "dedos_leaders_f32",
    "dedos_leaders_f16",
    "dedos_rivals_f32",
    "dedos_rivals_f16",
    "dedos_labels_f32_u8",
    "dedos_labels_f32_u16",
    "dedos_labels_f16_u8",
    "dedos_labels_f16_u16",
)
"""Every kernel in the file; all are looked up when it is loaded, so that none is missing later."""

_REFUSALS = {
    "CUDA_ERROR_INVALID_IMAGE": "are damaged, or made by a CUDA that is newer than the driver's",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "were not built for compute capability {sm}",
    "CUDA_ERROR_INVALID_PTX": "were not built for compute capability {sm}, and the driver cannot "
    "compile their PTX",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "were not built for compute capability {sm}, and their PTX "
    "is newer than the driver",
    "CUDA_ERROR_JIT_COMPILER_NOT_FOUND": "were not built for compute capability {sm}, and the driver's "
    "compiler for their PTX, libnvidia-ptxjitcompiler, is missing",
    "CUDA_ERROR_JIT_COMPILATION_DISABLED": "were not built for compute capability {sm}, and "
    "CUDA_DISABLE_PTX_JIT forbids to compile their PTX",
    "CUDA_ERROR_NOT_FOUND": "are those of another version of this package",
}

_MAGIC = 0xBA55ED50
_FILE_HEADER = struct.Struct("<IHHQ")
_ENTRY_HEADER = struct.Struct("<HHIQIIHHI")
_PTX = 1
_CUBIN = 2


class KernelsError(EngineError):
    """The GPU or its driver does not take the CUDA kernels; everything else may work."""


def kernels_refused(error: str, *, sm: str, driver: str) -> KernelsError:
    """Return what to say when a driver does not load the kernels.

    error: the name of the driver's status; sm: the GPU's compute capability, as `8.7`; driver: the
    CUDA version that its driver supports, as `12.6`.
    """
    why = _REFUSALS.get(error, "were refused by the driver").format(sm=sm)
    return KernelsError(
        f"the CUDA kernels of this installation {why}; install from source on this machine with nvcc "
        f"of CUDA {driver} at most, or update the driver ({error})"
    )


def kernels_file() -> Path | None:
    """Return the fat binary with the CUDA kernels, None when it was built without nvcc."""
    from dedos_deploy import _native

    path = Path(_native.__file__).with_name(KERNELS)
    return path if path.is_file() else None


@dataclass(frozen=True)
class KernelsInFile:
    """What a fat binary holds."""

    compiled: tuple[str, ...]
    """Compute capabilities with machine code of their own, as `8.7`."""

    ptx: str | None
    """Compute capability from which on a driver can compile the kernels itself, None for none."""

    oldest_cuda: str | None
    """The oldest CUDA, as `12.0`, whose drivers compile that PTX, None without it."""

    def __str__(self) -> str:
        """Return it in a line.

        >>> print(KernelsInFile(("8.7", "11.0"), ptx="8.7", oldest_cuda="13.0"))
        for compute capability 8.7 11.0, any other from 8.7 on by PTX for drivers of CUDA 13.0
        """
        own = f"for compute capability {' '.join(self.compiled)}"
        others = f", any other from {self.ptx} on by PTX for drivers of CUDA {self.oldest_cuda}"
        return own + (others if self.ptx else "")


def kernels_in(image: bytes) -> KernelsInFile:
    """Return what a fat binary holds, by its headers. Raises EngineError for a damaged one.

    NVIDIA does not document them; what CUDA 12 and 13 write is the same.
    """
    compiled: list[str] = []
    ptx, cuda = None, None
    for kind, number, (major, minor) in _entries(image):
        capability = f"{number // 10}.{number % 10}"
        if kind == _CUBIN:
            compiled.append(capability)
        elif kind == _PTX:
            # PTX 8.0 came with CUDA 12.0, 9.0 with 13.0, and so on.
            ptx, cuda = capability, f"{major + 4}.{minor}"
    return KernelsInFile(tuple(compiled), ptx, cuda)


def _entries(image: bytes) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Yield kind, architecture such as 87, and version of its format, of each part of a fat binary."""
    try:
        magic, _, offset, size = _FILE_HEADER.unpack_from(image)
        end = offset + size
        is_whole = magic == _MAGIC and end <= len(image)
        while is_whole and offset < end:
            kind, _, header, content, _, _, minor, major, number = _ENTRY_HEADER.unpack_from(
                image, offset
            )
            yield kind, number, (major, minor)
            offset += header + content
            is_whole = header >= _ENTRY_HEADER.size
    except struct.error:
        is_whole = False
    if not is_whole:
        raise EngineError(f"{KERNELS} of this installation is damaged; install dedos-deploy again")
