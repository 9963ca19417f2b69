"""Masked-attention transformer decoder (Mask2Former), with proxy queries as its content queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.blocks import (
    MASKED,
    LayerNorm,
    Mlp,
    attend,
    resize_map,
    sine_position,
    tokens_from_map,
)


class CrossAttention(nn.Module):
    """Queries [B, Q, c] attend to memory [B, N, c] under a float32 bias [B, 1, Q, N]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = self.q(query), self.k(key), self.v(value)
        return self.out(attend(q, k, v, self.heads, bias))  # type: ignore[no-any-return]


class MaskDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; post-norm as in Mask2Former."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.cross = CrossAttention(width, heads)
        self.norm_1 = LayerNorm(width)
        self.self_attention = CrossAttention(width, heads)
        self.norm_2 = LayerNorm(width)
        self.fc = nn.Linear(width, ffn)
        self.proj = nn.Linear(ffn, width)
        self.norm_3 = LayerNorm(width)

    def forward(self, x: Tensor, place: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        x = self.norm_1(x + self.cross(x + place, key, value, bias))
        x = self.norm_2(x + self.self_attention(x + place, x + place, x, None))
        return self.norm_3(x + self.proj(F.relu(self.fc(x))))  # type: ignore[no-any-return]


def mask_bias(mask_logits: Tensor) -> Tensor:
    """Return the attention bias [B, 1, Q, N] of mask logits [B, Q, N].

    0 where a query's own mask has probability ≥ 0.5 and MASKED elsewhere; a query whose mask is
    empty attends everywhere. Arithmetic only: no NonZero, no index assignment.
    """
    keep = (mask_logits >= 0).float()
    any_kept = keep.amax(-1, keepdim=True)
    return ((1 - keep) * any_kept * MASKED)[:, None]


class MaskDecoder(nn.Module):
    """Proxy queries Q [n, c] become object queries [B, n, c] and their mask embeddings.

    Mask logits are linear in the mask features, so resizing the features once per level equals
    resizing every prediction, as Mask2Former does, at a fraction of the work.
    """

    def __init__(self, width: int, *, queries: int, layers: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.level_embedding = nn.Parameter(torch.randn(3, width) * 0.02)
        self.content_norm = LayerNorm(width)
        self.layers = nn.ModuleList(MaskDecoderLayer(width, heads, ffn) for _ in range(layers))
        self.norm = LayerNorm(width)
        self.mask_embedding = Mlp(width, width, width, width)

    def forward(self, proxy: Tensor, levels: list[Tensor], mask_features: Tensor) -> list[Tensor]:
        """Return the normed object queries before the first layer and after each layer.

        proxy: [n, c] or [B, n, c]; levels: coarse to fine; mask_features: [B, c, h, w].
        """
        batch = mask_features.shape[0]
        x = self.content_norm(proxy.to(mask_features.dtype)).expand(batch, -1, -1)
        place = self.place.to(x.dtype)[None]
        values = [tokens_from_map(level) for level in levels]
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        embedding = self.level_embedding.to(x.dtype)
        values = [value + embedding[i] for i, value in enumerate(values)]
        keys = [
            value + sine_position(size, value.shape[-1], like=value)
            for value, size in zip(values, sizes, strict=True)
        ]
        masks = [resize_map(mask_features, size).flatten(2) for size in sizes]
        outputs = [self.norm(x)]
        for index, layer in enumerate(self.layers):
            level = index % len(levels)
            bias = mask_bias(self.mask_embedding(outputs[-1]).detach() @ masks[level].detach())
            x = layer(x, place, keys[level], values[level], bias)
            outputs.append(self.norm(x))
        return outputs

    def mask_logits(self, objects: Tensor, mask_features: Tensor) -> Tensor:
        """Return mask logits [B, n, h, w] of normed object queries [B, n, c]."""
        batch, _, height, width = mask_features.shape
        logits = self.mask_embedding(objects) @ mask_features.flatten(2)
        return logits.reshape(batch, -1, height, width)  # type: ignore[no-any-return]
