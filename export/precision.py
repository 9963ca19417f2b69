"""What must be float32 inside a half-precision graph, proved on the graph itself.

Precision lives in the ONNX graph and engines are built strongly typed, so what is written there is
what runs. `freeze` puts the islands in place; this walk refuses a graph where one is missing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx

from dedos_deploy.errors import EngineError
from dedos_deploy.export.graph import all_nodes
from dedos_deploy.spec import Precision

ISLAND_OPS = frozenset(
    (
        "LayerNormalization InstanceNormalization GroupNormalization Softmax LogSoftmax "
        "ReduceL2 ReduceMean ReduceSum ReduceSumSquare ReduceProd Exp Log Sqrt Reciprocal Pow"
    ).split()
)
"""Sums over many elements and steep functions: in float16 they overflow or lose the small terms."""

WEIGHT_OPS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
SMALL_WEIGHT = 4096
"""Elements up to which a float32 weight in a half graph is of no consequence."""

LOGIT_MODULES = ("text_aggregation", "word_logits", "word_cosines")
"""The modules whose own products are the cosine, the scale and the bias of class logits; the last is
of a cost volume, whose cosines are aggregated before they become logits."""

LOGITS = "class logits"

_FLOAT = onnx.TensorProto.FLOAT
_HALF = onnx.TensorProto.FLOAT16


@dataclass(frozen=True)
class PrecisionReport:
    """What a graph computes in which precision."""

    islands: dict[str, int]
    """Number of float32 nodes per kind."""
    half_weights: int
    """Number of matrix and convolution weights in float16."""
    float_weights: int
    """Number of matrix and convolution weights in float32."""
    casts: int
    """Number of Cast nodes."""


def check_precision(model: onnx.ModelProto, precision: Precision) -> PrecisionReport:
    """Return the counts of a graph whose types are as `precision` promises.

    Raises EngineError naming the first node that is not: a half LayerNorm, softmax, normaliser or
    logit scale, a large float32 weight in an fp16 graph other than rows of words, anything half in an fp32 one, or a graph
    whose LayerNorm was taken apart.
    """
    types = tensor_types(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    islands: Counter[str] = Counter()
    weight_types: Counter[int] = Counter()
    casts = 0
    for node in all_nodes(model.graph):
        casts += node.op_type == "Cast"
        if node.op_type in ISLAND_OPS:
            islands[node.op_type] += _check_island(node, types)
        if _makes_logits(node):
            islands[LOGITS] += _check_island(node, types)
        if node.op_type in WEIGHT_OPS:
            for tensor in (weights[name] for name in node.input if name in weights):
                if len(tensor.dims) >= 2 and not _makes_logits(node):
                    _check_weight(node, tensor, precision)
                    weight_types[tensor.data_type] += 1
    if not islands["LayerNormalization"]:
        raise EngineError(
            "the graph has no LayerNormalization node although the model has LayerNorm; taken "
            "apart it breaks half precision, so export with opset 17 or newer"
        )
    if not islands[LOGITS]:
        raise EngineError(
            f"the graph has no float32 node of the modules {' or '.join(LOGIT_MODULES)}, so the type "
            f"of its logit scale cannot be proved; export the frozen model itself"
        )
    return PrecisionReport(dict(islands), weight_types[_HALF], weight_types[_FLOAT], casts)


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the ONNX element type of every tensor whose type the graph states."""
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def _check_island(node: onnx.NodeProto, types: dict[str, int]) -> int:
    """Return 1 for a float32 node, 0 for integer arithmetic on shapes."""
    kind = types.get(node.input[0])
    if kind == _HALF:
        raise EngineError(
            f"node {node.name!r} ({node.op_type}) works in float16, where it overflows or loses "
            f"precision; cast its input to float32 in the model"
        )
    if kind is None:
        raise EngineError(f"the graph does not state the type of {node.input[0]!r}")
    return int(kind == _FLOAT)


def _makes_logits(node: onnx.NodeProto) -> bool:
    module = node.name.split("/")[0].split(".")[-1]
    return module in LOGIT_MODULES and node.op_type in ("MatMul", "Mul", "Add", "Sigmoid")


def _check_weight(node: onnx.NodeProto, weight: onnx.TensorProto, precision: Precision) -> None:
    count = 1
    for side in weight.dims:
        count *= side
    if precision == "fp16" and weight.data_type == _FLOAT and count > SMALL_WEIGHT:
        raise EngineError(
            f"node {node.name!r} has the float32 weight {weight.name!r} of {count} elements in an "
            f"fp16 graph; let freeze() turn it to half"
        )
    if precision == "fp32" and weight.data_type == _HALF:
        raise EngineError(
            f"node {node.name!r} has the float16 weight {weight.name!r} in an fp32 graph"
        )
