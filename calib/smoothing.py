"""Outliers of LayerNorm moved into the weights that read it.

Some channels of a LayerNorm are a hundred times larger than the others, and one step for the whole
tensor then leaves the others a few levels. A channel j divided by f_j, with row j of every weight
that reads it multiplied by f_j, gives the same products; f_j levels out both sides (SmoothQuant,
Xiao et al. 2023, Eq. 4, with α = 1/2):

    f_j = sqrt(max|x_j| / max|w_j|)

Two things differ from the paper. Factors are powers of two, so that float32 gives the same bits
as before: every product, and so every sum, is exactly what it was. And they are scaled to a geometric
mean of 1, which changes nothing after quantization, as all steps move along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dedos_deploy.calib.sites import Site, find_sites
from dedos_deploy.calib.wiring import Wiring, remove_unused
from dedos_deploy.errors import BadInputError

MAX_EXPONENT = 6
"""Factors lie in [1/64, 64]: beyond, float16 weights could leave their range."""

Row = NDArray[np.float32]


@dataclass(frozen=True)
class Smoothable:
    """A LayerNorm that only sites read."""

    norm: str
    """The LayerNorm's module, the same in every precision."""

    node: str
    """The LayerNorm's node."""

    tensor: str
    """The LayerNorm's output in float32, before any cast."""

    sites: tuple[Site, ...]
    """The products that read `tensor`."""


def find_smoothable(model: onnx.ModelProto) -> list[Smoothable]:
    """Return the LayerNorms of a graph whose every reader is a site, in the order of its nodes."""
    wiring = Wiring(model.graph)
    sites = {site.node: site for site in find_sites(model) if site.kind == "matmul"}
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    runs = Counter(_module(node) for node in norms)
    once = (node for node in norms if runs[_module(node)] == 1)
    found = (_smoothable(node, wiring, sites) for node in once)
    return [item for item in found if item is not None]


def smooth(model: onnx.ModelProto, maxima: Mapping[str, Row]) -> dict[str, Row]:
    """Move outliers in place; return the factors f [in channels] of every site they reached.

    maxima: largest |x| per channel of the norms to smooth, by `Smoothable.norm`; others stay.

    Raises BadInputError for maxima of a norm that the graph does not have, or of another width.
    """
    items = {item.norm: item for item in find_smoothable(model)}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    factors: dict[str, Row] = {}
    for norm, row in maxima.items():
        if norm not in items:
            raise BadInputError(
                f"the graph has no LayerNorm {norm!r} to smooth; calibrate it again"
            )
        item = items[norm]
        weights = [numpy_helper.to_array(constants[site.weight]) for site in item.sites]
        if row.shape != (weights[0].shape[0],):
            raise BadInputError(
                f"{norm} has {weights[0].shape[0]} channels, maxima of shape {row.shape} were "
                f"given; calibrate it again"
            )
        found = smoothing_factors(row, np.max([np.abs(w).max(1) for w in weights], axis=0))
        # Constants of their own: LayerNorms with equal ones may share them.
        node = nodes[item.node]
        for index in (1, 2):
            values = numpy_helper.to_array(constants[node.input[index]])
            node.input[index] = f"{item.norm}.{index}.smoothed"
            model.graph.initializer.append(
                numpy_helper.from_array(values / found.astype(values.dtype), node.input[index])
            )
        for site, weight in zip(item.sites, weights, strict=True):
            _replace(constants[site.weight], weight * found[:, None])
            factors[site.name] = found
    remove_unused(model.graph)
    return factors


def smoothing_factors(activation: Row, weight: Row) -> Row:
    """Return f float32 [C], powers of two in [1/64, 64].

    activation, weight: max|x_j| and max|w_j| [C]; a channel where either is 0 keeps f = 1.
    """
    used = (activation > 0) & (weight > 0)
    exponents = np.zeros(len(activation))
    ratio = np.log2(activation[used].astype(np.float64)) - np.log2(weight[used].astype(np.float64))
    exponents[used] = ratio / 2
    if used.any():
        exponents[used] -= exponents[used].mean()
    limited = np.clip(np.rint(exponents), -MAX_EXPONENT, MAX_EXPONENT)
    factors: Row = np.exp2(limited).astype(np.float32)
    return factors


def _smoothable(
    node: onnx.NodeProto, wiring: Wiring, sites: Mapping[str, Site]
) -> Smoothable | None:
    if len(node.input) != 3 or any(name not in wiring.constants for name in node.input[1:]):
        return None
    tensor = node.output[0]
    cast = wiring.only_consumer(tensor, "Cast")
    read = tensor if cast is None else cast.output[0]
    readers = wiring.consumers(read)
    found = [sites[reader.name] for reader in readers if reader.name in sites]
    if not found or len(found) != len(readers) or read in wiring.outputs:
        return None
    # A weight used elsewhere, too, would be changed there as well.
    own = all(len(wiring.consumers(site.weight)) == 1 for site in found)
    straight = all(wiring.producer(reader.input[1], "Transpose") is None for reader in readers)
    if not (own and straight):
        return None
    return Smoothable(_module(node), node.name, tensor, tuple(found))


def _module(node: onnx.NodeProto) -> str:
    return node.name.split("/")[0].removeprefix("model.")


def _replace(tensor: onnx.TensorProto, values: NDArray[np.floating]) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))
