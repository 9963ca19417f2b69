"""Q/DQ nodes: exact arithmetic against numpy, one pattern that runtimes know, int8 weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from calib_model import copied
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dedos_deploy.calib.placement import (
    quantize,
    site_tensors,
    weight_codes,
    weight_scale,
)
from dedos_deploy.calib.sites import find_sites
from dedos_deploy.errors import BadInputError


def _ranges(graph: onnx.ModelProto, amax: float = 4.0) -> dict[str, float]:
    runs = site_tensors(graph)
    return {name: amax for run in runs for name in (run.activation, run.result) if name}


def _all(graph: onnx.ModelProto) -> set[str]:
    return {site.name for site in find_sites(graph)}


def _product_graph() -> tuple[onnx.ModelProto, NDArray[np.float32], NDArray[np.float32]]:
    """Return x [1, 5, 8] → relu(x W + b) as one site named `layer`, W, and b."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 4)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "model.layer.weight"], ["product"], "layer/MatMul"),
        helper.make_node("Add", ["product", "model.layer.bias"], ["sum"], "layer/Add"),
        helper.make_node("Relu", ["sum"], ["y"], "relu"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "product",
        [value("x", TensorProto.FLOAT, [1, 5, 8])],
        [value("y", TensorProto.FLOAT, [1, 5, 4])],
        [
            numpy_helper.from_array(weight, "model.layer.weight"),
            numpy_helper.from_array(bias, "model.layer.bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model, weight, bias


def test_a_product_is_what_integers_give() -> None:
    """Against int64 arithmetic: codes of both sides multiplied, then scaled, then the bias."""
    model, weight, bias = _product_graph()
    x = np.random.default_rng(1).normal(size=(1, 5, 8)).astype(np.float32) * 2
    assert quantize(model, {"x": 3.0}, {"layer"}, target="cpu") == 1
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["y"], {"x": x})
    step = np.float64(np.float32(3.0 / 127))
    codes = np.clip(np.rint(x.astype(np.float64) / step), -128, 127).astype(np.int64)
    steps = (np.abs(weight.astype(np.float64)).max(0) / 127).astype(np.float32).astype(np.float64)
    rows = np.rint(weight / steps).astype(np.int64)
    expected = np.maximum((codes @ rows) * step * steps + bias, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_weight_codes_are_within_half_a_step(axis: int) -> None:
    values = np.random.default_rng(axis).normal(size=(3, 4, 5, 6)).astype(np.float32)
    values[(slice(None),) * axis + (1,)] = 0
    scale = weight_scale(values, axis)
    codes = weight_codes(values, scale, axis)
    shape = [1] * 4
    shape[axis] = -1
    steps = scale.reshape(shape)
    assert (np.abs(codes * steps - values) <= steps / 2 * 1.000001).all()
    others = tuple(other for other in range(4) if other != axis)
    peaks = np.abs(codes.astype(int)).max(axis=others)
    assert peaks[1] == 0 and (np.delete(peaks, 1) == 127).all() and scale[1] == 1


def test_onnx_runtime_computes_every_site_in_integers(
    float_graph: onnx.ModelProto, tmp_path: Path
) -> None:
    """The optimized graph has an integer product per site, and no dequantized float product."""
    graph = copied(float_graph)
    count = quantize(graph, _ranges(graph), _all(graph), target="cpu")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    convs = sum(site.kind == "conv" for site in find_sites(float_graph))
    assert kinds["QLinearConv"] == convs
    assert kinds["MatMulIntegerToFloat"] == count - convs


@pytest.mark.parametrize("target", ["cpu", "rtx"])
def test_the_pattern(float_graph: onnx.ModelProto, target: Any) -> None:
    graph = copied(float_graph)
    quantize(graph, _ranges(graph), _all(graph), target=target)
    onnx.checker.check_model(graph, full_check=True)
    constants = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    makers = {name: node for node in graph.graph.node for name in node.output}
    for node in graph.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = constants[node.input[2]]
        if zero.shape:  # of weights
            assert zero.dtype == np.int8 and not zero.any()
        elif target == "rtx":
            assert zero.dtype == np.int8 and zero == 0
        else:
            assert zero.dtype == np.uint8 and zero in (0, 128)
    # One pair per tensor, however many read it.
    quantized = [n.input[0] for n in graph.graph.node if n.op_type == "QuantizeLinear"]
    assert len(set(quantized)) == len(quantized)
    for site in find_sites(float_graph):
        node = next(n for n in graph.graph.node if n.name == site.node)
        assert {makers[name].op_type for name in node.input[:2]} == {"DequantizeLinear"}
        assert constants[makers[node.input[1]].input[0]].dtype == np.int8
        assert site.weight not in constants


def test_scores_stay_close(float_graph: onnx.ModelProto, run: Any, ranges_of: Any) -> None:
    graph = copied(float_graph)
    quantize(graph, ranges_of(graph), _all(graph), target="cpu")
    expected, found = run(float_graph), run(graph)
    assert not np.array_equal(found, expected)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.05 * np.sqrt(np.mean(expected**2))


def test_only_planned_sites_change(float_graph: onnx.ModelProto) -> None:
    graph = copied(float_graph)
    assert quantize(graph, _ranges(graph), {"trunk.blocks.0.fc"}, target="cpu") == 1
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert kinds["QuantizeLinear"] == 1 and kinds["DequantizeLinear"] == 2
    again = copied(float_graph)
    assert quantize(again, _ranges(again), set(), target="cpu") == 0
    assert [n.name for n in again.graph.node] == [n.name for n in float_graph.graph.node]


def test_both_runs_of_a_module_share_its_weight(float_graph: onnx.ModelProto) -> None:
    graph = copied(float_graph)
    assert quantize(graph, _ranges(graph), {"refinement.keep"}, target="cpu") == 2
    stored = [t for t in graph.graph.initializer if t.data_type == TensorProto.INT8 and t.dims]
    assert len([t for t in stored if len(t.dims) == 2]) == 1


def test_a_tensor_without_a_range_stays_float(float_graph: onnx.ModelProto) -> None:
    site = next(s for s in find_sites(float_graph) if s.name == "trunk.blocks.0.fc")
    for ranges in ({}, {site.activation: 0.0}, {site.activation: float("nan")}):
        graph = copied(float_graph)
        assert quantize(graph, ranges, {site.name}, target="cpu") == 0


def test_half_graphs_get_half_scales_that_reach_far_enough(half_graph: onnx.ModelProto) -> None:
    graph = copied(half_graph)
    amax = 3.3
    quantize(graph, _ranges(graph, amax), _all(graph), target="rtx")
    onnx.checker.check_model(graph)
    assert graph.opset_import[0].version >= 19
    constants = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    scales = [constants[n.input[1]] for n in graph.graph.node if n.op_type == "QuantizeLinear"]
    half = [scale for scale in scales if scale.dtype == np.float16 and scale.shape == ()]
    assert half and all(float(scale) * 127 >= amax for scale in half)


def test_weights_are_stored_as_int8(float_graph: onnx.ModelProto) -> None:
    graph = copied(float_graph)
    quantize(graph, _ranges(graph), _all(graph), target="cpu")
    weights = {site.weight for site in find_sites(float_graph)}
    stored = {t.name: t for t in float_graph.graph.initializer}
    elements = sum(int(np.prod(stored[name].dims)) for name in weights)
    saved = len(float_graph.SerializeToString()) - len(graph.SerializeToString())
    assert saved > 2 * elements  # 3 bytes of 4, less scales and nodes


def test_a_layer_that_is_no_site_is_refused(float_graph: onnx.ModelProto) -> None:
    with pytest.raises(BadInputError, match="no layer 'trunk.proj' to quantize; make the plan"):
        quantize(copied(float_graph), {}, {"trunk.proj"}, target="cpu")
