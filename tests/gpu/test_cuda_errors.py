"""CUDA's error codes against NVIDIA's own words on them, and what they and missing drivers become."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda, Status
from fake_driver import DriverStatus
from gpu_engines import SPEC, Opened

from dedos_deploy.errors import EngineError, MissingExtraError
from dedos_deploy.installation import pip_install
from dedos_deploy.runtime.gpu.bindings import bindings
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.cuda_calls import DeviceLostError
from dedos_deploy.runtime.gpu.cuda_errors import INSUFFICIENT_DRIVER, LOST, UNUSABLE

RELAUNCH = "To continue using CUDA, the process must be terminated and relaunched."
DOCUMENTED = {226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911}
"""Codes with that sentence in driver_types.h of CUDA 12.9.79 and 13.0.96; cuda.h has it of all but
710, of which it says that the context cannot be used any more."""

HARDWARE = {214, 220}

DRIVER_NAMES = {
    214: "CUDA_ERROR_ECC_UNCORRECTABLE",
    220: "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    226: "CUDA_ERROR_CONTAINED",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS",
    702: "CUDA_ERROR_LAUNCH_TIMEOUT",
    710: "CUDA_ERROR_ASSERT",
    714: "CUDA_ERROR_HARDWARE_STACK_ERROR",
    715: "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    716: "CUDA_ERROR_MISALIGNED_ADDRESS",
    717: "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    718: "CUDA_ERROR_INVALID_PC",
    719: "CUDA_ERROR_LAUNCH_FAILED",
    721: "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    810: "CUDA_ERROR_MPS_CLIENT_TERMINATED",
    911: "CUDA_ERROR_EXTERNAL_DEVICE",
}


def test_what_nvidia_calls_the_end_of_the_process_is_a_lost_device() -> None:
    assert set(LOST) == DOCUMENTED | HARDWARE
    assert LOST.keys().isdisjoint({*UNUSABLE, INSUFFICIENT_DRIVER})
    for header in _headers():
        assert _final_codes(header.read_text(errors="replace")) == DOCUMENTED, header


def test_codes_have_the_same_meaning_in_both_enumerations() -> None:
    runtime, driver = bindings()
    for code, name in LOST.items():
        assert runtime.cudaError_t(code).name == f"cudaError{name}"
        assert driver.CUresult(code).name == DRIVER_NAMES[code]
    for code in (*UNUSABLE, INSUFFICIENT_DRIVER):
        assert runtime.cudaError_t(code).name.startswith("cudaError")


def _headers() -> Iterator[Path]:
    """Headers of the CUDA runtime that NVIDIA's packages have brought along, if any have."""
    for distribution in importlib.metadata.distributions():
        if distribution.metadata["Name"].startswith("nvidia-cuda-runtime"):
            found = [file for file in distribution.files or () if file.name == "driver_types.h"]
            yield from (Path(str(file.locate())) for file in found)


def _final_codes(header: str) -> set[int]:
    """Codes of cudaError whose comment ends with the sentence."""
    entries = re.findall(r"/\*\*((?:(?!\*/).)*)\*/\s*cudaError\w+\s*=\s*(\d+)", header, re.DOTALL)
    words = [(" ".join(comment.replace("*", " ").split()), code) for comment, code in entries]
    return {int(code) for comment, code in words if comment.endswith(RELAUNCH)}


@pytest.mark.parametrize("status", ["cudaErrorLaunchTimeout", "cudaErrorInvalidAddressSpace"])
def test_such_a_device_is_lost(fake: FakeCuda, status: str) -> None:
    cuda = Cuda(fake.runtime, fake.driver)
    fake.sticky = Status[status]
    with pytest.raises(DeviceLostError, match=f"stopped working .*{status}.*start the program"):
        cuda.free_memory()


def test_the_driver_may_be_the_first_to_say_that_the_device_is_lost(fake: FakeCuda) -> None:
    cuda = Cuda(fake.runtime, fake.driver)
    fake.faults["cuModuleLoadData"] = DriverStatus.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceLostError, match="stopped working .*CUDA_ERROR_ILLEGAL_ADDRESS"):
        cuda.kernels(b"a fat binary")
    kernels, stream = cuda.kernels(b"a fat binary"), cuda.stream()
    fake.faults["cuLaunchKernel"] = DriverStatus.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceLostError, match="stopped working .*CUDA_ERROR_ILLEGAL_ADDRESS"):
        kernels.launch("dedos_resize", (1, 1), (1, 1), [], stream)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        ("cudaErrorDevicesUnavailable", "look at nvidia-smi"),
        ("cudaErrorSystemNotReady", "nvidia-fabricmanager"),
        ("cudaErrorNoDevice", "--gpus all"),
    ],
)
def test_a_gpu_that_cannot_be_had_now_is_not_called_lost(
    fake: FakeCuda, status: str, remedy: str
) -> None:
    fake.faults["cudaSetDevice"] = Status[status]
    with pytest.raises(
        EngineError, match=rf"no usable NVIDIA GPU \({status}\): .*{remedy}"
    ) as told:
        Cuda(fake.runtime, fake.driver)
    assert not isinstance(told.value, DeviceLostError)


