"""Building an engine: parse the typed graph, one static profile per slot bucket, and interrupts
that reach the compiler.

The typed graph decides every precision, so the network is strongly typed and no builder flag says
anything about it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dedos_deploy.borders import Refusal
from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.gpu import vendor
from dedos_deploy.runtime.gpu.flavours import (
    Flavour,
    network_flags,
    prepare_for_capture,
    set_capabilities,
)
from dedos_deploy.runtime.gpu.library import Library, label
from dedos_deploy.runtime.gpu.memory import graph_bytes
from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec

_LOG = logging.getLogger(__name__)


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


class _Build:
    """One build: TensorRT's calls, its progress, and an interrupt that reaches it."""

    def __init__(
        self, trt: ModuleType, flavour: Flavour, options: BuildOptions, on_progress: Progress
    ) -> None:
        self._kernels: list[str] = []
        self._library = Library(trt, flavour, self._kernels)
        self._flavour = flavour
        self._options = options
        self._interrupt: BaseException | None = None
        self._on_progress = on_progress
        self._profile = 0

    def run(self, model: Path, spec: GraphSpec, capabilities: list[Any]) -> BuiltEngine:
        must, cannot, trt = self._library.must, self._cannot, self._library.trt
        builder: vendor.Builder = must(cannot("start"), trt.Builder, self._library.logger)
        network = must(cannot("start a graph"), builder.create_network, network_flags(trt))
        # Held until the end: the weights of the network are the parser's.
        parser = self._parsed(network, model)
        config = must(cannot("start"), builder.create_builder_config)
        if capabilities:
            must(cannot("build for these GPUs"), set_capabilities, config, capabilities)
        self._library.ask(cannot("be configured"), self._configure, config)
        must(cannot("take the slot profiles"), _add_profiles, builder, config, spec)
        content = self._compiled(builder, network, config)
        del parser
        self._check_weights(content, model)
        return BuiltEngine(content, self._measured(config), tuple(self._kernels))

    def _cannot(self, what: str) -> Refusal:
        return lambda why: EngineError(f"{self._library.name} cannot {what}: {why}")

    def _parsed(self, network: Any, model: Path) -> vendor.OnnxParser:
        library, refusal = self._library, self._cannot("read the graph")
        parser: vendor.OnnxParser = library.must(
            refusal, library.trt.OnnxParser, network, library.logger
        )
        self._on_progress.note("reading the graph")
        # From the file, not from bytes: external data is found beside it.
        if not library.ask(refusal, parser.parse_from_file, str(model)):
            words = library.words
            raise refusal("; ".join(library.ask(refusal, _mistakes, parser)) or words)
        return parser

    def _configure(self, config: vendor.BuilderConfig) -> None:
        trt, options = self._library.trt, self._options
        prepare_for_capture(trt, config)
        if options.described:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
        if options.low_memory:
            # Fewer tactics are tried, and none of the hungry ones.
            config.builder_optimization_level = LOW_MEMORY_LEVEL
        if not self._flavour.portable:
            self._use_timing_cache(config)
        config.progress_monitor = self._monitor()

    def _use_timing_cache(self, config: vendor.BuilderConfig) -> None:
        for content in (self._options.timing_cache, b""):
            cache = config.create_timing_cache(content)
            # Tactics of another GPU or version would be wrong here: those are measured anew.
            if cache is not None and config.set_timing_cache(cache, False):
                return
            if content:
                _LOG.warning("the timing cache is of no use here and is made anew")

    def _compiled(
        self, builder: vendor.Builder, network: Any, config: vendor.BuilderConfig
    ) -> bytes:
        refusal = self._cannot("build the graph")
        try:
            engine = self._library.must(refusal, builder.build_serialized_network, network, config)
            return self._library.ask(refusal, bytes, engine)
        finally:
            if self._interrupt is not None:
                raise self._interrupt

    def _measured(self, config: vendor.BuilderConfig) -> bytes:
        if self._flavour.portable:
            return b""
        try:
            return self._library.ask(self._cannot("keep its timings"), _timings, config)
        except EngineError as error:
            _LOG.warning("%s; the next build measures again", error)
            return b""

    def _check_weights(self, engine: bytes, model: Path) -> None:
        # Weights beside the graph are counted too; an engine may store float32 ones as float16.
        weights = graph_bytes(model)
        if len(engine) < weights * LEAST_ENGINE:
            raise EngineError(
                f"{self._library.name} wrote an engine of {len(engine)} bytes for a graph of {weights} "
                "bytes, so it is incomplete; report this with the version"
            )

    def _monitor(self) -> Any:
        trt, build = self._library.trt, self

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


def _add_profiles(builder: vendor.Builder, config: vendor.BuilderConfig, spec: GraphSpec) -> bool:
    """Add one static profile per slot bucket; return whether all were accepted."""
    for slots in SLOT_BUCKETS:
        profile = builder.create_optimization_profile()
        for tensor in spec.inputs:
            shape = tuple(slots if dim == "K" else int(dim) for dim in tensor.shape)
            profile.set_shape(tensor.name, shape, shape, shape)
        if config.add_optimization_profile(profile) < 0:
            return False
    return True


def _mistakes(parser: vendor.OnnxParser) -> list[str]:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [f"{e.desc()} (node {e.node_name()!r}, {e.node_operator()})" for e in errors]


def _timings(config: vendor.BuilderConfig) -> bytes:
    cache = config.get_timing_cache()
    return b"" if cache is None else bytes(cache.serialize())


LOW_MEMORY_LEVEL = 1
LEAST_ENGINE = 0.4
"""An engine carries its weights: one smaller than this part of the graph's files is broken."""
