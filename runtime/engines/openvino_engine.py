"""OpenVINO on the CPU: BF16 where the processor has it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.borders import first_line, foreign, spoken_reason
from dedos_deploy.errors import EngineError, require
from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.engines.onnx_runtime import release_freed_memory
from dedos_deploy.runtime.engines.tensors import (
    OutputArrays,
    Tensors,
    check_inputs,
    check_tensors,
)
from dedos_deploy.spec import GraphSpec
from dedos_deploy.threads import usable_threads

Arithmetic = Literal["bf16", "fp32"]
"""What products of matrices are computed in; their sums are FP32 in either."""

OLDEST = (2026, 3)
"""The first version that reads com.microsoft.MultiHeadAttention, which bundles for the CPU have."""

_DEVICE = "CPU"
_HINTS = {"bf16": "bf16", "fp32": "f32"}
# Where in OpenVINO's sources a message comes from, and the condition that did not hold there.
_CPP_PLACE = re.compile(r"(?:Exception from |Check '[^']*' failed at )\S+:\d+:?")


def load_openvino() -> ModuleType:
    """Return the module. Raises MissingExtraError, or EngineError for a version that is too old and for
    one that cannot be imported."""
    # Its import writes an id for Google into the home, through this module or not at all.
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
    with foreign(_unimportable, reason=first_line):
        openvino = require("openvino", extra="openvino", purpose="running on the openvino engine")
        found = tuple(map(int, re.findall(r"\d+", str(openvino.__version__))[:2]))
    if found < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise EngineError(
            f"openvino {openvino.__version__} is installed and {needed} or newer is needed; run: "
            f"pip install 'openvino>={needed}'"
        )
    return openvino


@cache
def _core(openvino: ModuleType) -> Any:
    """Return the one Core of this process, which is never released.

    The CPU plugin gives the thread that loads it a stack for signals. It unmaps that with the plugin,
    and does not see when another thread has it or another plugin's stack goes back to it: the next Ctrl-C
    then ends the process (seen up to 2026.4). So the plugin is loaded once, and stays.
    """
    return openvino.Core()


def processor(openvino: ModuleType) -> str:
    """Return the name of the processor as OpenVINO says it."""
    with foreign(partial(_failed, "does not know this processor"), reason=openvino_reason):
        return str(_core(openvino).get_property(_DEVICE, "FULL_DEVICE_NAME"))


def arithmetics(openvino: ModuleType) -> tuple[Arithmetic, ...]:
    """Return what this processor computes in at full speed, the fastest first."""
    with foreign(partial(_failed, "does not know this processor"), reason=openvino_reason):
        able = _core(openvino).get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    return ("bf16", "fp32") if "BF16" in able else ("fp32",)


class OpenVinoEngine(Engine):
    """An image graph in OpenVINO's CPU plugin, for any number of slots K.

    Inputs are used in place; outputs are arrays per K that the next call overwrites. A K that
    was not met before costs its first frame some 40 ms of one core, and no compilation.
    """

    def __init__(
        self,
        model: Path,
        spec: GraphSpec,
        *,
        arithmetic: Arithmetic,
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        """Load `model`, an ONNX file whose tensors are those of `spec`.

        arithmetic: one of `arithmetics`; cache: folder, which is there, of what was compiled before,
        None to compile anew.

        Raises MissingExtraError, and EngineError when the file is missing, damaged or another graph.
        """
        openvino = load_openvino()
        if not model.is_file():
            raise EngineError(f"the model {model.name} is missing; export the bundle again")
        self.spec = spec
        self.arithmetic = arithmetic
        self._tensor: Any = openvino.Tensor
        self._version = str(openvino.__version__)
        self._held: list[Any] = []
        self._outputs = OutputArrays(spec)
        with foreign(partial(_unloadable, model.name), reason=openvino_reason):
            graph = _read(openvino, model)
            compiled = _core(openvino).compile_model(
                graph, _DEVICE, _settings(arithmetic, usable_threads(threads), cache)
            )
            found = _tensors(compiled, spec)
            self._request: Any = compiled.create_infer_request()
        del graph
        release_freed_memory()
        check_tensors(found, (*spec.inputs, *spec.outputs), model.name)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run the graph; see Engine.infer."""
        if self._request is None:
            raise EngineError("this engine is closed; open it again with open_engine")
        slots = check_inputs(self.spec, inputs, self.max_slots)
        outputs = self._outputs.of(slots)
        with foreign(partial(_failed, "failed on a frame"), reason=openvino_reason):
            # The request points into the arrays and does not hold them.
            self._held = [
                (key, self._tensor(_writable(array), shared_memory=True))
                for key, array in (*inputs.items(), *outputs.items())
            ]
            for key, tensor in self._held:
                self._request.set_tensor(key, tensor)
            self._request.infer()
        return outputs

    def facts(self) -> dict[str, Any]:
        """Return version and arithmetic."""
        return {"openvino": self._version, "arithmetic": self.arithmetic}

    def close(self) -> None:
        """Release the graph; may be called twice."""
        self._request = None
        self._held = []


