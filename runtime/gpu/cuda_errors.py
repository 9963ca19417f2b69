"""What CUDA's error codes mean for this process, and what its user can do about them.

Runtime (`cudaError_t`) and driver (`CUresult`) number them alike.
"""

from __future__ import annotations

from dedos_deploy.errors import EngineError
from dedos_deploy.installation import pip_install
from dedos_deploy.runtime.gpu.bindings import BINDINGS_EXTRA

LOST = {
    214: "ECCUncorrectable",
    220: "NvlinkUncorrectable",
    226: "Contained",
    700: "IllegalAddress",
    702: "LaunchTimeout",
    710: "Assert",
    714: "HardwareStackError",
    715: "IllegalInstruction",
    716: "MisalignedAddress",
    717: "InvalidAddressSpace",
    718: "InvalidPc",
    719: "LaunchFailure",
    721: "TensorMemoryLeak",
    810: "MpsClientTerminated",
    911: "ExternalDevice",
}
"""After one of these nothing works in this process any more. NVIDIA says so of all but the first two,
which are faults of the hardware: what a GPU computed since then is not to be trusted either."""

INSUFFICIENT_DRIVER = 35

UNUSABLE = {
    34: "a stub stands in for the driver's libcuda; take CUDA's folder stubs out of LD_LIBRARY_PATH",
    46: "other programs hold it alone or keep it busy; look at nvidia-smi",
    100: "none is seen; check nvidia-smi and the driver, and give a container --gpus all",
    802: "a service that it needs is not running, such as nvidia-fabricmanager; start it",
    803: "libraries and kernel module of its driver are of different versions; restart the machine",
    804: "this GPU does not take the libraries of the package cuda-compat; remove it",
}
"""Why there is no GPU to be had, by code, with what to do. INSUFFICIENT_DRIVER is another one, whose
remedy depends on the versions."""


def unusable(code: int, name: str) -> EngineError | None:
    """Return the error for a code of UNUSABLE, None for any other; name: as cudaErrorNoDevice."""
    return _unusable(name, UNUSABLE[code]) if code in UNUSABLE else None


def insufficient_driver(name: str, *, driver: int, bindings: int) -> EngineError:
    """Return the error for INSUFFICIENT_DRIVER; driver: the CUDA version that it serves, such as
    12060, 0 without one; bindings: the CUDA version that they were made for."""
    if driver == 0:
        return _unusable(name, "no driver is installed; install it, or give a container --gpus all")
    why = f"its driver serves CUDA {dotted(driver)}, these bindings need CUDA {dotted(bindings)}"
    if driver // 1000 == 12:
        return _unusable(name, f"{why}; run {pip_install(BINDINGS_EXTRA)}, or update the driver")
    return _unusable(name, f"{why}; update the driver")


def no_pinned_memory(purpose: str, mib: float) -> EngineError:
    """Return the error for page-locked memory of the host that cannot be had; mib: MiB of it."""
    return EngineError(
        f"this machine has no room for {purpose} in page-locked memory: {mib:.0f} MiB are needed; "
        "close other programs, let go of results that are done with, or give the container more memory"
    )


def dotted(version: int) -> str:
    """Return a CUDA version as people write it.

    >>> dotted(12060)
    '12.6'
    """
    return f"{version // 1000}.{version % 1000 // 10}"


def _unusable(name: str, why: str) -> EngineError:
    return EngineError(f"no usable NVIDIA GPU ({name}): {why}; or use the cpu engine")
