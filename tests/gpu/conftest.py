"""Stand-ins for CUDA and TensorRT, and an engine on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[1] / name) for name in ("native", "runtime")]

from fake_cuda import FakeCuda  # noqa: E402
from gpu_engines import Opened  # noqa: E402
from pixel_host import PixelHost, compile_host  # noqa: E402

from dedos_deploy.runtime.gpu.cuda import Cuda  # noqa: E402


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> PixelHost:
    return compile_host(tmp_path_factory.mktemp("pixel_host"))


@pytest.fixture
def fake(host: PixelHost) -> FakeCuda:
    return FakeCuda(host)


@pytest.fixture
def opened(fake: FakeCuda) -> Iterator[Opened]:
    opener = Opened(fake)
    yield opener
    for engine in opener.engines:
        engine.close()


@pytest.fixture
def kernels(fake: FakeCuda) -> Any:
    return Cuda(fake.runtime, fake.driver).kernels(b"a fat binary")


@pytest.fixture
def kernels_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with a fat binary."""
    file = tmp_path / "kernels.fatbin"
    file.write_bytes(b"a fat binary")
    monkeypatch.setattr("dedos_deploy.runtime.gpu.tensorrt_engine.kernels_file", lambda: file)
    return file


@pytest.fixture(params=[False, True], ids=["discrete", "integrated"])
def either(host: PixelHost, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Engines on a GPU with memory of its own, and on one that shares the CPU's."""
    opener = Opened(FakeCuda(host, integrated=request.param))
    yield opener
    for engine in opener.engines:
        engine.close()
