"""Text aggregation and open-vocabulary classification (paper, section 3.6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.blocks import LayerNorm, linear_attend, merge_heads, normalize, split_heads


class TextAggregationBlock(nn.Module):
    """Object queries attend to the valid text embeddings by linear attention, then a feed-forward.

    Words do not mix with each other, so each word's embedding can be cached alone.
    """

    def __init__(self, width: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(text_width, width)
        self.v = nn.Linear(text_width, width)
        self.out = nn.Linear(width, width)
        self.norm_2 = LayerNorm(width)
        self.fc = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        query = self.q(self.norm_1(x))
        words = text.to(query.dtype)[None]
        q, k, v = (split_heads(part, self.heads) for part in (query, self.k(words), self.v(words)))
        x = x + self.out(merge_heads(linear_attend(q, k, v, valid)).to(x.dtype))
        return x + self.proj(F.gelu(self.fc(self.norm_2(x))))  # type: ignore[no-any-return]


class TextAggregation(nn.Module):
    """Q_object [B, n, c] and text [K, D] -> class logits [B, n, K] in float32.

    Q̂_object = linear transformer blocks(Q_object, text); logit = s cos(W Q̂_object, text) + b with
    a learned scale s and bias b in float32, followed by an independent sigmoid per class.
    """

    def __init__(self, width: int, text_width: int, *, blocks: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TextAggregationBlock(width, text_width, heads) for _ in range(blocks)
        )
        self.norm = LayerNorm(width)
        self.class_embedding = nn.Linear(width, text_width)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(torch.tensor(-4.0))

    def forward(self, objects: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        cosine = self.embedding(objects, text, valid) @ text.float().t()
        return cosine * self.log_scale.float().exp() + self.bias.float()

    def embedding(self, objects: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        """Return what is compared with the words, unit rows float32 [B, n, D]."""
        for block in self.blocks:
            objects = block(objects, text, valid)
        return normalize(self.class_embedding(self.norm(objects)))


def scores_from_logits(class_logits: Tensor, mask_logits: Tensor, valid: Tensor) -> Tensor:
    """Return scores [B, K, h, w] = min(1, Σ_q σ(class logit[q, k]) σ(mask logits[q])) · valid[k].

    class_logits: [B, Q, K]; mask_logits: [B, Q, h, w]; the product runs in the masks' dtype.
    """
    batch, queries, height, width = mask_logits.shape
    classes = (class_logits.float().sigmoid() * valid).transpose(1, 2).to(mask_logits.dtype)
    masks = mask_logits.float().sigmoid().to(mask_logits.dtype).reshape(batch, queries, -1)
    return (classes @ masks).clamp(max=1.0).reshape(batch, -1, height, width)
