"""Constants of a graph stored small and turned back to float32 when the graph loads.

A runtime folds what turns them back at load time, so the arithmetic and the speed are those of float32.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dedos_deploy.errors import ParityError
from dedos_deploy.export.graph import tensor_bytes

STORED_SMALL_FROM = 4096
"""Bytes from which a float32 constant is worth storing smaller."""

LARGEST_CODE = 127

Matrices = Literal["half", "int8"]
Rows = tuple[NDArray[np.int8], NDArray[np.float32]]


def store_small(model: onnx.ModelProto, *, matrices: Matrices = "half") -> None:
    """Store large float32 constants as float16, or as int8 where that loses nothing.

    A constant whose rows or columns are whole numbers times one scale each, as those of a compact
    checkpoint are, becomes int8 without loss; any other is rounded once, to 11 significant bits.
    matrices: `int8` rounds the constants of matrix products to whole numbers times one scale per
    last index, too.

    What QuantizeLinear and DequantizeLinear read stays as it is: behind a Cast a runtime does not
    know it for a constant.

    Raises ParityError for a value beyond float16's range.
    """
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    kept = _read_by(model.graph, ("QuantizeLinear", "DequantizeLinear"))
    multiplied = _read_by(model.graph, ("MatMul", "Gemm"))
    for tensor in model.graph.initializer:
        large = tensor_bytes(tensor) >= STORED_SMALL_FROM
        if tensor.data_type != onnx.TensorProto.FLOAT or not large or tensor.name in kept:
            continue
        values, name = numpy_helper.to_array(tensor), tensor.name
        rows = int8_rows(values)
        if rows is None and matrices == "int8" and values.ndim == 2 and name in multiplied:
            rows = rounded_rows(values)
        if rows is None:
            tensor.CopyFrom(numpy_helper.from_array(_to_half(values, name), f"{name}.half"))
            nodes.append(_to_float(f"{name}.half", name, f"{name}/Cast"))
            continue
        codes, scale = rows
        tensor.CopyFrom(numpy_helper.from_array(codes, f"{name}.int8"))
        added.append(numpy_helper.from_array(scale, f"{name}.scale"))
        nodes.append(_to_float(f"{name}.int8", f"{name}.whole", f"{name}/Cast"))
        nodes.append(
            onnx.helper.make_node("Mul", [f"{name}.whole", f"{name}.scale"], [name], f"{name}/Mul")
        )
    model.graph.initializer.extend(added)
    _prepend(model.graph, nodes)


def rounded_rows(values: NDArray[np.float32]) -> Rows:
    """Return int8 codes and float32 scales [1, N] of a matrix [M, N], off by half a scale at most."""
    scale = np.abs(values).max(axis=0, keepdims=True) / np.float32(LARGEST_CODE)
    scale[scale == 0] = 1
    return np.rint(values / scale).astype(np.int8), scale


def int8_rows(values: NDArray[np.float32]) -> Rows | None:
    """Return int8 codes and float32 scales whose product is `values` bit for bit, None if none is.

    One scale per index of the first axis, or of the last where an exporter has transposed a matrix.
    """
    if values.ndim < 2:
        return None
    for axis in (0, values.ndim - 1):
        others = tuple(other for other in range(values.ndim) if other != axis)
        scale = np.abs(values).max(axis=others, keepdims=True) / np.float32(LARGEST_CODE)
        scale[scale == 0] = 1
        codes = np.rint(values / scale)
        if np.array_equal(codes * scale, values):
            return codes.astype(np.int8), scale
    return None


def _read_by(graph: onnx.GraphProto, kinds: Collection[str]) -> set[str]:
    return {name for node in graph.node if node.op_type in kinds for name in node.input}


def _to_float(source: str, result: str, name: str) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [result], name, to=onnx.TensorProto.FLOAT)


def _to_half(values: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    if np.abs(values).max() > np.finfo(np.float16).max:
        raise ParityError(
            f"weight {name!r} reaches {np.abs(values).max():.3g}, beyond what float16 can store"
        )
    return values.astype(np.float16)


def _prepend(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    following = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *following])
