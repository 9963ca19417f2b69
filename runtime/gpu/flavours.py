"""TensorRT's two flavours, and everything in which their versions differ, in one place.

| | `tensorrt` | `tensorrt_rtx` |
|---|---|---|
| engine runs on | the GPU model it was built on | every GPU of the capabilities it names |
| last compilation | when it is built | on the device, at first use; kept in a runtime cache |
| strong typing | a flag until 10.x, always on from 11.0 | a flag, as in 10.x |
| CUDA graphs | captured by us from the stream | likewise, where its context says that it can be |
| timing cache | keeps measured tactics between builds | nothing is measured |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

from dedos_deploy.borders import first_line, foreign
from dedos_deploy.errors import EngineError, require
from dedos_deploy.runtime.gpu import vendor

Version = tuple[int, ...]


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries."""

    name: str
    """The library's name in an engine's key."""

    target: str
    """Target of the bundles that the library runs."""

    module: str
    """Python module to import."""

    extra: str
    """Extra of this package that installs the library."""

    oldest: Version
    """First version that is supported."""

    before: Version
    """First version that is not supported any more."""

    portable: bool
    """One engine for several GPU generations, which need not be present when it is built."""

    def load(self, purpose: str) -> ModuleType:
        """Return the module. Raises MissingExtraError, or EngineError for an unsupported version and
        for one that cannot be imported."""
        with foreign(self._unimportable, reason=first_line):
            trt = require(self.module, extra=self.extra, purpose=purpose)
            found = version_of(trt)
        if not self.oldest <= found < self.before:
            raise EngineError(
                f"{self.module} {trt.__version__} is installed; versions from "
                f"{_dotted(self.oldest)} to before {_dotted(self.before)} are supported"
            )
        return trt

    def _unimportable(self, why: str) -> EngineError:
        return EngineError(
            f"{self.module} is there and cannot be imported ({why}); install it again, and see that the "
            "libraries of NVIDIA that it names are there, too"
        )


TENSORRT = Flavour("tensorrt", "trt", "tensorrt", "trt", (10, 3), (12,), portable=False)
TENSORRT_RTX = Flavour("tensorrt-rtx", "rtx", "tensorrt_rtx", "rtx", (1, 4), (2,), portable=True)
FLAVOURS = {flavour.target: flavour for flavour in (TENSORRT, TENSORRT_RTX)}


def version_of(trt: ModuleType) -> Version:
    """Return the version as numbers, such as (10, 3, 0)."""
    parts = []
    for part in str(trt.__version__).split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


@dataclass(frozen=True)
class KnownBad:
    """Versions that are known to compute something wrong, and what to do about it."""

    flavour: str
    since: Version
    """First version that it concerns."""

    before: Version
    """First version that it does not concern any more."""

    what: str
    workaround: str
    precisions: tuple[str, ...] = ()
    """Of the graphs that it concerns, empty for all."""

    batched: bool = False
    """Only with more than one image per run."""

    integrated: bool | None = None
    """Only on Jetson, None for any GPU."""

    capabilities: tuple[str, ...] = ()
    """Compute capabilities of the GPUs that it concerns, empty for all."""


KNOWN_BAD = (
    KnownBad(
        "tensorrt",
        (10, 3),
        (10, 4),
        "vision transformers may come out wrong (NVIDIA/TensorRT #4723, #4419)",
        "upgrade JetPack or TensorRT; until then the parity check on this device decides, and "
        "--engine cpu is right",
    ),
    KnownBad(
        "tensorrt",
        (10, 11),
        (10, 12),
        "images after the first of a batch may come out wrong (NVIDIA/TensorRT #4853)",
        "run without --batch",
        batched=True,
    ),
    KnownBad(
        "tensorrt",
        (11, 1),
        (11, 2),
        "images after the first of a batch may come out wrong (NVIDIA/TensorRT #4853)",
        "run without --batch",
        batched=True,
    ),
    # Reported of 10.16, and of no version known to be free of it; 10.8 is the first for these GPUs.
    # Of 10.14 and 11.1 a wrong speech encoder is reported there, in every precision (#4822).
    KnownBad(
        "tensorrt",
        (10, 8),
        (12,),
        "fused attention in FP16 may come out wrong on compute capability 12.0, such as GeForce RTX 50 "
        "(NVIDIA/TensorRT #4837)",
        "the parity check on this device decides; where it refuses, export with --precision fp32 or "
        "use --engine cpu",
        precisions=("fp16", "int8"),
        capabilities=("12.0",),
    ),
)
"""Graphs of this package already avoid GridSample (NVIDIA/TensorRT #4813), NonZero
(TensorRT-RTX #36), split q, k and v (TensorRT-Edge-LLM #151) and masks of -inf."""


def known_problems(
    flavour: Flavour,
    version: Version,
    *,
    precision: str,
    batch: int,
    integrated: bool,
    capability: str | None,
) -> list[KnownBad]:
    """Return the rows of KNOWN_BAD that concern an engine on a GPU of a compute capability such as
    `8.9`, None without a GPU."""
    return [
        row
        for row in KNOWN_BAD
        if row.flavour == flavour.name
        and row.since <= version < row.before
        and (not row.precisions or precision in row.precisions)
        and (not row.batched or batch > 1)
        and row.integrated in (None, integrated)
        and (not row.capabilities or capability in row.capabilities)
    ]


def network_flags(trt: ModuleType) -> int:
    """Return the flags of a strongly typed network: 11.0 accepts and ignores them."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def prepare_for_capture(trt: ModuleType, config: vendor.BuilderConfig) -> None:
    """Ask for an engine whose work can be captured into a CUDA graph, where that is an option."""
    flag = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if flag is not None:
        config.set_flag(flag)


def set_capabilities(config: vendor.PortableConfig, capabilities: Sequence[Any]) -> bool:
    """Name the GPUs of a portable engine; return whether all were accepted."""
    config.num_compute_capabilities = len(capabilities)
    return all(config.set_compute_capability(one, index) for index, one in enumerate(capabilities))


def new_context(
    trt: ModuleType, engine: vendor.CudaEngine, runtime_config: vendor.RuntimeConfig | None
) -> vendor.ExecutionContext | None:
    """Return an execution context whose scratch memory the caller provides, or None on failure."""
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if runtime_config is None:
        return engine.create_execution_context(strategy)
    runtime_config.set_execution_context_allocation_strategy(strategy)
    return engine.create_execution_context(runtime_config)


def scratch_bytes(engine: vendor.CudaEngine, profile: int) -> int:
    """Return the bytes of scratch memory that a context needs under a profile."""
    return int(engine.get_device_memory_size_for_profile_v2(profile))


def is_capturable(context: vendor.ExecutionContext, stream: int) -> bool:
    """Return whether work of a context may be captured; older versions cannot tell and try."""
    if not hasattr(context, "is_stream_capturable"):
        return True
    return cast(vendor.CapturableContext, context).is_stream_capturable(stream)


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in (*version, 0)[:2])
