"""A graph of four nodes, whose tensors numpy computes too, and a small whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from calib_micro import HEIGHT, TEXT_WIDTH, WIDTH, micro_graph, picture
from calib_model import SLOTS, small_config
from numpy.typing import NDArray

from dedos_deploy.calib.collect import CalibrationInputs, collect_histograms
from dedos_deploy.calib.placement import site_tensors
from dedos_deploy.export.graph import image_graph
from dedos_deploy.model import Dedos, FrozenDedos, build_model, freeze
from dedos_deploy.scenes import KINDS, render_image
from dedos_deploy.spec import GraphSpec


@pytest.fixture
def spec() -> GraphSpec:
    return GraphSpec(HEIGHT, WIDTH, TEXT_WIDTH)


@pytest.fixture
def graph() -> onnx.ModelProto:
    return micro_graph()


@pytest.fixture
def frames() -> list[NDArray[np.uint8]]:
    """Eleven different pictures at the network size: not a multiple of the frames between saves."""
    return [picture(seed, (HEIGHT, WIDTH)) for seed in range(11)]


@pytest.fixture
def text() -> NDArray[np.float32]:
    rows = np.random.default_rng(1).normal(size=(5, TEXT_WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def inputs(
    graph: onnx.ModelProto,
    spec: GraphSpec,
    frames: list[NDArray[np.uint8]],
    text: NDArray[np.float32],
) -> CalibrationInputs:
    return CalibrationInputs(graph, spec, frames, text)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Forty pictures of growing brightness, in two folders; number i has a mean of about 6 i."""
    import cv2

    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for index in range(40):
        place = folder / "deep" if index % 2 else folder
        grey = picture(index, (20, 30)) // 10 + np.uint8(5 * index)
        cv2.imwrite(str(place / f"{index}.png"), grey)
    return folder


@pytest.fixture(scope="session")
def model() -> Dedos:
    torch.set_num_threads(1)
    return build_model(small_config(), seed=3)


@pytest.fixture(scope="session")
def frozen(model: Dedos) -> FrozenDedos:
    return freeze(model, size_hw=model.config.size_hw)


@pytest.fixture(scope="session")
def model_spec(model: Dedos) -> GraphSpec:
    return GraphSpec(*model.config.size_hw, model.config.clip.text_width)


@pytest.fixture(scope="session")
def float_graph(frozen: FrozenDedos, model_spec: GraphSpec) -> onnx.ModelProto:
    return image_graph(frozen, model_spec)


@pytest.fixture(scope="session")
def half_graph(model: Dedos, model_spec: GraphSpec) -> onnx.ModelProto:
    """FP16 for TensorRT."""
    half = freeze(model, size_hw=model.config.size_hw, precision="fp16", deformable="gather")
    return image_graph(half, model_spec)


@pytest.fixture(scope="session")
def model_frames(model: Dedos) -> list[NDArray[np.uint8]]:
    """Six embedded scenes at the network size."""
    kinds = [KINDS[index % len(KINDS)] for index in range(6)]
    return [
        render_image(kind, seed=index, size_hw=model.config.size_hw)[0]
        for index, kind in enumerate(kinds)
    ]


@pytest.fixture(scope="session")
def model_text(model_spec: GraphSpec) -> NDArray[np.float32]:
    rows = np.random.default_rng(4).normal(size=(SLOTS, model_spec.text_width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def run(model_frames: list[NDArray[np.uint8]], model_text: NDArray[np.float32]) -> Any:
    """Return a function that gives a graph's scores of all frames, float32 [F, K, h, w]."""

    def scores(graph: onnx.ModelProto) -> NDArray[np.float32]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feeds = {"text": model_text, "valid": np.ones(len(model_text), np.float32)}
        return np.concatenate(
            [session.run(["scores"], feeds | {"image": frame[None]})[0] for frame in model_frames]
        )

    return scores


@pytest.fixture
def ranges_of(
    model_spec: GraphSpec, model_frames: list[NDArray[np.uint8]], model_text: NDArray[np.float32]
) -> Any:
    """Return a function that gives the true maxima of a graph's site tensors."""

    def ranges(graph: onnx.ModelProto) -> dict[str, float]:
        runs = site_tensors(graph)
        names = list(dict.fromkeys(n for r in runs for n in (r.activation, r.result) if n))
        inputs = CalibrationInputs(graph, model_spec, model_frames, model_text)
        return {n: h.max for n, h in collect_histograms(inputs, names, threads=1).items()}

    return ranges
