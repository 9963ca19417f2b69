"""Graphs whose queries are the picture's own: what they compute, and on which targets they run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_micro import micro_config

from dedos_deploy.calib.sites import find_sites
from dedos_deploy.export.graph import check_ops, image_graph
from dedos_deploy.export.precision import check_precision
from dedos_deploy.model import Dedos, build_model, freeze
from dedos_deploy.presets import QuerySource
from dedos_deploy.spec import GraphSpec

SETS = {"mixed": 3, "clip": 1}


@pytest.fixture(scope="module", params=["mixed", "clip"])
def source(request: pytest.FixtureRequest) -> QuerySource:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def own(source: QuerySource) -> Dedos:
    """A model in which every part of the queries counts."""
    config = replace(
        micro_config(),
        query_source=source,
        query_sets=SETS[source],
        pixel_decoder="fpn",
        pixel_layers=0,
    )
    model = build_model(config, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def graph_of(model: Dedos, precision: Any) -> tuple[onnx.ModelProto, GraphSpec]:
    spec = GraphSpec(*model.config.size_hw, model.config.clip.text_width)
    frozen = freeze(model, size_hw=(spec.height, spec.width), precision=precision)
    return image_graph(frozen, spec), spec


def test_it_runs_in_the_runtime_and_computes_the_model(own: Dedos, open_graph: Any) -> None:
    graph, spec = graph_of(own, "fp32")
    for target in ("cpu", "rtx", "trt"):
        check_ops(graph, target)  # type: ignore[arg-type]
    # What makes the queries stays as it is in INT8; P^F is quantized as in every model.
    names = {site.name for site in find_sites(graph)}
    assert not any(name.startswith("picture_queries.") for name in names)
    assert not names & {"refinement.keys", "refinement.values"} and "refinement.keep" in names
    rng, found = np.random.default_rng(0), []
    text = rng.normal(size=(5, spec.text_width)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    with open_graph(graph, spec) as engine:
        for _ in range(2):
            image = rng.integers(0, 256, (1, spec.height, spec.width, 3), dtype=np.uint8)
            inputs = {"image": image, "text": text, "valid": np.ones(5, np.float32)}
            found.append(engine.infer(inputs)["scores"].copy())
            with torch.no_grad():
                expected = own(*(torch.from_numpy(inputs[n]) for n in ("image", "text", "valid")))
            np.testing.assert_allclose(found[-1], expected.numpy(), atol=2e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_half_of_it_is_half_with_its_islands(
    own: Dedos, source: QuerySource, open_graph: Any
) -> None:
    graph, spec = graph_of(own, "fp16")
    check_ops(graph, "rtx")
    check_ops(graph, "trt")
    report = check_precision(graph, "fp16")
    assert report.float_weights == 0
    gates = {"mixed": "picture_queries.logits.weight", "clip": "picture_queries.value.weight"}
    halves = {t.name for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    assert any(name.endswith(gates[source]) for name in halves)
    rng = np.random.default_rng(1)
    text = rng.normal(size=(5, spec.text_width)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    image = rng.integers(0, 256, (1, spec.height, spec.width, 3), dtype=np.uint8)
    inputs = {"image": image, "text": text, "valid": np.ones(5, np.float32)}
    with open_graph(graph, spec) as engine:
        scores = engine.infer(inputs)["scores"]
    with torch.no_grad():
        expected = own(*(torch.from_numpy(inputs[n]) for n in ("image", "text", "valid")))
    np.testing.assert_allclose(scores, expected.numpy(), atol=2e-2)
