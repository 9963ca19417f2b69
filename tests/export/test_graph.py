from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_micro import copied, micro_config
from onnx import numpy_helper

from dedos_deploy.errors import EngineError
from dedos_deploy.export import graph as graph_module
from dedos_deploy.export.fuse_attention import fuse_attention
from dedos_deploy.export.graph import (
    check_ops,
    check_tensors,
    image_graph,
    save_graph,
    weight_bytes,
)
from dedos_deploy.export.precision import LOGITS, check_precision, tensor_types
from dedos_deploy.model import Dedos, build_model, freeze
from dedos_deploy.spec import GraphSpec


def _inputs(spec: GraphSpec, slots: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(slots, spec.text_width)).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (spec.batch, spec.height, spec.width, 3), dtype=np.uint8),
        "text": text / np.linalg.norm(text, axis=1, keepdims=True),
        "valid": np.ones(slots, np.float32),
    }


def _expected(model: Dedos, inputs: dict[str, Any]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        scores = model(*(torch.from_numpy(inputs[name]) for name in ("image", "text", "valid")))
    return scores.numpy()


@pytest.mark.parametrize("slots", [1, 5, 300])
def test_any_number_of_slots(
    model: Dedos, spec: GraphSpec, float_graph: onnx.ModelProto, open_graph: Any, slots: int
) -> None:
    inputs = _inputs(spec, slots)
    with open_graph(float_graph, spec) as engine:
        scores = engine.infer(inputs)["scores"]
    np.testing.assert_allclose(scores, _expected(model, inputs), atol=2e-5)


def test_another_size_and_two_images(
    model: Dedos, wide_spec: GraphSpec, wide_graph: onnx.ModelProto, open_graph: Any
) -> None:
    inputs = _inputs(wide_spec, 11)
    with open_graph(wide_graph, wide_spec) as engine:
        scores = engine.infer(inputs)["scores"]
    for row in range(2):
        alone = inputs | {"image": inputs["image"][row : row + 1]}
        np.testing.assert_allclose(scores[row], _expected(model, alone)[0], atol=2e-5)


def test_half_graph_follows_the_float_model(
    model: Dedos, spec: GraphSpec, half_graph: onnx.ModelProto, open_graph: Any
) -> None:
    inputs = _inputs(spec, 20)
    with open_graph(half_graph, spec) as engine:
        scores = engine.infer(inputs)["scores"]
    np.testing.assert_allclose(scores, _expected(model, inputs), atol=1e-2)


def test_targets_get_only_operators_they_run(
    float_graph: onnx.ModelProto, half_graph: onnx.ModelProto
) -> None:
    check_ops(float_graph, "cpu")
    check_ops(half_graph, "rtx")
    check_ops(half_graph, "trt")
    with pytest.raises(EngineError, match=r"pixel_decoder.*GridSample.*deformable='gather'"):
        check_ops(float_graph, "rtx")


def test_cat_segs_aggregation_in_the_graphs_of_every_target(open_graph: Any) -> None:
    """On 13 x 3 coarse cells: windows that are moved, and one that stands over."""
    config = replace(micro_config(), aggregation="catseg", aggregation_width=8)
    model, patch = build_model(config, seed=3), config.clip.patch
    spec = GraphSpec(26 * patch, 6 * patch, config.clip.text_width)
    size_hw = (spec.height, spec.width)
    graph = image_graph(freeze(model, size_hw=size_hw), spec)
    half = image_graph(freeze(model, size_hw=size_hw, precision="fp16", deformable="gather"), spec)
    for kind, target in ((graph, "cpu"), (half, "rtx"), (half, "trt")):
        check_ops(kind, target)  # type: ignore[arg-type]
    check_precision(half, "fp16")
    for kind, slots, atol in ((graph, 1, 2e-5), (graph, 9, 2e-5), (half, 9, 1e-2)):
        inputs = _inputs(spec, slots)
        with open_graph(kind, spec) as engine:
            scores = engine.infer(inputs)["scores"]
        np.testing.assert_allclose(scores, _expected(model, inputs), atol=atol)


def test_sampling_in_half_sums_in_half(half_graph: onnx.ModelProto) -> None:
    """What the corners see is the largest tensor of a frame; a ReduceSum would be float32."""
    sampling = [n for n in half_graph.graph.node if ".encoder.layers.0.attention/" in n.name]
    kinds = tensor_types(half_graph)
    rows = {name for n in sampling if n.op_type == "Gather" for name in n.output}
    seen = {n.output[0] for n in sampling if rows.intersection(n.input)}
    weighed = [n for n in sampling if n.op_type == "Mul" and seen.intersection(n.input)]
    assert len(seen) == len(weighed) == 4
    assert {kinds[n.output[0]] for n in weighed} == {onnx.TensorProto.FLOAT16}
    assert not [n.name for n in sampling if n.op_type.startswith("Reduce")]


@pytest.mark.parametrize(
    "op_type",
    ["Einsum", "NonZero", "ScatterND", "ScatterElements", "If", "Loop"],
)
@pytest.mark.parametrize("target", ["cpu", "rtx"])
def test_forbidden_operators_are_named(
    float_graph: onnx.ModelProto, half_graph: onnx.ModelProto, op_type: str, target: Any
) -> None:
    broken = copied(float_graph if target == "cpu" else half_graph)
    node = onnx.helper.make_node(op_type, ["valid"], ["other"], name=f"head/{op_type}")
    broken.graph.node.append(node)
    with pytest.raises(EngineError, match=f"'head/{op_type}' is a {op_type}, which {target}"):
        check_ops(broken, target)


def test_forbidden_operators_hide_nowhere(float_graph: onnx.ModelProto) -> None:
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("NonZero", ["x"], ["y"], "deep")], "g", [], []
    )
    broken = copied(float_graph)
    broken.graph.node.append(onnx.helper.make_node("Custom", ["x"], ["z"], "outer", body=inner))
    with pytest.raises(EngineError, match="'deep' is a NonZero"):
        check_ops(broken, "cpu")


