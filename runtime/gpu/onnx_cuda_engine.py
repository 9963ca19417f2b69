"""ONNX Runtime on an NVIDIA GPU: the second way, for devices without TensorRT."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.borders import NO_RETRY, foreign, spoken_reason
from dedos_deploy.errors import EngineError
from dedos_deploy.installation import pip_install
from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.engines.onnx_runtime import (
    check_graph,
    failed_on_frame,
    release_freed_memory,
    session_options,
)
from dedos_deploy.runtime.engines.tensors import Tensors, check_inputs, shape_for
from dedos_deploy.spec import GraphSpec

PROVIDER = "CUDAExecutionProvider"
DEVICE = "cuda"


class OnnxCudaEngine(Engine):
    """An image graph in ONNX Runtime's CUDA provider, for any number of slots K.

    Inputs and outputs are bound to arrays on the device that are allocated once per K; text goes up
    only when its values change.
    """

    def __init__(self, model: Path, spec: GraphSpec, *, gpu: int = 0) -> None:
        """Load `model`, an ONNX file whose tensors are those of `spec`, on GPU number `gpu`.

        Raises EngineError when this installation of ONNX Runtime has no CUDA, the provider does
        not start, or the file is missing, damaged or another graph.
        """
        import onnxruntime

        if PROVIDER not in onnxruntime.get_available_providers():
            raise EngineError(
                "this installation of ONNX Runtime has no CUDA; in a fresh environment run: "
                f"{pip_install('cuda')} and pip uninstall onnxruntime, or use --engine cpu"
            )
        if not model.is_file():
            raise EngineError(f"the model {model.name} is missing; export the bundle again")
        refusal = partial(_unloadable, model.name, gpu)
        with foreign(refusal, reason=spoken_reason):
            _preload()
            self._session: Any = onnxruntime.InferenceSession(
                os.fspath(model),
                session_options(1),
                providers=[(PROVIDER, _options(gpu))],
                **NO_RETRY,
            )
        # Without a usable driver ONNX Runtime falls back to the CPU and only logs it.
        if PROVIDER not in self._session.get_providers():
            raise EngineError(
                "ONNX Runtime could not start CUDA and would have run on the CPU; run "
                "dedos-doctor, or choose --engine cpu"
            )
        release_freed_memory()
        self.spec = spec
        self._gpu = gpu
        self._bound: dict[str, Any] = {}
        self._sent: dict[str, NDArray[Any]] = {}
        check_graph(self._session, spec, model.name)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run the graph; see Engine.infer."""
        if self._session is None:
            raise EngineError("this engine is closed; open it again with open_engine")
        slots = check_inputs(self.spec, inputs, self.max_slots)
        with foreign(failed_on_frame, reason=spoken_reason):
            return self._run(inputs, slots)

    def close(self) -> None:
        """Release the graph and its arrays; may be called twice."""
        self._bound.clear()
        self._sent.clear()
        self._session = None

    def _run(self, inputs: Mapping[str, NDArray[Any]], slots: int) -> Tensors:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, self._on_device(name, array))
        outputs = {}
        for tensor in self.spec.outputs:
            shape = list(shape_for(tensor, slots))
            outputs[tensor.name] = self._array(tensor.name, shape, np.dtype(tensor.dtype))
            binding.bind_ortvalue_output(tensor.name, outputs[tensor.name])
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return {name: value.numpy() for name, value in outputs.items()}

    def _on_device(self, name: str, array: NDArray[Any]) -> Any:
        value = self._array(name, list(array.shape), array.dtype)
        sent = self._sent.get(name)
        if sent is None or sent.shape != array.shape or not np.array_equal(sent, array):
            value.update_inplace(array)
            # The image changes with every frame: comparing it would cost more than sending it.
            if name != self.spec.image.name:
                self._sent[name] = array.copy()
        return value

    def _array(self, name: str, shape: list[int], dtype: Any) -> Any:
        import onnxruntime

        value = self._bound.get(name)
        if value is None or value.shape() != shape:
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                shape, dtype.type, DEVICE, self._gpu
            )
            self._bound[name] = value
            self._sent.pop(name, None)
        return value


def _unloadable(name: str, gpu: int, reason: str) -> EngineError:
    return EngineError(f"ONNX Runtime cannot load {name} on GPU {gpu}: {reason}")


def _options(gpu: int) -> dict[str, str]:
    # The exhaustive search measures for minutes at the first frame of a large graph.
    return {"device_id": str(gpu), "cudnn_conv_algo_search": "HEURISTIC"}


def _preload() -> None:
    """Load CUDA's and cuDNN's libraries from the packages of NVIDIA, where those are installed."""
    import onnxruntime

    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        preload()
