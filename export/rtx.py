"""TensorRT for RTX: one engine with a static profile per slot bucket, built without a GPU.

The engine names the compute capabilities it may run on, and the device compiles the last step for
itself at first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from dedos_deploy.export.options import RTX_CAPABILITIES
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.gpu.build import BuildOptions, build_engine, capability
from dedos_deploy.runtime.gpu.engine_key import EngineKey
from dedos_deploy.runtime.gpu.flavours import TENSORRT_RTX
from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec


@dataclass(frozen=True)
class EngineFile:
    """A built engine: its key, where it lies, and its size in bytes."""

    key: EngineKey
    path: Path
    size: int


def build_rtx_engine(
    model_path: Path,
    folder: Path,
    *,
    spec: GraphSpec,
    precision: str,
    model_sha256: str,
    compute_capabilities: tuple[str, ...] = RTX_CAPABILITIES,
    on_progress: Progress = QUIET,
) -> EngineFile:
    """Build the engine of a typed ONNX graph, write it and its key to `folder`, and return it.

    on_progress: noted what is being done, many times a second.

    Raises MissingExtraError without tensorrt_rtx, BadInputError for a compute capability it does
    not know, EngineError with TensorRT's own words when the graph cannot be built.
    """
    trt = require_rtx(compute_capabilities)
    flavour = TENSORRT_RTX
    key = EngineKey(
        model_sha256, precision, flavour.name, trt.__version__, SLOT_BUCKETS, compute_capabilities
    )
    options = BuildOptions(capabilities=compute_capabilities)
    built = build_engine(trt, flavour, model_path, spec, options, on_progress=on_progress)
    path = folder / f"{key.name}.engine"
    path.write_bytes(built.engine)
    path.with_suffix(".json").write_text(key.to_json(), encoding="utf-8")
    return EngineFile(key, path, len(built.engine))


def require_rtx(compute_capabilities: tuple[str, ...] = RTX_CAPABILITIES) -> ModuleType:
    """Return the tensorrt_rtx module if it can build for `compute_capabilities`.

    Raises MissingExtraError naming the extra `rtx`, BadInputError for an unknown capability.
    """
    trt = TENSORRT_RTX.load("building an engine for --target rtx")
    for text in compute_capabilities:
        capability(trt, TENSORRT_RTX, text)
    return trt