def openvino_reason(error: BaseException) -> str:
    """Return what OpenVINO says without where in its sources it says it, on one line."""
    said = _CPP_PLACE.sub("", str(error)).strip()
    return spoken_reason(RuntimeError(said or "it does not say why"))


def _read(openvino: ModuleType, model: Path) -> Any:
    from openvino import passes

    graph = _core(openvino).read_model(os.fspath(model))
    # Weights that are stored small: of an int8 matrix with several readers, versions from 2025 on make
    # no graph (seen up to 2026.4).
    if any(operation.get_type_name() == "FakeQuantize" for operation in graph.get_ops()):
        _fold_stored(graph)
        return graph
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(graph)
    return graph


def _fold_stored(graph: Any) -> None:
    """Make float32 constants of int8 ones that are only stored so, and leave those of INT8 products.

    A DequantizeLinear subtracts its zero point before it multiplies, which tells them apart.
    """
    from openvino import opset13

    for product in graph.get_ordered_ops():
        sources = [port.get_source_output().get_node() for port in product.inputs()]
        kinds = [product.get_type_name(), *(source.get_type_name() for source in sources)]
        if kinds != ["Multiply", "Convert", "Constant"]:
            continue
        codes = sources[0].input(0).get_source_output().get_node()
        if codes.get_type_name() == "Constant":
            values = opset13.constant(codes.data.astype(np.float32) * sources[1].data)
            for reader in product.output(0).get_target_inputs():
                reader.replace_source_output(values.output(0))


def _settings(arithmetic: Arithmetic, threads: int, cache: Path | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[arithmetic],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Containers refuse it, and two engines would be pinned to the same cores.
        "ENABLE_CPU_PINNING": False,
        # Code made for chains of operations adds a part of a split tensor to a resized one wrongly
        # (2026.3 to 2026.4, the pixel decoder of paper-b); without it the sums are right.
        "SNIPPETS_MODE": "DISABLE",
    }
    return settings if cache is None else {**settings, "CACHE_DIR": os.fspath(cache)}


def _tensors(compiled: Any, spec: GraphSpec) -> dict[str, tuple[str, list[Any]]]:
    """Return dtype and shape by name, where a tensor has several by the one that `spec` knows."""
    known = {tensor.name for tensor in (*spec.inputs, *spec.outputs)}
    found = {}
    for port in (*compiled.inputs, *compiled.outputs):
        sides = [side.get_length() if side.is_static else "?" for side in port.get_partial_shape()]
        name = next(iter(sorted(known & port.get_names())), port.get_any_name())
        found[name] = (np.dtype(port.get_element_type().to_dtype()).name, sides)
    return found


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array, or a copy of one that is read-only, which OpenVINO shares with nobody."""
    return array if array.flags.writeable else array.copy()


def _unimportable(why: str) -> EngineError:
    return EngineError(
        f"openvino is there and cannot be imported ({why}); install it again, or use --engine cpu"
    )


def _failed(what: str, reason: str) -> EngineError:
    return EngineError(f"OpenVINO {what}: {reason}; use --engine cpu")


def _unloadable(name: str, reason: str) -> EngineError:
    return EngineError(
        f"OpenVINO cannot load {name}: {reason}; the file is damaged, or needs a newer openvino or "
        "--engine cpu"
    )
