"""Any ONNX graph of fixed shapes as an engine: built with names kept, run, timed, and looked into.

The runtime's own engine has three profiles and no profiler; here one shape is enough, and what each
layer takes is what is asked for.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.borders import Refusal
from dedos_deploy.closing import Closing
from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.gpu.build import capability
from dedos_deploy.runtime.gpu.cuda import Cuda, Graph, close_all
from dedos_deploy.runtime.gpu.engine_check import DTYPES
from dedos_deploy.runtime.gpu.flavours import (
    Flavour,
    network_flags,
    new_context,
    prepare_for_capture,
    scratch_bytes,
    set_capabilities,
)
from dedos_deploy.runtime.gpu.library import Library

Shapes = Mapping[str, tuple[int, ...]]
FUSED = re.compile(r"f?mha|fused.?attention|_mha|flash", re.IGNORECASE)
"""In the name of a layer or of its kernel: attention as one kernel."""

KERNEL = re.compile(rb"_gemm_mha_v2_0x[0-9a-f]{32}")
"""As TensorRT's compiler names what it generates for fused attention."""

WARM_UP = 10
TOP = 25
"""Layers that are kept of a profile."""


def build_plan(
    trt: ModuleType, flavour: Flavour, model: Path, shapes: Shapes, sm: str
) -> tuple[bytes, float]:
    """Return the serialized engine of a graph for the GPU `sm`, and the seconds that it took.

    shapes: of every input. Raises EngineError with the library's words.
    """
    began_s = time.monotonic()
    library = Library(trt, flavour)
    must, cannot = library.must, _cannot(library, "build the graph")
    builder = must(cannot, trt.Builder, library.logger)
    network = must(cannot, builder.create_network, network_flags(trt))
    parser = must(cannot, trt.OnnxParser, network, library.logger)
    must(_cannot(library, "read the graph"), parser.parse_from_file, str(model))
    config = must(cannot, builder.create_builder_config)
    if flavour.portable:
        must(cannot, set_capabilities, config, [capability(trt, flavour, sm)])
    prepare_for_capture(trt, config)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = must(cannot, builder.create_optimization_profile)
    for name, shape in shapes.items():
        library.ask(cannot, profile.set_shape, name, shape, shape, shape)
    library.ask(cannot, config.add_optimization_profile, profile)
    plan = must(cannot, builder.build_serialized_network, network, config)
    return bytes(plan), time.monotonic() - began_s


def _cannot(library: Library, what: str) -> Refusal:
    return lambda why: EngineError(f"{library.name} cannot {what}: {why}")


class PlanRunner(Closing):
    """An engine of one profile on a stream of its own."""

    def __init__(
        self, trt: ModuleType, flavour: Flavour, plan: bytes, cuda: Cuda, shapes: Shapes
    ) -> None:
        """shapes: of every input. Raises EngineError."""
        self._trt, self._flavour, self._cuda = trt, flavour, cuda
        self._library = Library(trt, flavour)
        self._runtime = self._must("start", trt.Runtime, self._library.logger)
        self._engine = self._must("load the plan", self._runtime.deserialize_cuda_engine, plan)
        self._stream = cuda.stream()
        self._resources: list[Closing] = [self._stream]
        self._hosts: dict[str, NDArray[Any]] = {}
        self._pointers: dict[str, int] = {}
        try:
            self._context = self._prepared(shapes)
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs, by name."""
        for name, values in inputs.items():
            self._hosts[name][...] = values
            self._cuda.upload(self._pointers[name], self._hosts[name], self._stream)
        self._execute()
        outputs = [name for name in self._hosts if name not in inputs]
        for name in outputs:
            self._cuda.download(self._hosts[name], self._pointers[name], self._stream)
        self._stream.synchronize()
        return {name: self._hosts[name].copy() for name in outputs}

    def times_ms(self, runs: int, *, graph: bool) -> list[float]:
        """Return the device's milliseconds of each run, launched one by one or as a CUDA graph.

        Raises EngineError where it cannot be captured.
        """
        for _ in range(WARM_UP):
            self._execute()
        self._stream.synchronize()
        captured = self._cuda.capture(self._stream, self._execute) if graph else None
        start, end = self._cuda.event(), self._cuda.event()
        times = [self._timed(start, end, captured) for _ in range(runs)]
        close_all([item for item in (start, end, captured) if item is not None])
        return times

    def layers_ms(self, runs: int) -> list[tuple[str, float]]:
        """Return the slowest layers and their mean milliseconds, the slowest first."""
        totals: defaultdict[str, float] = defaultdict(float)

        class Profiler(self._trt.IProfiler):
            def __init__(self) -> None:
                super().__init__()

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                totals[layer_name] += ms / runs

        self._context.profiler = profiler = Profiler()
        for _ in range(runs):
            self._execute()
            self._stream.synchronize()
        del profiler
        ranked = sorted(totals.items(), key=lambda item: -item[1])
        return [(name, round(ms, 4)) for name, ms in ranked[:TOP]]

    def layer_names(self) -> list[str]:
        """Return every layer with its kernel, as the library's inspector tells them."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        told = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        layers = json.loads(told).get("Layers", [])
        return [
            layer
            if isinstance(layer, str)
            else " ".join(str(layer.get(key, "")) for key in ("Name", "LayerType", "TacticName"))
            for layer in layers
        ]

    def close(self) -> None:
        """Release everything; may be called twice."""
        resources, self._resources = self._resources, []
        close_all(resources)

    def _prepared(self, shapes: Shapes) -> Any:
        engine, must = self._engine, self._must
        config = must("start", engine.create_runtime_config) if self._flavour.portable else None
        context = must("give a context", new_context, self._trt, engine, config)
        size = max(1, scratch_bytes(engine, 0))
        scratch = self._cuda.allocate(size, "scratch memory")
        self._resources.append(scratch)
        context.set_device_memory(scratch.pointer, size)
        for name, shape in shapes.items():
            must(f"take {name} {shape}", context.set_input_shape, name, shape)
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            dtype = np.dtype(DTYPES[engine.get_tensor_dtype(name).name])
            host = self._cuda.pinned(tuple(context.get_tensor_shape(name)), dtype, name)
            device = self._cuda.allocate(host.array.nbytes, name)
            self._resources += [host, device]
            self._hosts[name], self._pointers[name] = host.array, device.pointer
            must(f"take {name}", context.set_tensor_address, name, device.pointer)
        return context

    def _must(self, what: str, call: Any, *arguments: Any) -> Any:
        return self._library.must(_cannot(self._library, what), call, *arguments)

    def _execute(self) -> None:
        self._must("run", self._context.execute_async_v3, self._stream.handle)

    def _timed(self, start: Any, end: Any, captured: Graph | None) -> float:
        start.record(self._stream)
        if captured is None:
            self._execute()
        else:
            captured.launch(self._stream)
        end.record(self._stream)
        self._stream.synchronize()
        return float(end.ms_since(start))


def fused(names: Sequence[str]) -> int:
    """Return how many layers are attention in one kernel, by their names."""
    return sum(FUSED.search(name) is not None for name in names)


def fused_kernels(plan: bytes) -> int:
    """Return how many different kernels of fused attention a plan carries; needs no GPU."""
    return len(set(KERNEL.findall(plan)))
