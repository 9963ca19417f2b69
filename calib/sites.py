"""Where INT8 may go: products of a constant weight and an activation.

Products of two activations, LayerNorm and softmax are not sites at all: quantizing every MatMul
made a ViT-B/16 1.36 times as fast where its weight products alone give 1.95 (ONNX Runtime, 2 cores),
because a quantized softmax is 6.5 times slower than the float one.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import onnx

from dedos_deploy.calib.wiring import Wiring

SiteKind = Literal["matmul", "conv"]

NEVER: dict[str, str] = {
    "trunk.patch_embedding.*": "first layer: it reads bytes, and all else depends on it",
    "detail.stem.0.*": "first layer, and three input channels fill no integer kernel",
    "refinement.similarity": "its outputs are logits of a softmax over the proxy queries",
    "refinement.mix": "its activation is that softmax",
    "refinement.keys": "a handful of weights in: no product to speed up",
    "refinement.values": "a handful of weights in: no product to speed up",
    "picture_queries.*": "makes the queries that everything else is asked with",
    "*.attention.offsets": "its outputs are coordinates, needed to a fraction of a pixel",
    "*.attention.weights": "its outputs are logits of a softmax",
    "*.depthwise": "one row of weights per channel: no product to speed up",
    "trunk.proj": "class head: its outputs are compared with the words",
    "cost_aggregation.embed": "class head: its outputs are compared with the words",
    "cost_aggregation.text": "reads the words, once per vocabulary",
    "cost_aggregation.spatial": "one input channel: no product to speed up",
    "cost_aggregation.qkv": "16 channels: quantizing them costs more than the product",
    "cost_aggregation.mix": "16 channels: quantizing them costs more than the product",
    "cost_aggregation.evidence": "one output channel: quantizing costs more than the product",
    "cost_aggregation.summary": "one product a cell: quantizing it costs more than it is",
    "cost_aggregation.guide_words": "reads the words, once per vocabulary",
    "cost_aggregation.layers.*.words.guide": "reads the words, once per vocabulary",
    "mask_features.out": "last layer: its outputs are the mask features",
    "mask_decoder.mask_embedding.*": "last layer: the sign of its mask logits also masks attention",
    "text_aggregation.*": "class head: its outputs are compared with the words",
}
"""Modules that are never quantized, by pattern, and why."""

_KINDS: dict[str, SiteKind] = {"MatMul": "matmul", "Conv": "conv"}
_ROOT = "model."


@dataclass(frozen=True)
class Site:
    """One product that may be computed in INT8."""

    name: str
    """The module in `FrozenDedos.model.named_modules()`, such as `trunk.blocks.0.qkv`; a module
    that runs several times, such as `refinement.keep`, gives as many sites of that name."""

    kind: SiteKind
    node: str
    """The ONNX node."""

    activation: str
    """The tensor that enters."""

    weight: str
    """The constant."""

    output: str
    """What the node makes."""


def find_sites(model: onnx.ModelProto) -> list[Site]:
    """Return the sites of an image graph as `image_graph` makes it, in the order of its nodes."""
    return [site for site in find_products(model) if why_never(site.name) is None]


def find_products(model: onnx.ModelProto) -> list[Site]:
    """Return every product of a constant weight, those that are never quantized included."""
    wiring = Wiring(model.graph)
    found = (_site(node, wiring) for node in model.graph.node if node.op_type in _KINDS)
    return [site for site in found if site is not None]


def why_never(name: str) -> str | None:
    """Return why the module `name` is never quantized, None when it may be."""
    return next((why for pattern, why in NEVER.items() if fnmatchcase(name, pattern)), None)


def _site(node: onnx.NodeProto, wiring: Wiring) -> Site | None:
    weight = wiring.weight_of(node)
    if weight is None or not weight.name.endswith(".weight"):
        return None
    name = weight.name.removeprefix(_ROOT).removesuffix(".weight")
    kind = _KINDS[node.op_type]
    return Site(name, kind, node.name, node.input[0], weight.name, node.output[0])
