"""CUDA's Python bindings: found, new enough, and called so that what they raise is an error of ours."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

from dedos_deploy.borders import first_line, foreign
from dedos_deploy.errors import EngineError, MissingExtraError, require
from dedos_deploy.installation import pip_install
from dedos_deploy.runtime.gpu.flavours import version_of

OLDEST_BINDINGS = (12, 9)
"""Older ones raise where the driver is missing, and 12.6.0 has no `cuda.bindings` at all."""

BINDINGS_EXTRA = "cuda12"
"""Brings bindings that every driver from CUDA 12 on serves, newer ones included."""


def bindings() -> tuple[ModuleType, ModuleType]:
    """Return cuda-python's runtime and driver modules.

    Raises MissingExtraError, or EngineError for a version before OLDEST_BINDINGS and for one that
    cannot be imported.
    """
    with foreign(_unimportable, reason=first_line):
        try:
            package = _required("cuda.bindings")
        except MissingExtraError as error:
            with suppress(importlib.metadata.PackageNotFoundError):
                raise _too_old(importlib.metadata.version("cuda-python")) from error
            raise
        if version_of(package) < OLDEST_BINDINGS:
            raise _too_old(package.__version__)
        return _required("cuda.bindings.runtime"), _required("cuda.bindings.driver")


def _required(module: str) -> ModuleType:
    return require(module, extra=BINDINGS_EXTRA, purpose="running on an NVIDIA GPU")


def _unimportable(why: str) -> EngineError:
    return EngineError(
        f"cuda-python cannot be imported ({why}); run: {pip_install(BINDINGS_EXTRA)}"
    )


def _too_old(version: str) -> EngineError:
    return EngineError(
        f"cuda-python {version} is installed and {'.'.join(map(str, OLDEST_BINDINGS))} or newer is "
        f"needed; run: {pip_install(BINDINGS_EXTRA)}"
    )


class CheckedApi:
    """A module of cuda-python, each of whose functions raises EngineError where the driver lacks it.

    They answer with error codes, but raise RuntimeError where the driver is not installed, or is too
    old to have a function that the bindings know.
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if callable(value) and not isinstance(value, type):
            value = _checked(name, value)
        # Found in place of this method from now on.
        setattr(self, name, value)
        return value


def _checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as error:
            raise EngineError(
                f"no usable NVIDIA GPU ({name}: {first_line(error)}): the driver is missing, or older "
                f"than these CUDA bindings; install or update it, run {pip_install(BINDINGS_EXTRA)}, "
                "or use the cpu engine"
            ) from error

    return call
