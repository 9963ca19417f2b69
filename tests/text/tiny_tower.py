"""A text tower of two operations: embedding = Σ over positions of weight · table[token mod rows]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONTEXT = 77
WIDTH = 6
ROWS = 97

Tower = Callable[[np.ndarray], np.ndarray]


def tower_model(
    table: np.ndarray, weights: np.ndarray, output: str = "embedding"
) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mod", ["tokens", "rows"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["letters"], axis=0),
        helper.make_node("MatMul", ["weights", "letters"], [output]),
    ]
    constants = {
        "rows": np.array(len(table), dtype=np.int64),
        "table": table,
        "weights": weights,
    }
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", len(weights)])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", table.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model
