"""Q/DQ nodes in a typed graph: int8 weights per output channel, activations per tensor.

One pattern serves ONNX Runtime and TensorRT: every quantized product reads DequantizeLinear nodes on
both sides, Q/DQ of an activation is shared by all that read it, and both are symmetric. What differs
between runtimes is the table SCHEMES, each entry with its reason.

onnxruntime.quantization is not used: its static quantizer places Q/DQ by operator kind over the whole
graph and takes its ranges from its own calibrator, where here a plan names single layers and ranges
come from a table; it also leaves the float bias that ONNX Runtime then joins to the product (below).

Note [Bias]
ONNX Runtime joins MatMul and the Add of a vector into Gemm before it looks for Q/DQ, and has no
kernel for a Gemm with quantized inputs and float output: the graph then runs slower than in float. A bias of
shape [1, 1, N] is added all the same and is not joined.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dedos_deploy.calib.sites import Site, SiteKind, find_sites
from dedos_deploy.calib.wiring import Wiring, remove_unused
from dedos_deploy.errors import BadInputError
from dedos_deploy.spec import Target

LEVELS = 127
HALF_OPSET = 19
"""First opset whose QuantizeLinear takes float16."""


@dataclass(frozen=True)
class Scheme:
    """How the activation of one kind of product is quantized."""

    unsigned: bool = False
    """uint8 around zero point 128, or from 0 where the tensor is never negative."""

    output: bool = False
    """Quantize what the product makes, too."""


_SYMMETRIC = Scheme()
SCHEMES: Mapping[tuple[Target, SiteKind], Scheme] = {
    # x86 has no product of two int8, and ONNX Runtime turns int8 activations to uint8 only where a
    # single product reads them: of q, k and of all that share a pair, none would be joined.
    ("cpu", "matmul"): Scheme(unsigned=True),
    # QLinearConv is only found when its result is quantized as well.
    ("cpu", "conv"): Scheme(unsigned=True, output=True),
}
"""What differs from int8 with zero point 0, the only form that TensorRT takes."""


def scheme(target: Target, kind: SiteKind) -> Scheme:
    """Return how activations of `kind` are quantized for `target`."""
    return SCHEMES.get((target, kind), _SYMMETRIC)


@dataclass(frozen=True)
class SiteTensors:
    """The tensors of one run of a site whose ranges `quantize` may need, for any target."""

    site: str
    activation: str
    result: str | None
    """What a convolution makes, after a ReLU; None for a matrix product, whose result is never
    quantized."""


def site_tensors(model: onnx.ModelProto) -> list[SiteTensors]:
    """Return one entry per run of a site, in the graph's order, the same in every precision."""
    wiring = Wiring(model.graph)
    return [
        SiteTensors(
            site.name, site.activation, _result(site, wiring) if site.kind == "conv" else None
        )
        for site in find_sites(model)
    ]


def quantize(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    sites: Collection[str],
    *,
    target: Target,
) -> int:
    """Quantize the named sites of `model` in place; return how many products that were.

    ranges: amax > 0 of what `site_tensors` names, the |x| that level 127 stands for; a site whose tensor has
    no range, or was always zero, stays float; sites: names of Site; target: what runs the graph.

    Raises BadInputError for a name that is no site of the graph.
    """
    found = find_sites(model)
    unknown = sorted(set(sites) - {site.name for site in found})
    if unknown:
        raise BadInputError(
            f"the graph has no layer {unknown[0]!r} to quantize; make the plan of this graph"
        )
    placer = _Placer(model, ranges, target)
    count = sum(placer.place(site) for site in found if site.name in sites)
    placer.finish()
    return count


