"""The engine that runs everywhere: ONNX Runtime on the CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dedos_deploy.borders import NO_RETRY, foreign, onnx_runtime_advice, spoken_reason
from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.engines.tensors import (
    OutputArrays,
    Tensors,
    check_inputs,
    check_tensors,
)
from dedos_deploy.spec import GraphSpec
from dedos_deploy.threads import usable_threads

FATAL_ONLY = 4


def session_options(threads: int | None = None) -> Any:
    """Return the onnxruntime.SessionOptions that the engine uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Said even for the default: with 0 ONNX Runtime pins threads to cores, which containers refuse.
    options.intra_op_num_threads = usable_threads(threads)
    options.inter_op_num_threads = 1
    # Workers that wait by spinning burn the cores of an idle robot, and take them from whatever else
    # runs there: on two busy cores the nano graph took three times as long with spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Patterns plan one block for all intermediate results, on top of the arena that already holds
    # them: 120 MB more for edge-b, and no faster.
    options.enable_mem_pattern = False
    # Errors come back as exceptions; a second copy on stderr would only confuse.
    options.log_severity_level = FATAL_ONLY
    return options


class OnnxEngine(Engine):
    """An image graph in ONNX Runtime, for any number of slots K.

    Inputs are used in place; outputs are arrays per K that the next call overwrites.
    """

    def __init__(self, model: Path, spec: GraphSpec, *, threads: int | None = None) -> None:
        """Load `model`, an ONNX file whose tensors are those of `spec`.

        Raises EngineError when the file is missing, damaged or another graph.
        """
        import onnxruntime

        if not model.is_file():
            raise EngineError(f"the model {model.name} is missing; export the bundle again")
        with foreign(partial(unloadable, model.name), reason=spoken_reason):
            self._session: Any = onnxruntime.InferenceSession(
                os.fspath(model),
                session_options(threads),
                providers=["CPUExecutionProvider"],
                **NO_RETRY,
            )
        release_freed_memory()
        self.spec = spec
        self._outputs = OutputArrays(spec)
        check_graph(self._session, spec, model.name)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run the graph; see Engine.infer."""
        if self._session is None:
            raise EngineError("this engine is closed; open it again with open_engine")
        slots = check_inputs(self.spec, inputs, self.max_slots)
        import onnxruntime

        outputs = self._outputs.of(slots)
        with foreign(failed_on_frame, reason=spoken_reason):
            binding = self._session.io_binding()
            for name, array in inputs.items():
                binding.bind_cpu_input(name, array)
            for name, array in outputs.items():
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
                binding.bind_ortvalue_output(name, value)
            self._session.run_with_iobinding(binding)
        return outputs

    def close(self) -> None:
        """Release the graph; may be called twice."""
        self._session = None


def check_graph(session: Any, spec: GraphSpec, name: str) -> None:
    """Raise EngineError when the tensors of a session are not those of `spec`; name: its file."""
    check_tensors(tensors_of(session, name), (*spec.inputs, *spec.outputs), name)


def tensors_of(session: Any, name: str) -> dict[str, tuple[str, list[Any]]]:
    """Return dtype and shape of a session's tensors by their names; name: of its file."""
    # Names are decoded only now, and may be no text.
    with foreign(partial(unloadable, name), reason=spoken_reason):
        nodes = [*session.get_inputs(), *session.get_outputs()]
        return {node.name: (_dtype(str(node.type)), list(node.shape)) for node in nodes}


def release_freed_memory() -> None:
    """Give what loading has freed back to the system; 110 MB for edge-b.

    glibc keeps it for the thread that loaded, and frames are labelled on another one. Does nothing
    with other C libraries.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _dtype(kind: str) -> str:
    return {"tensor(float)": "float32"}.get(kind, kind[len("tensor(") : -1])


def failed_on_frame(reason: str) -> EngineError:
    """Return the error of a graph that loads and does not run."""
    return EngineError(f"ONNX Runtime failed on a frame: {reason}")


def unloadable(name: str, reason: str) -> EngineError:
    """Return the error of a graph that does not load; name: of its file."""
    return EngineError(f"ONNX Runtime cannot load {name}: {reason}; {onnx_runtime_advice()}")
