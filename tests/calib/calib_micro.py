"""The micro graph of the calibration tests."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HEIGHT, WIDTH, TEXT_WIDTH = 12, 16, 6


def micro_graph(batch: int = 1) -> onnx.ModelProto:
    """Return image → pixels → features (C = 6) → log (of valid) and scores, by text."""
    weight = np.random.default_rng(0).normal(size=(3, TEXT_WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "weight"], ["features"]),
        helper.make_node("Transpose", ["text"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["features", "columns"], ["products"]),
        helper.make_node("Mul", ["products", "valid"], ["scores"]),
        helper.make_node("Log", ["features"], ["logarithms"]),
        helper.make_node("Shape", ["features"], ["sides"]),
    ]
    graph = helper.make_graph(
        nodes,
        "micro",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, HEIGHT, WIDTH, 3]),
            helper.make_tensor_value_info("text", TensorProto.FLOAT, ["K", TEXT_WIDTH]),
            helper.make_tensor_value_info("valid", TensorProto.FLOAT, ["K"]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, HEIGHT, WIDTH, "K"])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model


def features_of(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what numpy makes of the tensor `features`, float32 [H, W, C]."""
    weight = numpy_helper.to_array(micro_graph().graph.initializer[0])
    return frame.astype(np.float32) @ weight


def picture(seed: int, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return noise, uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
