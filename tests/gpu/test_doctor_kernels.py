"""What dedos-doctor says of the CUDA kernels: for which GPUs they are, and whether this one takes them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from fake_cuda import FakeCuda
from fake_driver import DriverStatus

from dedos_deploy.runtime import doctor
from dedos_deploy.runtime.findings import Finding, Machine
from dedos_deploy.runtime.gpu import cuda


def _fat_binary(*parts: tuple[int, tuple[int, int], int]) -> bytes:
    """A fat binary of empty parts: kind (1 PTX, 2 machine code), version of its format, architecture."""
    entries = b"".join(
        struct.pack("<HHIQIIHHI32x", kind, 0x101, 64, 0, 0, 0, *reversed(version), number)
        for kind, version, number in parts
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation whose kernels are for Orin and Thor."""
    file = tmp_path / "frame_kernels.fatbin"
    file.write_bytes(_fat_binary((1, (9, 0), 87), (2, (1, 8), 87), (2, (1, 8), 110)))
    monkeypatch.setattr("dedos_deploy.runtime.gpu.kernels_file.kernels_file", lambda: file)
    return file


IN_FILE = "for compute capability 8.7 11.0, any other from 8.7 on by PTX for drivers of CUDA 13.0"


def _kernels_finding() -> Finding:
    (finding,) = doctor.kernels(Machine())
    assert finding.topic == "cuda kernels"
    return finding


def test_kernels_say_for_which_gpus_they_are(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeCuda(devices=0)
    monkeypatch.setattr(cuda, "bindings", lambda: (fake.runtime, fake.driver))
    assert _kernels_finding() == Finding("cuda kernels", "ok", f"{IN_FILE}; not tried, see gpu")
    kernels.write_bytes(kernels.read_bytes()[:90])
    damaged = _kernels_finding()
    assert damaged.verdict == "bad" and "is damaged" in damaged.found
    assert damaged.advice == "install dedos-deploy again"


def test_kernels_are_loaded_on_the_gpu(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(capability=(11, 0))
    monkeypatch.setattr(cuda, "bindings", lambda: (fake.runtime, fake.driver))
    assert _kernels_finding() == Finding("cuda kernels", "ok", f"{IN_FILE}; loaded on Fake GPU")
    fake.faults["cuModuleLoadData"] = DriverStatus.CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    finding = _kernels_finding()
    assert finding.verdict == "bad" and finding.found.startswith(f"{IN_FILE}, but the CUDA kernels")
    assert "compute capability 11.0, and their PTX is newer than the driver" in finding.found
    assert "nvcc of CUDA 13.0 at most" in finding.advice and "on the CPU" in finding.advice
    assert fake.live == {}