@pytest.mark.parametrize(
    ("driver", "remedy"),
    [
        (0, "no driver is installed; install it"),
        (11080, "serves CUDA 11.8, these bindings need CUDA 13.4; update the driver"),
        (
            12060,
            f"serves CUDA 12.6, .* CUDA 13.4; run {re.escape(pip_install('cuda12'))}, or update",
        ),
    ],
)
def test_bindings_that_are_too_new_for_the_driver_name_those_that_fit(
    fake: FakeCuda, driver: int, remedy: str
) -> None:
    fake.driver_version = driver
    fake.faults["cudaGetDeviceCount"] = Status.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match=rf"\(cudaErrorInsufficientDriver\): .*{remedy}"):
        Cuda(fake.runtime, fake.driver)


RUNTIME_CALLS = (
    "cudaGetDeviceCount",
    "cudaSetDevice",
    "cudaGetDeviceProperties",
    "cudaDriverGetVersion",
    "cudaStreamCreateWithFlags",
    "cudaMalloc",
    "cudaHostAlloc",
    "cudaMemcpyAsync",
    "cudaStreamBeginCapture",
    "cudaGraphLaunch",
    "cudaStreamSynchronize",
)


@pytest.mark.parametrize("call", RUNTIME_CALLS)
def test_functions_that_the_driver_lacks_are_an_error_of_ours(
    opened: Opened, fake: FakeCuda, call: str
) -> None:
    """cuda-python raises there, from its first call on where there is no driver at all."""
    fake.faults[call] = RuntimeError("Failed to dlopen libcuda.so.1")
    remedy = re.escape(pip_install("cuda12"))
    try:
        engine = opened()
        engine.infer(_inputs())
        # A graph that cannot be captured is no reason to stop.
        assert engine.graphs[16].startswith("launched one by one") and call in engine.graphs[16]
    except EngineError as error:
        assert re.search(
            rf"GPU \({call}: Failed to dlopen.*driver is missing.*{remedy}", str(error)
        )
    for engine in opened.engines:
        engine.close()
    assert call not in fake.faults and fake.live == {}


def test_bindings_without_a_driver_function_for_kernels(fake: FakeCuda) -> None:
    fake.faults["cuModuleLoadData"] = RuntimeError('Function "cuModuleLoadData" not found')
    with pytest.raises(EngineError, match=r"GPU \(cuModuleLoadData: Function .* not found\)"):
        Cuda(fake.runtime, fake.driver).kernels(b"a fat binary")


def test_bindings_that_are_too_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = re.escape(pip_install("cuda12"))
    old = ModuleType("cuda.bindings")
    old.__version__ = "12.8.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings", old)
    with pytest.raises(EngineError, match=rf"12\.8\.0 is installed and 12\.9 or .*run: {remedy}"):
        bindings()


@pytest.mark.parametrize("installed", ["12.6.0", None])
def test_a_cuda_python_without_bindings_is_told_from_none(
    monkeypatch: pytest.MonkeyPatch, installed: str | None
) -> None:
    def version(name: str) -> str:
        assert name == "cuda-python"
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    # As for an import of what is not there.
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setattr(importlib.metadata, "version", version)
    kind, words = (
        (MissingExtraError, "needs the package 'cuda', which is not installed")
        if installed is None
        else (EngineError, r"cuda-python 12\.6\.0 is installed and 12\.9 or newer is needed")
    )
    with pytest.raises(kind, match=f"{words}; run: {re.escape(pip_install('cuda12'))}"):
        bindings()


def test_bindings_that_cannot_be_imported_are_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", ModuleType("cuda.bindings"))
    remedy = re.escape(pip_install("cuda12"))
    with pytest.raises(EngineError, match=rf"cannot be imported .*__version__.*run: {remedy}"):
        bindings()


# Waiting


@pytest.mark.parametrize("integrated", [False, True])
def test_no_core_spins_where_gpu_and_cpu_share_a_chip(
    opened: Opened, fake: FakeCuda, integrated: bool
) -> None:
    fake.integrated = integrated
    engine = opened()
    for _ in range(2):
        engine.infer(_inputs())
    assert (fake.calls["cudaStreamSynchronize"] == 0) is integrated
    assert (fake.calls["cudaEventSynchronize"] > 0) is integrated
    assert set(fake.events) == (fake.sleepers if integrated else set())
    engine.close()
    assert fake.live == {}


def _inputs() -> dict[str, Any]:
    image = np.zeros((1, SPEC.height, SPEC.width, 3), np.uint8)
    text = np.eye(3, SPEC.text_width, dtype=np.float32)
    return {"image": image, "text": text, "valid": np.ones(3, np.float32)}
