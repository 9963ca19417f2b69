"""ONNX Runtime with bound arrays: here on the CPU, whose arrays are bound in the same way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import TEXT_WIDTH, image_graph, tiny_spec

from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.installation import pip_install
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.gpu import onnx_cuda_engine as module
from dedos_deploy.runtime.gpu.onnx_cuda_engine import OnnxCudaEngine


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(module, "DEVICE", "cpu")
    monkeypatch.setattr(module, "_options", lambda gpu: {})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(image_graph())
    return path


def _inputs(slots: int, seed: int) -> dict[str, Any]:
    rng, spec = np.random.default_rng(seed), tiny_spec()
    return {
        "image": rng.integers(0, 256, (1, spec.height, spec.width, 3), np.uint8),
        "text": rng.uniform(0, 0.5, (slots, TEXT_WIDTH)).astype(np.float32),
        "valid": (rng.random(slots) > 0.3).astype(np.float32),
    }


def test_scores_are_those_of_the_cpu_engine(on_cpu: None, model: Path) -> None:
    spec = tiny_spec()
    with OnnxCudaEngine(model, spec) as engine, OnnxEngine(model, spec) as reference:
        for seed, slots in enumerate((3, 3, 7, 1, 7)):
            inputs = _inputs(slots, seed)
            wanted = reference.infer(inputs)["scores"]
            np.testing.assert_array_equal(engine.infer(inputs)["scores"], wanted)


def test_text_goes_up_only_when_it_changes(
    on_cpu: None, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    sent: list[tuple[int, ...]] = []
    update = onnxruntime.OrtValue.update_inplace

    def noted(self: Any, array: Any) -> None:
        sent.append(array.shape)
        update(self, array)

    monkeypatch.setattr(onnxruntime.OrtValue, "update_inplace", noted)
    with OnnxCudaEngine(model, tiny_spec()) as engine:
        inputs = _inputs(3, 0)
        engine.infer(inputs)
        assert len(sent) == 3
        sent.clear()
        engine.infer(inputs)
        assert sent == [inputs["image"].shape]
        # A buffer of the caller that was written again in place is another text.
        inputs["text"][0, 0] += 0.1
        engine.infer(inputs)
        assert sent[1:] == [inputs["image"].shape, inputs["text"].shape]


def test_without_cuda_it_is_refused(model: Path) -> None:
    import onnxruntime

    if module.PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match="has no CUDA.*" + re.escape(pip_install("cuda"))):
        OnnxCudaEngine(model, tiny_spec())


def test_a_silent_fall_back_to_the_cpu_is_refused(
    on_cpu: None, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(module, "PROVIDER", "AzureExecutionProvider")
    session = onnxruntime.InferenceSession

    def falls_back(path: str, options: Any, providers: Any, **settings: Any) -> Any:
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [module.PROVIDER])
    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(EngineError, match="would have run on the CPU"):
        OnnxCudaEngine(model, tiny_spec())


def test_libraries_of_cuda_that_cannot_be_loaded_are_an_error_of_ours(
    on_cpu: None, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def preload() -> None:
        raise OSError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    with pytest.raises(
        EngineError, match=r"cannot load model\.onnx on GPU 0: libcudnn\.so\.9: cannot"
    ):
        OnnxCudaEngine(model, tiny_spec())


def test_faults(on_cpu: None, model: Path, tmp_path: Path) -> None:
    spec = tiny_spec()
    with pytest.raises(EngineError, match=r"none\.onnx is missing"):
        OnnxCudaEngine(tmp_path / "none.onnx", spec)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"cannot load broken\.onnx on GPU 0"):
        OnnxCudaEngine(broken, spec)
    engine = OnnxCudaEngine(model, spec)
    with pytest.raises(BadInputError, match="takes the inputs"):
        engine.infer({})
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(_inputs(2, 0))
