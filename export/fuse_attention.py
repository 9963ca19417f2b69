"""Attention as one ONNX Runtime kernel, for the cpu target only.

Per-head transposes, MatMul, Softmax, MatMul become com.microsoft.MultiHeadAttention, which works in
tiles and never stores the [heads, N, N] matrix. Measured on a busy 2-core machine, ONNX Runtime
1.32: the attention of a ViT-B/16 is 1.04 to 1.27 times as fast, the whole graph 1.03 times, and its
peak memory at 640x640 is 50 MB lower. The parity gate covers it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dedos_deploy.calib.wiring import Wiring, remove_unused

MIN_TOKENS = 512
"""Below it the ordinary kernels are as fast."""

_HEADS_OUT = [0, 2, 1, 3]
_HEADS_OUT_TRANSPOSED = [0, 2, 3, 1]


@dataclass(frozen=True)
class _Attention:
    """One attention that was found."""

    query: str
    """Name of a [B, N, C] tensor, as `key` and `value`."""
    key: str
    value: str
    output: str
    """Name of the merged [B, N, C]."""
    last: onnx.NodeProto
    heads: int
    scale: float


def fuse_attention(model: onnx.ModelProto, *, min_tokens: int = MIN_TOKENS) -> int:
    """Rewrite plain self-attention over at least `min_tokens` tokens; return how many were found.

    Attention with a mask, with few tokens, or in half precision stays as it is.
    """
    graph = model.graph
    pattern = _Pattern(graph)
    found = [
        match
        for node in graph.node
        if node.op_type == "Softmax" and (match := pattern.match(node, min_tokens)) is not None
    ]
    if not found:
        return 0
    by_last = {match.last.output[0]: match for match in found}
    nodes = [
        _fused(by_last[node.output[0]], node.name) if node.output[0] in by_last else node
        for node in graph.node
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    remove_unused(graph)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return len(found)


class _Pattern(Wiring):
    """Looks for attention around a Softmax."""

    def match(self, softmax: onnx.NodeProto, min_tokens: int) -> _Attention | None:
        logits = self.producer(softmax.input[0], "MatMul")
        mixed = self.only_consumer(softmax.output[0], "MatMul")
        if logits is None or mixed is None or mixed.input[0] != softmax.output[0]:
            return None
        scaled = self.producer(logits.input[0], "Mul")
        turned = self.only_consumer(mixed.output[0], "Transpose")
        merged = None if turned is None else self.only_consumer(turned.output[0], "Reshape")
        if scaled is None or merged is None or not self._merges_heads(turned, merged):
            return None
        scale = self._constant(scaled.input[1])
        query = self._per_head(scaled.input[0], _HEADS_OUT)
        key = self._per_head(logits.input[1], _HEADS_OUT_TRANSPOSED)
        value = self._per_head(mixed.input[1], _HEADS_OUT)
        if scale is None or scale.size != 1 or query is None or key is None or value is None:
            return None
        if scale.dtype != np.float32 or not query[1] == key[1] == value[1]:
            return None
        _, tokens, heads, _ = query[1]
        if tokens < min_tokens:
            return None
        output = merged.output[0]
        return _Attention(query[0], key[0], value[0], output, merged, heads, float(scale.item()))

    def _merges_heads(self, turned: onnx.NodeProto | None, merged: onnx.NodeProto) -> bool:
        """Return whether two nodes make [B, N, C] of heads, and nothing beyond: the exporter joins
        the reshape that merges them with one that follows, such as to a map of 4 sides."""
        shape = self._constant(merged.input[1])
        return (
            turned is not None
            and _perm(turned) == _HEADS_OUT
            and shape is not None
            and shape.size == 3
        )

    def _per_head(self, name: str, perm: list[int]) -> tuple[str, tuple[int, ...]] | None:
        """Return the [B, N, C] tensor behind a per-head one, and the shape [B, N, heads, d]."""
        turned = self.producer(name, "Transpose")
        if turned is None or _perm(turned) != perm:
            return None
        split = self.producer(turned.input[0], "Reshape")
        shape = None if split is None else self._constant(split.input[1])
        if split is None or shape is None or shape.size != 4 or (shape <= 0).any():
            return None
        return split.input[0], tuple(int(side) for side in shape)

    def _constant(self, name: str) -> NDArray[Any] | None:
        return self.value(name) if name in self.constants else None


def _perm(node: onnx.NodeProto) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), [])


def _fused(match: _Attention, name: str) -> onnx.NodeProto:
    return onnx.helper.make_node(
        "MultiHeadAttention",
        [match.query, match.key, match.value],
        [match.output],
        name.rsplit("/", 1)[0] + "/MultiHeadAttention",
        domain="com.microsoft",
        num_heads=match.heads,
        scale=match.scale,
    )
