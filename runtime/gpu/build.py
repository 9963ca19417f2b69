"""Building an engine: parse the typed graph, one static profile per slot bucket, and interrupts
that reach the compiler.

The typed graph decides every precision, so the network is strongly typed and no builder flag says
anything about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.gpu import vendor
from dedos_deploy.runtime.gpu.flavours import (
    Flavour,
    network_flags,
    prepare_for_capture,
    set_capabilities,
)
from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec


@dataclass(frozen=True)
class BuildOptions:
    """How to build."""

    capabilities: tuple[str, ...] = ()
    """GPUs of a portable engine, empty for the GPU at hand."""

    workspace: int | None = None
    """Most bytes of scratch memory that a layer may take while tactics are tried, None for
    TensorRT's default (all of the GPU's)."""

    low_memory: bool = False
    """Take no more than what an 8 GB board can give."""

    timing_cache: bytes = b""
    """What an earlier build has measured, b"" for nothing."""

    described: bool = False
    """Also keep what the library says of each kernel; the engine carries it, too."""


@dataclass(frozen=True, eq=False)
class BuiltEngine:
    """What a build gives."""

    engine: bytes
    """The serialized engine."""

    timing_cache: bytes
    """To hand to the next build, b"" without one."""

    kernels: tuple[str, ...] = ()
    """A line of the library about each kernel of each profile, where that was asked for."""


def build_engine(
    trt: ModuleType,
    flavour: Flavour,
    model: Path,
    spec: GraphSpec,
    options: BuildOptions | None = None,
    *,
    on_progress: Progress = QUIET,
) -> BuiltEngine:
    """Build the engine of a typed ONNX graph whose tensors are those of `spec`.

    on_progress: noted what is being done, many times a second; what it raises stops the
    build and is raised here.

    Raises BadInputError for an unknown compute capability, EngineError with the library's own
    words when the graph cannot be built.
    """
    options = options or BuildOptions()
    capabilities = [capability(trt, flavour, text) for text in options.capabilities]
    return _Build(trt, flavour, options, on_progress).run(model, spec, capabilities)


def capability(trt: ModuleType, flavour: Flavour, text: str) -> Any:
    """Return the library's name of a compute capability such as `8.9`. Raises BadInputError."""
    name = "SM" + text.replace(".", "")
    known = trt.ComputeCapability.__members__
    if name not in known:
        listed = ", ".join(f"{key[2:-1]}.{key[-1]}" for key in known if key.startswith("SM"))
        raise BadInputError(
            f"compute capability {text!r} is unknown to {label(flavour)} {trt.__version__}; "
            f"it builds for {listed}"
        )
    return known[name]


def label(flavour: Flavour) -> str:
    """Return the name that people use."""
    return "TensorRT for RTX" if flavour.portable else "TensorRT"


def new_logger(trt: ModuleType, messages: list[str], kernels: list[str] | None = None) -> Any:
    """Return a logger that prints nothing and appends the library's errors to `messages`.

    kernels: gets the lines about kernels that a described build lists at its end.
    """

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                messages.append(" ".join(message.split()))
            elif kernels is not None and message.startswith("Layers:"):
                kernels.extend(line for line in message.splitlines() if line.startswith("Name: "))

    return Logger()


def reason(messages: Sequence[str]) -> str:
    """Return the last words of the library."""
    return "; ".join(messages[-3:]) or "it gave no reason"


