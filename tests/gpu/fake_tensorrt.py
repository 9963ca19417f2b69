"""A stand-in for `tensorrt` and `tensorrt_rtx` that accepts only what their contract allows.

A context must be given scratch memory, profile, shapes and addresses in that order before it runs, runs
on the stream only, must have run once before it is captured, and serves one thread. An engine is a
small JSON; what it computes is `reference_scores`.
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


def fake_module(cuda: FakeCuda, *, rtx: bool = False, version: str = "10.9.0.34") -> Any:
    """Return a module.

    What the tests may set: `lies`, so that built engines score wrongly; `builds`, a log of the
    options of every build; `interrupt`, called in the middle of one.
    """
    module = SimpleNamespace(__version__="1.7.1" if rtx else version)
    module.ILogger = ILogger
    module.ExecutionContextAllocationStrategy = Strategy
    module.Runtime = lambda logger: FakeRuntime(module, cuda, logger)
    module.Builder = lambda logger: FakeBuilder(module, logger)
    module.OnnxParser = FakeParser
    module.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    module.BuilderFlag = SimpleNamespace()
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


class FakeRuntime:
    def __init__(self, module: Any, cuda: FakeCuda, logger: ILogger) -> None:
        self.module, self.cuda, self.logger = module, cuda, logger

    def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
        if content[:4] != MARK or len(content) != 12 + int.from_bytes(content[4:12], "little"):
            self.logger.log(Severity.ERROR, "Serialization assertion plan.header.size failed")
            return None
        values = json.loads(content[12:])
        if values["sm"] != "{}.{}".format(*self.cuda.capability):
            self.logger.log(Severity.ERROR, f"engine is for {values['sm']}")  # noqa: G004
            return None
        return FakeEngine(self, values)


class FakeEngine:
    def __init__(self, runtime: FakeRuntime, values: dict[str, Any]) -> None:
        self.runtime, self.values = runtime, values
        kind = values["score_dtype"]
        self.spec = GraphSpec(
            values["height"], values["width"], values["text_width"], values["batch"], kind
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

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return SCRATCH[self.values["profiles"][index]]

    def create_runtime_config(self) -> FakeConfig:
        assert self.runtime.module.rtx, "only tensorrt_rtx has it"
        return FakeConfig(self.runtime.module)

    def create_execution_context(self, how: Any) -> FakeContext:
        strategy = how.strategy if isinstance(how, FakeConfig) else how
        assert strategy == Strategy.USER_MANAGED
        context = FakeContext(self, how if isinstance(how, FakeConfig) else None)
        self.runtime.module.contexts.append(context)
        return context


class FakeCache:
    def __init__(self) -> None:
        self.content: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        try:
            self.content = set(json.loads(blob))
        except ValueError:
            return False
        return True

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.content)).encode()


class FakeConfig:
    def __init__(self, module: Any) -> None:
        self.module = module
        self.strategy = Strategy.STATIC
        self.cache: FakeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Strategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache()

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        self.cache = cache
        return True


class FakeContext:
    def __init__(self, engine: FakeEngine, config: FakeConfig | None) -> None:
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

    def set_device_memory(self, address: int, size: int) -> None:
        assert self.cuda.view(address, size, "device") is not None, "not on the device"
        self.scratch = (address, size)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        if self.cuda.stream_of(stream) is None:
            return self._refuse("no such stream")
        self.slots = self.engine.values["profiles"][index]
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
        return [tensor.name for tensor in self.engine.spec.inputs if tensor.name not in self.shapes]

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name not in self.engine.tensors:
            return self._refuse(f"no tensor {name}")
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return bool(self.engine.runtime.module.capturable)

    def execute_async_v3(self, handle: int) -> bool:
        stream = self.cuda.stream_of(handle)
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
        return self.cuda.queue(handle, lambda: self._compute(addresses, slots))

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
        flat = np.ascontiguousarray(scores).view(np.uint8).reshape(-1)
        view(addresses["scores"], flat.size)[:] = flat


class FakeTimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class FakeParser:
    def __init__(self, network: Any, logger: ILogger) -> None:
        self.network = network
        self.num_errors = 0

    def parse_from_file(self, path: str) -> bool:
        import onnx

        graph = onnx.load(path).graph
        dims = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in graph.input
        }
        batch, height, width, _ = dims["image"]
        self.network.spec = GraphSpec(height, width, dims["text"][1], batch)
        self.network.size = len(open(path, "rb").read())
        return True


class FakeBuilder:
    def __init__(self, module: Any, logger: ILogger) -> None:
        self.module = module

    def create_network(self, flags: int) -> Any:
        assert flags == 2, "not strongly typed"
        return SimpleNamespace()

    def create_builder_config(self) -> Any:
        return FakeBuilderConfig()

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, tuple[int, ...]] = {}

        def set_shape(name: str, low: Any, best: Any, high: Any) -> None:
            assert low == best == high, "profiles are static"
            shapes[name] = low

        return SimpleNamespace(set_shape=set_shape, shapes=shapes)

    def build_serialized_network(self, network: Any, config: FakeBuilderConfig) -> bytes | None:
        monitor = config.progress_monitor
        for _ in config.profiles:
            monitor.phase_start("Timing graph nodes", None, 1)
            self.module.interrupt()
            if not monitor.step_complete("Timing graph nodes", 0):
                return None
            monitor.phase_finish("Timing graph nodes")
        assert config.capabilities or not self.module.rtx
        self.module.builds.append(config)
        if config.cache is not None:
            config.cache.content += b"measured"
        slots = [profile.shapes["valid"][0] for profile in config.profiles]
        return serialized(
            network.spec, profiles=slots, lies=self.module.lies, weights="x" * network.size
        )


class FakeBuilderConfig:
    def __init__(self) -> None:
        self.profiles: list[Any] = []
        self.capabilities: dict[int, Any] = {}
        self.limits: dict[str, int] = {}
        self.cache: FakeTimingCache | None = None
        self.started_with = b""
        self.num_compute_capabilities = 0
        self.builder_optimization_level = 3
        self.progress_monitor: Any = None

    def set_compute_capability(self, capability: Any, index: int) -> None:
        assert index < self.num_compute_capabilities
        self.capabilities[index] = capability

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def create_timing_cache(self, content: bytes) -> FakeTimingCache:
        self.started_with = content
        return FakeTimingCache(content)

    def set_timing_cache(self, cache: FakeTimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> FakeTimingCache | None:
        return self.cache

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1
