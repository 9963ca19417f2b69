"""A stand-in for `tensorrt` and `tensorrt_rtx` that accepts only what their contract allows.

A context must be given scratch memory, profile, shapes and addresses in that order before it runs, runs
on the stream only, must have run once before it is captured, and serves one thread. An engine is a
small JSON; what it computes is `reference_scores`. Calls refuse in the ways of the real bindings: some
by False or None, others by RuntimeError.
"""

from __future__ import annotations

import enum
import json
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCuda
from numpy.typing import NDArray

from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec

MARK = b"FAKE"
SCRATCH = {16: 1000, 64: 2000, 256: 5000}


def serialized(spec: GraphSpec, **changes: Any) -> bytes:
    """Return the engine of a graph, for capability 8.9."""
    values = {
        "height": spec.height,
        "width": spec.width,
        "text_width": spec.text_width,
        "score_dtype": spec.score_dtype,
        "batch": spec.batch,
        "pooled_width": spec.pooled_width,
        "sm": "8.9",
        "profiles": list(SLOT_BUCKETS),
        "poison": False,
        **changes,
    }
    body = json.dumps(values).encode()
    return MARK + len(body).to_bytes(8, "little") + body


def reference_scores(
    image: NDArray[np.uint8], text: NDArray[np.float32], valid: NDArray[np.float32], dtype: Any
) -> NDArray[Any]:
    """Scores [B, K, h, w]: how well the mean colour of 4x4 pixels fits a row of text."""
    batch, height, width, _ = image.shape
    cells = image.reshape(batch, height // 4, 4, width // 4, 4, 3).mean(axis=(2, 4)) / 255
    scores = np.einsum("bhwc,kc->bkhw", cells, text[:, :3].astype(np.float64))
    return (np.clip(scores, 0, 1) * valid[None, :, None, None]).astype(dtype)


def reference_pooled(image: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
    """Features [B, P]: the mean of every channel, over and over."""
    return np.resize(image.mean(axis=(1, 2)).T, (width, len(image))).T.astype(np.float32)


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    ERROR = Severity.ERROR

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class Strategy(enum.IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class Fallible:
    """What fails once on demand: `module.faults` maps a method to what it raises, or returns."""

    module: Any

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name.startswith("_") or not callable(value) or name not in self.module.faults:
            return value
        return lambda *arguments: _fault(self.module, name)


def _fault(module: Any, name: str) -> Any:
    fault = module.faults.pop(name)
    if isinstance(fault, Exception):
        raise fault
    return fault


def _constructor(module: Any, name: str, make: Any) -> Any:
    def construct(*arguments: Any) -> Any:
        return _fault(module, name) if name in module.faults else make(*arguments)

    return construct


def fake_module(cuda: FakeCuda, *, rtx: bool = False, version: str = "10.9.0.34") -> Any:
    """Return a module.

    What the tests may set: `lies`, so that built engines score wrongly; `builds`, a log of the
    options of every build; `interrupt`, called in the middle of one; `faults`, see Fallible.
    """
    module = SimpleNamespace(__version__="1.7.1" if rtx else version, faults={})
    module.ILogger = ILogger
    module.ExecutionContextAllocationStrategy = Strategy
    for name, make in (
        ("Runtime", lambda logger: FakeRuntime(module, cuda, logger)),
        ("Builder", lambda logger: FakeBuilder(module, logger)),
        ("OnnxParser", lambda network, logger: FakeParser(module, network, logger)),
    ):
        setattr(module, name, _constructor(module, name, make))
    module.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    flags = {"REQUIRE_USER_ALLOCATION": "capturable"} if rtx else {}
    module.BuilderFlag = SimpleNamespace(**flags)
    module.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    capabilities = {"SM86": 86, "SM89": 89}
    module.ComputeCapability = enum.IntEnum("ComputeCapability", capabilities)
    module.rtx = rtx
    module.lies = False
    module.builds = []
    module.interrupt = lambda: None
    module.log = []
    module.contexts = []
    module.compiled = 0
    module.capturable = True
    return module


class FakeRuntime(Fallible):
    def __init__(self, module: Any, cuda: FakeCuda, logger: ILogger) -> None:
        self.module, self.cuda, self.logger = module, cuda, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakeEngine | None:
        length = 12 + int.from_bytes(serialized_engine[4:12], "little")
        if serialized_engine[:4] != MARK or len(serialized_engine) != length:
            self.logger.log(Severity.ERROR, "Serialization assertion plan.header.size failed")
            return None
        values = json.loads(serialized_engine[12:])
        if values["sm"] != "{}.{}".format(*self.cuda.capability):
            self.logger.log(Severity.ERROR, f"engine is for {values['sm']}")  # noqa: G004
            return None
        return FakeEngine(self, values)


class FakeEngine(Fallible):
    def __init__(self, runtime: FakeRuntime, values: dict[str, Any]) -> None:
        self.module = runtime.module
        self.runtime, self.values = runtime, values
        kind = values["score_dtype"]
        self.spec = GraphSpec(
            values["height"],
            values["width"],
            values["text_width"],
            values["batch"],
            kind,
            values["pooled_width"],
        )
        self.tensors = {t.name: t for t in (*self.spec.inputs, *self.spec.outputs)}
        self.num_optimization_profiles = len(values["profiles"])
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        names = {"uint8": "UINT8", "float32": "FLOAT", "float16": "HALF"}
        return SimpleNamespace(name=names[self.tensors[name].dtype])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if dim == "K" else int(dim) for dim in self.tensors[name].shape)

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return SCRATCH[self.values["profiles"][profile_index]]

    def create_runtime_config(self) -> FakeConfig:
        assert self.runtime.module.rtx, "only tensorrt_rtx has it"
        return FakeConfig(self.runtime.module)

    def create_execution_context(self, strategy: Any) -> FakeContext:
        config = strategy if isinstance(strategy, FakeConfig) else None
        assert (config.strategy if config else strategy) == Strategy.USER_MANAGED
        context = FakeContext(self, config)
        self.runtime.module.contexts.append(context)
        return context


class FakeCache(Fallible):
    def __init__(self, module: Any) -> None:
        self.module = module
        self.content: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        try:
            self.content = set(json.loads(blob))
        except ValueError:
            return False
        return True

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.content)).encode()