def test_cubic_resize_functions_and_foreign_domains(float_graph: onnx.ModelProto) -> None:
    cubic = copied(float_graph)
    cubic.graph.node.append(onnx.helper.make_node("Resize", ["x"], ["y"], "up", mode="cubic"))
    with pytest.raises(EngineError, match="'up' is a cubic Resize"):
        check_ops(cubic, "cpu")
    called = copied(float_graph)
    called.functions.add().name = "aten_gelu"
    with pytest.raises(EngineError, match="aten_gelu.*not inlined"):
        check_ops(called, "cpu")
    foreign = copied(float_graph)
    foreign.graph.node.append(onnx.helper.make_node("Gelu", ["x"], ["y"], "g", domain="mine"))
    with pytest.raises(EngineError, match="domain 'mine'"):
        check_ops(foreign, "cpu")


def test_graph_tells_nothing_of_the_machine(float_graph: onnx.ModelProto) -> None:
    content = float_graph.SerializeToString()
    assert str(Path(graph_module.__file__).resolve().parents[1]).encode() not in content
    assert b"stack_trace" not in content and b".py" not in content
    assert all(node.name for node in float_graph.graph.node)
    assert any("trunk.blocks.1.qkv" in node.name for node in float_graph.graph.node)


def test_tensors_are_those_of_the_contract(float_graph: onnx.ModelProto, spec: GraphSpec) -> None:
    check_tensors(float_graph, spec)
    with pytest.raises(EngineError, match=r"'image'.*\[1, 32, 48, 3\] instead of.*\[2, 32"):
        check_tensors(float_graph, GraphSpec(32, 48, spec.text_width, batch=2))
    renamed = copied(float_graph)
    renamed.graph.input[1].name = "words"
    with pytest.raises(EngineError, match="image, words, valid, scores instead of image, text"):
        check_tensors(renamed, spec)


