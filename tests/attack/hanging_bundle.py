"""A bundle whose graph takes hours for a frame, as a driver or an engine that never answers does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import image_graph, write_tiny_bundle

TURNS = 10**12


def hanging_graph() -> bytes:
    """Return the colour detector with a loop of hours before its first step."""
    model = onnx.load_from_string(image_graph())
    graph = model.graph
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["sum", "sum"], ["next"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )
    graph.initializer.append(numpy_helper.from_array(np.array(TURNS), "turns"))
    graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    first = graph.node[0]
    assert first.op_type == "Cast"
    late = [
        helper.make_node("Loop", ["turns", "always", "start"], ["end"], body=body),
        helper.make_node("Mul", ["cast", "end"], ["late"]),
    ]
    # Of the picture, so that nothing can be computed before there is one.
    start = helper.make_node("ReduceMax", ["cast"], ["start"], keepdims=0)
    nodes = [first, start, *late, *graph.node[1:]]
    for node in nodes[4:]:
        for place, name in enumerate(node.input):
            if name == "cast":
                node.input[place] = "late"
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def write_hanging_bundle(dest: Path) -> Path:
    return write_tiny_bundle(dest, model=hanging_graph())