class FakeConfig(Fallible):
    def __init__(self, module: Any) -> None:
        self.module = module
        self.strategy = Strategy.STATIC
        self.cache: FakeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Strategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache(self.module)

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        self.cache = cache
        return True


class FakeContext(Fallible):
    def __init__(self, engine: FakeEngine, config: FakeConfig | None) -> None:
        self.module = engine.module
        self.engine, self.config = engine, config
        self.cuda = engine.runtime.cuda
        self.scratch: tuple[int, int] | None = None
        self.slots: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.runs = 0
        self.thread = threading.get_ident()

    def _refuse(self, why: str) -> bool:
        self.engine.runtime.logger.log(Severity.ERROR, why)
        return False

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self.cuda.view(memory, size, "device") is not None, "not on the device"
        self.scratch = (memory, size)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        profiles = self.engine.num_optimization_profiles
        if self.cuda.stream_of(stream_handle) is None or not 0 <= profile_index < profiles:
            self._refuse("no such stream or profile")
            raise RuntimeError("Error in set optimization profile async.")
        self.slots = self.engine.values["profiles"][profile_index]
        self.shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.slots is None:
            return self._refuse("a profile comes before shapes")
        tensor = self.engine.tensors[name]
        wanted = tuple(self.slots if dim == "K" else int(dim) for dim in tensor.shape)
        if tuple(shape) != wanted:
            return self._refuse(f"{name} {shape} is outside of the profile, {wanted}")
        self.shapes[name] = wanted
        return True

    def infer_shapes(self) -> list[str]:
        if self.slots is None:
            self._refuse("a profile comes before shapes")
            raise RuntimeError("infer_shapes error code: -1")
        return [tensor.name for tensor in self.engine.spec.inputs if tensor.name not in self.shapes]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine.tensors:
            return self._refuse(f"no tensor {name}")
        self.addresses[name] = memory
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return bool(self.engine.runtime.module.capturable)

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = self.cuda.stream_of(stream_handle)
        if stream is None:
            return self._refuse("no such stream")
        if self.scratch is None or self.slots is None or self.scratch[1] < SCRATCH[self.slots]:
            return self._refuse("no scratch memory, or too little")
        if self.infer_shapes() or set(self.addresses) != set(self.engine.tensors):
            return self._refuse("shapes or addresses are missing")
        if stream.captured is not None and self.runs == 0:
            return self._refuse("a context must run once before it is captured")
        if self.runs == 0:
            self._compile()
        self.runs += 1
        addresses, slots = dict(self.addresses), self.slots
        return self.cuda.queue(stream_handle, lambda: self._compute(addresses, slots))

    def _compile(self) -> None:
        cache = self.config.cache if self.config is not None else None
        key = f"K={self.slots}"
        if cache is None or key not in cache.content:
            self.engine.runtime.module.compiled += 1
        if cache is not None:
            cache.content.add(key)

    def _compute(self, addresses: dict[str, int], slots: int) -> None:
        spec, view = self.engine.spec, self.cuda.must_view
        self.cuda.spend("engine")
        arrays = {}
        for tensor in spec.inputs:
            shape = tuple(slots if dim == "K" else int(dim) for dim in tensor.shape)
            dtype = np.dtype(tensor.dtype)
            size = int(np.prod(shape)) * dtype.itemsize
            arrays[tensor.name] = view(addresses[tensor.name], size).view(dtype).reshape(shape)
        scores = reference_scores(**arrays, dtype=np.dtype(spec.score_dtype))
        if self.engine.values.get("lies"):
            scores = np.ascontiguousarray(scores[:, ::-1])
        if self.engine.values["poison"]:
            scores[0, 1, 2, 3] = np.nan
        outputs = {"scores": scores}
        if spec.pooled_width:
            outputs["pooled"] = reference_pooled(arrays["image"], spec.pooled_width)
        for name, values in outputs.items():
            flat = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
            view(addresses[name], flat.size)[:] = flat


