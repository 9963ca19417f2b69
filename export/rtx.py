"""TensorRT for RTX: one engine with a static profile per slot bucket, built without a GPU.

The typed graph decides every precision, so the network is strongly typed. The engine names the
compute capabilities it may run on, and the device compiles the last step for itself at first use.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dedos_deploy.errors import BadInputError, EngineError, require
from dedos_deploy.export.options import RTX_CAPABILITIES
from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec

if TYPE_CHECKING:
    import tensorrt_rtx

FLAVOUR = "tensorrt-rtx"

_WEIGHTS_AT_LEAST = 0.5
"""An engine carries its weights: one smaller than this part of the graph's constants is broken."""


@dataclass(frozen=True)
class EngineKey:
    """What an engine was built from and for; a device that differs in any field rebuilds it.

    model_sha256: of model.onnx; profiles: slots K per optimisation profile, in order;
    compute_capabilities: GPUs it may run on.
    """

    model_sha256: str
    precision: str
    flavour: str
    version: str
    profiles: tuple[int, ...]
    compute_capabilities: tuple[str, ...]

    @property
    def name(self) -> str:
        """File name without its suffix, different for every key that can stand side by side."""
        gpus = "-".join(capability.replace(".", "") for capability in self.compute_capabilities)
        return f"rtx-{self.model_sha256[:8]}-{self.precision}-{self.version}-sm{gpus}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


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
    on_progress: Callable[[str], None] = lambda text: None,
) -> EngineFile:
    """Build the engine of a typed ONNX graph, write it and its key to `folder`, and return it.

    on_progress: called with what is being done, many times a second.

    Raises MissingExtraError without tensorrt_rtx, BadInputError for a compute capability it does
    not know, EngineError with TensorRT's own words when the graph cannot be built.
    """
    trt = require_rtx(compute_capabilities)
    key = EngineKey(
        model_sha256, precision, FLAVOUR, trt.__version__, SLOT_BUCKETS, compute_capabilities
    )
    capabilities = [_capability(trt, text) for text in compute_capabilities]
    engine = _Build(trt, on_progress).run(model_path, spec, capabilities)
    weights = _constants_size(model_path)
    if len(engine) < _WEIGHTS_AT_LEAST * weights:
        raise EngineError(
            f"TensorRT for RTX {trt.__version__} wrote an engine of {len(engine)} bytes for a graph "
            f"with {weights} bytes of weights, so it is incomplete; report this with the version"
        )
    path = folder / f"{key.name}.engine"
    path.write_bytes(engine)
    path.with_suffix(".json").write_text(key.to_json(), encoding="utf-8")
    return EngineFile(key, path, len(engine))


def require_rtx(compute_capabilities: tuple[str, ...] = RTX_CAPABILITIES) -> ModuleType:
    """Return the tensorrt_rtx module if it can build for `compute_capabilities`.

    Raises MissingExtraError naming the extra `rtx`, BadInputError for an unknown capability.
    """
    trt = require("tensorrt_rtx", extra="rtx", purpose="building an engine for --target rtx")
    for text in compute_capabilities:
        _capability(trt, text)
    return trt


def _capability(trt: ModuleType, text: str) -> Any:
    name = "SM" + text.replace(".", "")
    known = trt.ComputeCapability.__members__
    if name not in known:
        listed = ", ".join(f"{key[2:-1]}.{key[-1]}" for key in known if key.startswith("SM"))
        raise BadInputError(
            f"compute capability {text!r} is unknown to TensorRT for RTX {trt.__version__}; "
            f"it builds for {listed}"
        )
    return known[name]


def _constants_size(model_path: Path) -> int:
    import onnx

    from dedos_deploy.export.graph import weight_bytes

    return weight_bytes(onnx.load(model_path, load_external_data=False))


class _Build:
    """One build: TensorRT's messages, its progress, and an interrupt that reaches it."""

    def __init__(self, trt: ModuleType, on_progress: Callable[[str], None]) -> None:
        self._trt = trt
        self._messages: list[str] = []
        self._interrupt: BaseException | None = None
        self._on_progress = on_progress
        self._profile = 0

    def run(self, model_path: Path, spec: GraphSpec, capabilities: list[Any]) -> bytes:
        trt = self._trt
        logger = self._logger()
        builder = trt.Builder(logger)
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, logger)
        self._on_progress("reading the graph")
        # From the file, not from bytes: external data is found beside it.
        if not parser.parse_from_file(str(model_path)):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            reasons = [f"{e.desc()} (node {e.node_name()!r}, {e.node_operator()})" for e in errors]
            raise EngineError(
                f"TensorRT for RTX {trt.__version__} cannot read the graph: "
                f"{'; '.join(reasons) or self._reason()}"
            )
        config = self._config(builder, spec, capabilities)
        engine = builder.build_serialized_network(network, config)
        if self._interrupt is not None:
            raise self._interrupt
        if engine is None:
            raise EngineError(
                f"TensorRT for RTX {trt.__version__} cannot build the graph: {self._reason()}"
            )
        return bytes(engine)

    def _config(
        self, builder: tensorrt_rtx.Builder, spec: GraphSpec, capabilities: list[Any]
    ) -> Any:
        config = builder.create_builder_config()
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)
        for slots in SLOT_BUCKETS:
            profile = builder.create_optimization_profile()
            for tensor in spec.inputs:
                shape = tuple(slots if dim == "K" else dim for dim in tensor.shape)
                profile.set_shape(tensor.name, shape, shape, shape)
            config.add_optimization_profile(profile)
        config.progress_monitor = self._monitor()
        return config

    def _reason(self) -> str:
        return "; ".join(self._messages[-3:]) or "it gave no reason"

    def _logger(self) -> Any:
        trt, messages = self._trt, self._messages

        class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.ERROR:
                    messages.append(" ".join(message.split()))

        return Logger()

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
            self._on_progress(f"profile K={SLOT_BUCKETS[self._profile - 1]}")
        else:
            self._on_progress(name.lower())

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
