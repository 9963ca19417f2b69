"""A micro model and its graphs, exported once per session: tracing takes seconds even when tiny."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_micro import CONTEXT, micro_config
from numpy.typing import NDArray

from dedos_deploy.export import TrainedModel
from dedos_deploy.export.graph import image_graph, save_graph
from dedos_deploy.export.text_tower import save_text_tower
from dedos_deploy.model import Dedos, build_model, freeze
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.spec import GraphSpec


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model() -> Dedos:
    return build_model(micro_config(), seed=3)


@pytest.fixture(scope="session")
def trained(model: Dedos) -> TrainedModel:
    return TrainedModel(model, {"sources": ["a test"], "words": ["road", "car", "sky", "tree"]})


@pytest.fixture(scope="session")
def spec(model: Dedos) -> GraphSpec:
    return GraphSpec(*model.config.size_hw, model.config.clip.text_width)


@pytest.fixture(scope="session")
def float_graph(model: Dedos, spec: GraphSpec) -> onnx.ModelProto:
    """FP32 for ONNX Runtime, at the model's own size."""
    return image_graph(freeze(model, size_hw=(spec.height, spec.width)), spec)


@pytest.fixture(scope="session")
def wide_spec(spec: GraphSpec) -> GraphSpec:
    """Another size than the model's own, and two images per run."""
    return replace(spec, height=48, width=80, batch=2)


@pytest.fixture(scope="session")
def wide_graph(model: Dedos, wide_spec: GraphSpec) -> onnx.ModelProto:
    return image_graph(freeze(model, size_hw=(48, 80)), wide_spec)


@pytest.fixture(scope="session")
def half_graph(model: Dedos, spec: GraphSpec) -> onnx.ModelProto:
    """FP16 for TensorRT."""
    frozen = freeze(model, size_hw=(spec.height, spec.width), precision="fp16", deformable="gather")
    return image_graph(frozen, spec)


@pytest.fixture(scope="session")
def text_file(model: Dedos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text_encoder.onnx"
    return save_text_tower(model.text_tower, path, context_length=CONTEXT)


@pytest.fixture
def frames() -> list[NDArray[np.uint8]]:
    """Three pictures with structure, of odd sizes."""
    rng = np.random.default_rng(5)
    sizes = ((61, 83), (40, 100), (97, 50))
    return [
        np.kron(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8), np.ones((17, 15, 1), np.uint8))[
            :height, :width
        ]
        for height, width in sizes
    ]


@pytest.fixture
def base_text(spec: GraphSpec) -> NDArray[np.float32]:
    rows = np.random.default_rng(6).normal(size=(9, spec.text_width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def open_graph(tmp_path: Path) -> Any:
    """Return a function that opens a graph as the runtime does."""

    def opened(graph: onnx.ModelProto, spec: GraphSpec) -> OnnxEngine:
        path = tmp_path / f"graph{len(list(tmp_path.iterdir()))}.onnx"
        save_graph(graph, path)
        return OnnxEngine(path, spec, threads=1)

    return opened
