"""What of `tensorrt` and `tensorrt_rtx` this package calls, as types.

Both libraries come without types that a checker can read, so this is the one place that says what they
promise; a test compares it with the signatures of the oldest and newest versions that can be had, and
with what they do when they refuse: where a method returns bool that is False, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class HostMemory(Protocol):
    """A serialized engine or cache; `bytes` of it copies."""

    def __buffer__(self, flags: int) -> memoryview: ...


class RuntimeCache(Protocol):
    """IRuntimeCache of TensorRT for RTX."""

    def deserialize(self, blob: bytes) -> bool: ...

    def serialize(self) -> HostMemory: ...


class RuntimeConfig(Protocol):
    """IRuntimeConfig of TensorRT for RTX."""

    def create_runtime_cache(self) -> RuntimeCache: ...

    def set_runtime_cache(self, cache: RuntimeCache) -> bool: ...

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None: ...


class ExecutionContext(Protocol):
    """IExecutionContext."""

    def set_device_memory(self, memory: int, size: int) -> None: ...

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Raises RuntimeError when refused; under TensorRT 10.3 the process ends by SIGSEGV."""
        ...

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool: ...

    def infer_shapes(self) -> list[str]:
        """Raises RuntimeError when refused; under TensorRT 10.3 the process ends by SIGSEGV."""
        ...

    def set_tensor_address(self, name: str, memory: int) -> bool: ...

    def execute_async_v3(self, stream_handle: int) -> bool: ...


class CapturableContext(ExecutionContext, Protocol):
    """IExecutionContext of TensorRT for RTX, which knows whether its work can be captured."""

    def is_stream_capturable(self, stream: int) -> bool: ...


class CudaEngine(Protocol):
    """ICudaEngine."""

    num_optimization_profiles: int
    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str: ...

    def get_tensor_dtype(self, name: str) -> Any: ...

    def get_tensor_shape(self, name: str) -> Sequence[int]: ...

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int: ...

    def create_execution_context(self, strategy: Any) -> ExecutionContext | None: ...

    def create_runtime_config(self) -> RuntimeConfig: ...


class Runtime(Protocol):
    """Runtime."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None: ...


class ParserError(Protocol):
    """ParserError."""

    def desc(self) -> str: ...

    def node_name(self) -> str: ...

    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    """OnnxParser."""

    num_errors: int

    def parse_from_file(self, model: str) -> bool: ...

    def get_error(self, index: int) -> ParserError: ...


class TimingCache(Protocol):
    """ITimingCache."""

    def serialize(self) -> HostMemory: ...


class OptimizationProfile(Protocol):
    """IOptimizationProfile."""

    def set_shape(
        self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]
    ) -> None:
        """Raises RuntimeError when refused."""
        ...


class BuilderConfig(Protocol):
    """IBuilderConfig."""

    builder_optimization_level: int
    progress_monitor: Any

    def set_flag(self, flag: Any) -> None: ...

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache: ...

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool: ...

    def get_timing_cache(self) -> TimingCache | None: ...

    def add_optimization_profile(self, profile: OptimizationProfile) -> int: ...


class PortableConfig(BuilderConfig, Protocol):
    """IBuilderConfig of TensorRT for RTX."""

    num_compute_capabilities: int
    """Setting it raises ValueError when refused."""

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool: ...


class Builder(Protocol):
    """Builder."""

    def create_network(self, flags: int) -> Any: ...

    def create_builder_config(self) -> BuilderConfig: ...

    def create_optimization_profile(self) -> OptimizationProfile: ...

    def build_serialized_network(
        self, network: Any, config: BuilderConfig
    ) -> HostMemory | None: ...
