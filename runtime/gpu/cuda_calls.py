"""Calls of cuda-python, checked: a code that is no success becomes an error that says what to do."""

from __future__ import annotations

from typing import Any

from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.gpu.bindings import CheckedApi
from dedos_deploy.runtime.gpu.cuda_errors import (
    INSUFFICIENT_DRIVER,
    LOST,
    insufficient_driver,
    unusable,
)


class DeviceLostError(EngineError):
    """The GPU stopped working for this process; only a new process can use it again."""


class CudaCalls:
    """cuda-python's `runtime` and `driver` modules."""

    def __init__(self, runtime: Any, driver: Any) -> None:
        self._runtime: Any = CheckedApi(runtime)
        self._driver: Any = CheckedApi(driver)

    @property
    def runtime(self) -> Any:
        return self._runtime

    @property
    def driver(self) -> Any:
        return self._driver

    def _call(self, result: tuple[Any, ...]) -> Any:
        error, *values = result
        if error == self._runtime.cudaError_t.cudaSuccess:
            return values[0] if len(values) == 1 else tuple(values)
        raise self._refused(error)

    def _refused(self, error: Any) -> EngineError:
        code, name = int(error), getattr(error, "name", str(error))
        if code == INSUFFICIENT_DRIVER:
            versions = self._runtime.cudaDriverGetVersion(), self._runtime.cudaRuntimeGetVersion()
            driver, made_for = (int(version or 0) for _, version in versions)
            return insufficient_driver(name, driver=driver, bindings=made_for)
        return final(code, name) or EngineError(
            f"CUDA refused a call ({name}: {self._words(error)}); run dedos-doctor"
        )

    def _words(self, error: Any) -> str:
        status, text = self._runtime.cudaGetErrorString(error)
        if status != self._runtime.cudaError_t.cudaSuccess or text is None:
            return "no description"
        return text.decode() if isinstance(text, bytes) else str(text)

    def _driver_call(self, result: tuple[Any, ...]) -> Any:
        error, *values = result
        if error == self._driver.CUresult.CUDA_SUCCESS:
            return values[0] if len(values) == 1 else tuple(values)
        name = getattr(error, "name", str(error))
        raise final(int(error), name) or EngineError(
            f"the CUDA driver refused a call ({name}); run dedos-doctor"
        )


def final(code: int, name: str) -> EngineError | None:
    """Return the error for a code after which nothing is to be had of the GPU, None for others."""
    if code in LOST:
        return DeviceLostError(
            f"the GPU stopped working for this process ({name}); start the program again, and "
            "if it comes back, look for Xid in the kernel's log"
        )
    return unusable(code, name)
