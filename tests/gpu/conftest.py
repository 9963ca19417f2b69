"""Stand-ins for CUDA and TensorRT, and an engine on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / name) for name in ("native", "runtime")]

from fake_cuda import FakeCuda  # noqa: E402
from gpu_engines import Opened  # noqa: E402
from pixel_host import PixelHost, compile_host  # noqa: E402


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