def test_large_weights_go_to_their_own_file(
    float_graph: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert save_graph(copied(float_graph), tmp_path / "a.onnx") == (tmp_path / "a.onnx",)
    monkeypatch.setattr(graph_module, "EXTERNAL_BYTES", 1000)
    files = save_graph(copied(float_graph), tmp_path / "b.onnx")
    assert [path.name for path in files] == ["b.onnx", "b.onnx.data"]
    again = onnx.load(files[0])
    assert weight_bytes(again) == weight_bytes(float_graph)
    assert files[0].stat().st_size < files[1].stat().st_size


def test_half_graph_keeps_its_islands(half_graph: onnx.ModelProto) -> None:
    report = check_precision(half_graph, "fp16")
    assert report.float_weights == 0 and report.half_weights > 20
    counts = {name: report.islands.get(name, 0) for name in ("LayerNormalization", "Softmax")}
    nodes = [node.op_type for node in half_graph.graph.node]
    assert counts == {name: nodes.count(name) for name in counts}
    assert report.islands[LOGITS] >= 3


@pytest.mark.parametrize("op_type", ["LayerNormalization", "Softmax", "ReduceSum"])
def test_missing_islands_are_named(half_graph: onnx.ModelProto, op_type: str) -> None:
    broken = copied(half_graph)
    node = next(
        node
        for node in broken.graph.node
        if node.op_type == op_type and node.input[0] not in ("valid", "text")
    )
    value = next(value for value in broken.graph.value_info if value.name == node.input[0])
    value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    with pytest.raises(EngineError, match=f"{op_type}.*works in float16"):
        check_precision(broken, "fp16")


def test_half_logits_are_named(half_graph: onnx.ModelProto) -> None:
    broken = copied(half_graph)
    node = next(n for n in broken.graph.node if n.name == "model.text_aggregation/Add")
    value = next(value for value in broken.graph.value_info if value.name == node.input[0])
    value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    with pytest.raises(EngineError, match="text_aggregation/Add.*works in float16"):
        check_precision(broken, "fp16")


def test_precision_must_be_what_was_promised(
    float_graph: onnx.ModelProto, half_graph: onnx.ModelProto
) -> None:
    assert check_precision(float_graph, "fp32").half_weights == 0
    with pytest.raises(EngineError, match="float32 weight .* in an fp16 graph"):
        check_precision(float_graph, "fp16")
    with pytest.raises(EngineError, match="float16 weight .* in an fp32 graph"):
        check_precision(half_graph, "fp32")
    decomposed = copied(float_graph)
    for node in decomposed.graph.node:
        node.op_type = node.op_type.replace("LayerNormalization", "Identity")
    with pytest.raises(EngineError, match="no LayerNormalization"):
        check_precision(decomposed, "fp32")


def test_fused_attention_computes_the_same(
    spec: GraphSpec, float_graph: onnx.ModelProto, open_graph: Any
) -> None:
    fused = copied(float_graph)
    before = sum(node.op_type == "Softmax" for node in fused.graph.node)
    count = fuse_attention(fused, min_tokens=1)
    after = sum(node.op_type == "Softmax" for node in fused.graph.node)
    # Both trunk blocks at least; masked attention of the decoder keeps its Softmax.
    assert count >= 2 and after == before - count and after > 0
    used = {name for node in fused.graph.node for name in node.input}
    assert {tensor.name for tensor in fused.graph.initializer} <= used
    inputs = _inputs(spec, 5)
    with open_graph(float_graph, spec) as plain, open_graph(fused, spec) as engine:
        expected = plain.infer(inputs)["scores"].copy()
        np.testing.assert_allclose(engine.infer(inputs)["scores"], expected, atol=1e-5)
    with pytest.raises(EngineError, match="MultiHeadAttention of domain 'com.microsoft'"):
        check_ops(fused, "cuda")


def test_attention_is_left_alone_when_small_or_half(
    float_graph: onnx.ModelProto, half_graph: onnx.ModelProto
) -> None:
    for graph in (copied(float_graph), copied(half_graph)):
        before = graph.SerializeToString(deterministic=True)
        assert fuse_attention(graph, min_tokens=512) == 0
        assert graph.SerializeToString(deterministic=True) == before
    assert fuse_attention(copied(half_graph), min_tokens=1) == 0


def test_fused_attention_keeps_its_scale(
    spec: GraphSpec, float_graph: onnx.ModelProto, open_graph: Any
) -> None:
    """The scale is read from the graph, not assumed to be 1/√d."""
    scaled = copied(float_graph)
    names = {node.input[1] for node in scaled.graph.node if node.name == "model.trunk.blocks.0/Mul"}
    for tensor in scaled.graph.initializer:
        if tensor.name in names:
            value = numpy_helper.to_array(tensor) * np.float32(3.0)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    fused = copied(scaled)
    assert fuse_attention(fused, min_tokens=1) >= 2
    inputs = _inputs(spec, 4)
    with open_graph(scaled, spec) as plain, open_graph(fused, spec) as engine:
        expected = plain.infer(inputs)["scores"].copy()
        np.testing.assert_allclose(engine.infer(inputs)["scores"], expected, atol=1e-5)


def test_attention_whose_merge_was_joined_with_another_reshape_is_left_alone(
    spec: GraphSpec, float_graph: onnx.ModelProto, open_graph: Any
) -> None:
    """The fused kernel gives [B, N, C], and what follows here needs four sides."""
    joined = copied(float_graph)
    graph = joined.graph
    merge = next(
        node
        for node in graph.node
        if node.op_type == "Reshape" and "blocks.0" in node.name and _makes(graph, node, 3)
    )
    batch, tokens, width = (int(side) for side in _shape(graph, merge))
    sides = {"four": (batch, tokens, 2, width // 2), "three": (batch, tokens, width)}
    for name, shape in sides.items():
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    end = merge.output[0]
    merge.input[1], merge.output[0] = "four", "merged"
    index = list(graph.node).index(merge) + 1
    graph.node.insert(
        index, onnx.helper.make_node("Transpose", ["merged"], ["turned"], perm=[0, 1, 2, 3])
    )
    graph.node.insert(index + 1, onnx.helper.make_node("Reshape", ["turned", "three"], [end]))
    fused = copied(joined)
    assert (
        fuse_attention(fused, min_tokens=1) == fuse_attention(copied(float_graph), min_tokens=1) - 1
    )
    inputs = _inputs(spec, 4)
    with open_graph(joined, spec) as plain, open_graph(fused, spec) as engine:
        expected = plain.infer(inputs)["scores"].copy()
        np.testing.assert_allclose(engine.infer(inputs)["scores"], expected, atol=1e-5)


def _shape(graph: onnx.GraphProto, reshape: onnx.NodeProto) -> np.ndarray:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    return numpy_helper.to_array(tensors[reshape.input[1]])


def _makes(graph: onnx.GraphProto, reshape: onnx.NodeProto, sides: int) -> bool:
    """Whether a Reshape merges heads, behind their Transpose, to so many sides."""
    before = next(node for node in graph.node if reshape.input[0] in node.output)
    return before.op_type == "Transpose" and _shape(graph, reshape).size == sides