class FakeTimingCache(Fallible):
    def __init__(self, module: Any, content: bytes) -> None:
        self.module = module
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class FakeParser(Fallible):
    def __init__(self, module: Any, network: Any, logger: ILogger) -> None:
        self.module = module
        self.network = network
        self.errors: list[FakeParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> FakeParserError:
        return self.errors[index]

    def parse_from_file(self, model: str) -> bool:
        import onnx

        graph = onnx.load(model).graph
        dims = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in graph.input
        }
        if "image" not in dims:
            self.errors = [FakeParserError(graph.node[0])]
            return False
        batch, height, width, _ = dims["image"]
        widths = [v.type.tensor_type.shape.dim[1].dim_value for v in graph.output]
        pooled = dict(zip((v.name for v in graph.output), widths, strict=True)).get("pooled", 0)
        text_width = dims["text"][1]
        self.network.spec = GraphSpec(height, width, text_width, batch, pooled_width=pooled)
        self.network.size = len(open(model, "rb").read())
        return True


class FakeParserError:
    def __init__(self, node: Any) -> None:
        self.node = node

    def desc(self) -> str:
        return "this node cannot be read"

    def node_name(self) -> str:
        return str(self.node.name)

    def node_operator(self) -> str:
        return str(self.node.op_type)


class FakeBuilder(Fallible):
    def __init__(self, module: Any, logger: ILogger) -> None:
        self.module = module

    def create_network(self, flags: int) -> Any:
        assert flags == 2, "not strongly typed"
        return SimpleNamespace()

    def create_builder_config(self) -> Any:
        return FakeBuilderConfig(self.module)

    def create_optimization_profile(self) -> FakeProfile:
        return FakeProfile(self.module)

    def build_serialized_network(self, network: Any, config: FakeBuilderConfig) -> bytes | None:
        monitor = config.progress_monitor
        for _ in config.profiles:
            monitor.phase_start("Timing graph nodes", None, 1)
            self.module.interrupt()
            if not monitor.step_complete("Timing graph nodes", 0):
                return None
            monitor.phase_finish("Timing graph nodes")
        assert not self.module.rtx or (config.capabilities and config.flags == ["capturable"])
        self.module.builds.append(config)
        if config.cache is not None:
            config.cache.content += b"measured"
        slots = [profile.shapes["valid"][0] for profile in config.profiles]
        return serialized(
            network.spec, profiles=slots, lies=self.module.lies, weights="x" * network.size
        )


class FakeProfile(Fallible):
    def __init__(self, module: Any) -> None:
        self.module = module
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert min == opt == max, "profiles are static"
        if any(dim < 0 for dim in min):
            raise RuntimeError("Shape provided for min is inconsistent with other shapes.")
        self.shapes[input] = min


class FakeBuilderConfig(Fallible):
    def __init__(self, module: Any) -> None:
        self.module = module
        self.profiles: list[Any] = []
        self.capabilities: dict[int, Any] = {}
        self.flags: list[str] = []
        self.limits: dict[str, int] = {}
        self.cache: FakeTimingCache | None = None
        self.started_with = b""
        self.num_compute_capabilities = 0
        self.builder_optimization_level = 3
        self.progress_monitor: Any = None

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        assert index < self.num_compute_capabilities
        self.capabilities[index] = compute_capability
        return True

    def set_memory_pool_limit(self, pool: str, pool_size: int) -> None:
        self.limits[pool] = pool_size

    def create_timing_cache(self, serialized_timing_cache: bytes) -> FakeTimingCache:
        self.started_with = serialized_timing_cache
        return FakeTimingCache(self.module, serialized_timing_cache)

    def set_timing_cache(self, cache: FakeTimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> FakeTimingCache | None:
        return self.cache

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1