class _Placer:
    """Inserts Q/DQ pairs into one graph."""

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, float], target: Target) -> None:
        self.model, self.graph = model, model.graph
        self.ranges, self.target = ranges, target
        self.wiring = Wiring(model.graph)
        self.nodes = {node.name: node for node in model.graph.node}
        self.types = _types(model.graph)
        self._pairs: dict[tuple[str, bool], str] = {}
        self._weights: dict[tuple[str, bool], str] = {}
        self._before: dict[str, list[onnx.NodeProto]] = {}
        self._after: dict[str, list[onnx.NodeProto]] = {}
        self._half = False

    def place(self, site: Site) -> bool:
        """Quantize one product; returns whether it has all the ranges it needs."""
        chosen = scheme(self.target, site.kind)
        result = _result(site, self.wiring) if chosen.output else None
        needed = [site.activation] + ([result] if result is not None else [])
        if any(not self.ranges.get(name, 0.0) > 0 for name in needed):
            return False
        node = self.nodes[site.node]
        node.input[0] = self._pair(site.activation, unsigned=chosen.unsigned)
        node.input[1] = self._weight(site, node)
        if site.kind == "matmul":
            self._spread_bias(site)
        if result is not None:
            self._quantize_result(result)
        return True

    def finish(self) -> None:
        """Put the new nodes in their places and drop what nothing reads any more."""
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            nodes += [*self._before.get(node.name, []), node, *self._after.get(node.name, [])]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        remove_unused(self.graph)
        if self._half:
            for opset in self.model.opset_import:
                if opset.domain in ("", "ai.onnx"):
                    opset.version = max(opset.version, HALF_OPSET)

    def _pair(self, tensor: str, *, unsigned: bool) -> str:
        """Return `tensor` after its Q/DQ pair, made once for all that read it."""
        known = self._pairs.get((tensor, unsigned))
        if known is not None:
            return known
        name = f"{tensor}.{'uint8' if unsigned else 'int8'}"
        positive = unsigned and self.wiring.producer(tensor, "Relu") is not None
        kind = np.uint8 if unsigned else np.int8
        zero = self._constant(
            f"{name}.zero", np.array(128 if unsigned and not positive else 0, kind)
        )
        step = self.ranges[tensor] / (2 * LEVELS + 1 if positive else LEVELS)
        scale = self._constant(f"{name}.scale", self._scale(np.float64(step), tensor))
        pair = [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [name], f"{name}/Q"),
            helper.make_node(
                "DequantizeLinear", [name, scale, zero], [f"{name}.back"], f"{name}/DQ"
            ),
        ]
        self._insert_after(tensor, pair)
        self._pairs[tensor, unsigned] = f"{name}.back"
        return f"{name}.back"

    def _insert_after(self, tensor: str, pair: list[onnx.NodeProto]) -> None:
        maker = next((node for node in self.graph.node if tensor in node.output), None)
        place = self._before if maker is None else self._after
        anchor = self.graph.node[0] if maker is None else maker
        place.setdefault(anchor.name, []).extend(pair)

    def _quantize_result(self, tensor: str) -> None:
        """Let all readers of `tensor` have it after a Q/DQ pair."""
        back = self._pair(tensor, unsigned=True)
        for node in self.wiring.consumers(tensor):
            for index, name in enumerate(node.input):
                if name == tensor:
                    node.input[index] = back

    def _weight(self, site: Site, node: onnx.NodeProto) -> str:
        """Return the name of the site's weight, int8 turned back; shared weights are stored once."""
        turned = self.wiring.producer(node.input[1], "Transpose") is not None
        known = self._weights.get((site.weight, turned))
        if known is not None:
            return known
        values = self.wiring.value(site.weight)
        values = values.T if turned else values
        axis = 0 if site.kind == "conv" else values.ndim - 1
        name = f"{site.weight}.int8" + (".turned" if turned else "")
        scale = self._scale(weight_scale(values, axis), site.weight)
        codes = weight_codes(values, scale, axis)
        inputs = [
            self._constant(name, codes),
            self._constant(f"{name}.scale", scale),
            self._constant(f"{name}.zero", np.zeros(scale.shape, np.int8)),
        ]
        back = helper.make_node(
            "DequantizeLinear", inputs, [f"{name}.back"], f"{name}/DQ", axis=axis
        )
        self._before.setdefault(self.graph.node[0].name, []).append(back)
        self._weights[site.weight, turned] = f"{name}.back"
        return f"{name}.back"

    def _spread_bias(self, site: Site) -> None:
        """See Note [Bias]."""
        add = self.wiring.only_consumer(site.output, "Add")
        if add is None:
            return
        for index, name in enumerate(add.input):
            tensor = self.wiring.constants.get(name)
            if tensor is not None and len(tensor.dims) == 1:
                spread = f"{name}.spread"
                values = numpy_helper.to_array(tensor).reshape(1, 1, -1)
                add.input[index] = self._constant(spread, values)

    def _scale(self, values: NDArray[np.float64] | np.float64, tensor: str) -> NDArray[np.floating]:
        """Return scales in the type of `tensor`, rounded up, so that no level beyond 127 is needed."""
        if self.types.get(tensor) != TensorProto.FLOAT16:
            return np.asarray(values, np.float32)
        self._half = True
        near = np.asarray(values, np.float16)
        return np.where(near < values, np.nextafter(near, np.float16(np.inf)), near)

    def _constant(self, name: str, values: NDArray[np.generic]) -> str:
        if name not in self.wiring.constants:
            tensor = numpy_helper.from_array(np.asarray(values, order="C"), name)
            self.graph.initializer.append(tensor)
            self.wiring.constants[name] = tensor
        return name


def weight_scale(values: NDArray[np.floating], axis: int) -> NDArray[np.float64]:
    """Return one step per index of `axis`, max|w| / 127; 1 for rows of zeros."""
    others = tuple(other for other in range(values.ndim) if other != axis)
    scale = np.abs(values.astype(np.float64)).max(axis=others) / LEVELS
    return np.where(scale > 0, scale, 1.0)


def weight_codes(
    values: NDArray[np.floating], scale: NDArray[np.floating], axis: int
) -> NDArray[np.int8]:
    """Return round(w / scale) in [-127, 127], half to even."""
    shape = [1] * values.ndim
    shape[axis] = -1
    steps = np.rint(values.astype(np.float64) / scale.astype(np.float64).reshape(shape))
    return np.clip(steps, -LEVELS, LEVELS).astype(np.int8)


def _result(site: Site, wiring: Wiring) -> str:
    """Return the tensor after the product and a ReLU that alone reads it, which runtimes join."""
    relu = wiring.only_consumer(site.output, "Relu")
    return site.output if relu is None else relu.output[0]


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    values: Iterable[onnx.ValueInfoProto] = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}
