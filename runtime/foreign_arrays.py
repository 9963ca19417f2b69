"""Arrays of other libraries: whose memory can be read here, and whose lies on a GPU."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError

HOST_DEVICES = (1, 3)
"""DLPack's types of devices whose memory the CPU reads: plain, and page-locked by CUDA."""

CUDA_DEVICES = (2, 13)
"""Those that lie on an NVIDIA GPU: its own memory, and memory that CUDA moves by itself."""


class DlpackArray(Protocol):
    """An array that gives itself out by DLPack, as those of torch, CuPy, JAX and numpy."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


class CudaArray(Protocol):
    """An array that tells where it lies on a GPU, as those of CuPy, Numba, CV-CUDA and VPI."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


def is_array(given: object) -> bool:
    """Return whether something is an array: of numpy, or by one of the two protocols."""
    protocols = ("__dlpack__", "__cuda_array_interface__")
    return isinstance(given, np.ndarray) or any(hasattr(given, name) for name in protocols)


def host_array(given: Any) -> NDArray[Any] | None:
    """Return the array as numpy has it, without a copy, or None where it lies on a GPU.

    given: of numpy, or with `__dlpack__` or `__cuda_array_interface__`. Raises BadInputError for an
    array that neither numpy nor CUDA can read.
    """
    if isinstance(given, np.ndarray):
        return given
    if not hasattr(given, "__dlpack_device__"):
        return None
    device = int(given.__dlpack_device__()[0])
    if device in CUDA_DEVICES:
        return None
    if device not in HOST_DEVICES:
        raise BadInputError(
            f"a {type_name(given)} lies on a device that is neither the CPU nor an NVIDIA GPU "
            f"(type {device} of DLPack); copy it to the CPU"
        )
    try:
        return np.from_dlpack(given)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        # What a library says of its own tensor, such as torch of one that has a gradient.
        raise BadInputError(f"a {type_name(given)} cannot be read as it is: {error}") from error


def type_name(given: object) -> str:
    """Return the name of its type with that of its library, as `torch.Tensor`."""
    kind = type(given)
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"
