"""Who makes and who reads each tensor of an ONNX graph."""

from __future__ import annotations

from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class Wiring:
    """A snapshot of a graph's connections; take a new one after changing the graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._consumers.setdefault(name, []).append(node)

    def producer(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """Return the node that makes `name` if it is an `op_type`."""
        node = self._producers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        return self._consumers.get(name, [])

    def only_consumer(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """Return the node that alone reads `name` if it is an `op_type`."""
        readers = self.consumers(name)
        if len(readers) != 1 or name in self.outputs or readers[0].op_type != op_type:
            return None
        return readers[0]

    def value(self, name: str) -> NDArray[Any]:
        """Return the constant `name`."""
        return numpy_helper.to_array(self.constants[name])

    def weight_of(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
        """Return the constant that is the second factor of a product, if it is one.

        A weight that several nodes share is transposed inside the graph, as torch stores it.
        """
        if len(node.input) < 2:
            return None
        name = node.input[1]
        turned = self.producer(name, "Transpose")
        return self.constants.get(name if turned is None else turned.input[0])


def remove_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes, constants and types that no output depends on."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    produced = {name for node in kept for name in node.output}
    for field, names in ((graph.initializer, needed), (graph.value_info, produced)):
        # One by one: protobuf frees nothing before the whole graph, so putting back what remains
        # would hold every weight twice.
        for index in range(len(field) - 1, -1, -1):
            if field[index].name not in names:
                del field[index]
