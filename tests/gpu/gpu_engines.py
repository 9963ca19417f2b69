"""Engines on a fake GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fake_cuda import FakeCuda
from fake_tensorrt import fake_module, serialized

from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.flavours import TENSORRT, TENSORRT_RTX
from dedos_deploy.runtime.gpu.tensorrt_engine import TensorRtEngine
from dedos_deploy.spec import GraphSpec

SPEC = GraphSpec(height=32, width=48, text_width=8)


class Opened:
    """Engines on a fake GPU that are closed when the test ends."""

    def __init__(self, fake: FakeCuda) -> None:
        self.fake = fake
        self.engines: list[TensorRtEngine] = []
        self.module: Any = None
        self.faults: dict[str, Any] = {}

    def __call__(
        self,
        spec: GraphSpec = SPEC,
        *,
        rtx: bool = False,
        content: bytes | None = None,
        runtime_cache: Path | None = None,
        capturable: bool = True,
        on_progress: Progress = QUIET,
        **changes: Any,
    ) -> TensorRtEngine:
        self.module = fake_module(self.fake, rtx=rtx)
        self.module.capturable = capturable
        self.module.faults = self.faults
        engine = TensorRtEngine(
            self.module,
            TENSORRT_RTX if rtx else TENSORRT,
            serialized(spec, **changes) if content is None else content,
            spec,
            Cuda(self.fake.runtime, self.fake.driver),
            name="the engine",
            runtime_cache=runtime_cache,
            on_progress=on_progress,
        )
        self.engines.append(engine)
        return engine