class _Build:
    """One build: TensorRT's messages, its progress, and an interrupt that reaches it."""

    def __init__(
        self, trt: ModuleType, flavour: Flavour, options: BuildOptions, on_progress: Progress
    ) -> None:
        self._trt = trt
        self._flavour = flavour
        self._options = options
        self._messages: list[str] = []
        self._kernels: list[str] | None = [] if options.described else None
        self._interrupt: BaseException | None = None
        self._on_progress = on_progress
        self._profile = 0

    def run(self, model: Path, spec: GraphSpec, capabilities: list[Any]) -> BuiltEngine:
        trt = self._trt
        named = f"{label(self._flavour)} {trt.__version__}"
        logger = new_logger(trt, self._messages, self._kernels)
        builder: vendor.Builder = trt.Builder(logger)
        network = builder.create_network(network_flags(trt))
        parser: vendor.OnnxParser = trt.OnnxParser(network, logger)
        self._on_progress.note("reading the graph")
        # From the file, not from bytes: external data is found beside it.
        if not parser.parse_from_file(str(model)):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            reasons = [f"{e.desc()} (node {e.node_name()!r}, {e.node_operator()})" for e in errors]
            raise EngineError(
                f"{named} cannot read the graph: {'; '.join(reasons) or reason(self._messages)}"
            )
        config = builder.create_builder_config()
        self._configure(builder, config, spec, capabilities)
        engine = builder.build_serialized_network(network, config)
        if self._interrupt is not None:
            raise self._interrupt
        if engine is None:
            raise EngineError(f"{named} cannot build the graph: {reason(self._messages)}")
        content = bytes(engine)
        self._check_weights(content, model, named)
        return BuiltEngine(content, self._measured(config), tuple(self._kernels or ()))

    def _configure(
        self,
        builder: vendor.Builder,
        config: vendor.BuilderConfig,
        spec: GraphSpec,
        capabilities: list[Any],
    ) -> None:
        trt, options = self._trt, self._options
        if capabilities:
            set_capabilities(trt, config, capabilities)
        prepare_for_capture(trt, config)
        if options.described:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
        if options.low_memory:
            # Fewer tactics are tried, and none of the hungry ones.
            config.builder_optimization_level = LOW_MEMORY_LEVEL
        if not self._flavour.portable:
            cache = config.create_timing_cache(options.timing_cache)
            # Tactics of another GPU or version would be wrong here: those are measured anew.
            config.set_timing_cache(cache, False)
        for slots in SLOT_BUCKETS:
            profile = builder.create_optimization_profile()
            for tensor in spec.inputs:
                shape = tuple(slots if dim == "K" else int(dim) for dim in tensor.shape)
                profile.set_shape(tensor.name, shape, shape, shape)
            config.add_optimization_profile(profile)
        config.progress_monitor = self._monitor()

    def _measured(self, config: vendor.BuilderConfig) -> bytes:
        if self._flavour.portable:
            return b""
        cache = config.get_timing_cache()
        return b"" if cache is None else bytes(cache.serialize())

    def _check_weights(self, engine: bytes, model: Path, named: str) -> None:
        # Weights beside the graph are counted too; an engine may store float32 ones as float16.
        weights = sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*"))
        if len(engine) < weights * LEAST_ENGINE:
            raise EngineError(
                f"{named} wrote an engine of {len(engine)} bytes for a graph of {weights} bytes, so "
                "it is incomplete; report this with the version"
            )

    def _monitor(self) -> Any:
        trt, build = self._trt, self

        class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, name: str, parent: str | None, steps: int) -> None:
                build.guard(lambda: build.phase(name))

            def step_complete(self, name: str, step: int) -> bool:
                return build.guard(lambda: None)

            def phase_finish(self, name: str) -> None:
                build.guard(lambda: None)

        return Monitor()

    def phase(self, name: str) -> None:
        # TensorRT does not say which profile it works on, but begins each with this phase.
        if name == "Timing graph nodes":
            self._profile = min(self._profile + 1, len(SLOT_BUCKETS))
        if self._profile:
            self._on_progress.note(f"profile K={SLOT_BUCKETS[self._profile - 1]}")
        else:
            self._on_progress.note(name.lower())

    def guard(self, action: Callable[[], None]) -> bool:
        """Run `action` inside TensorRT's callback; return whether the build should go on.

        An exception must not cross TensorRT's C++ frames, where it would end the process or be
        lost, so it is kept, the build is asked to stop, and `run` raises it.
        """
        try:
            action()
        except BaseException as error:
            self._interrupt = self._interrupt or error
        return self._interrupt is None


LOW_MEMORY_LEVEL = 1
LEAST_ENGINE = 0.4
"""An engine carries its weights: one smaller than this part of the graph's files is broken."""
