"""Constants of a graph stored as float16 and turned back to float32 when the graph loads.

A runtime folds the casts at load time, so the arithmetic and the speed are those of float32.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dedos_deploy.errors import ParityError
from dedos_deploy.export.graph import tensor_bytes

STORED_HALF_FROM = 4096
"""Bytes from which a float32 constant is worth storing as float16."""


def store_half(model: onnx.ModelProto) -> None:
    """Store large float32 constants as float16; each is rounded once, to 11 significant bits.

    Raises ParityError for a value beyond float16's range.
    """
    casts = []
    for tensor in model.graph.initializer:
        large = tensor_bytes(tensor) >= STORED_HALF_FROM
        if tensor.data_type != onnx.TensorProto.FLOAT or not large:
            continue
        values, name = numpy_helper.to_array(tensor), tensor.name
        tensor.CopyFrom(numpy_helper.from_array(_to_half(values, name), f"{name}.half"))
        cast = onnx.helper.make_node(
            "Cast", [f"{name}.half"], [name], f"{name}/Cast", to=onnx.TensorProto.FLOAT
        )
        casts.append(cast)
    _prepend(model.graph, casts)


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
