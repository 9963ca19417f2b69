"""Light cost aggregation: the cosine cost between pixels and words, cleaned up and fed back.

CAT-Seg aggregates a cost volume with Swin blocks that cost more than the backbone; this layer keeps
the idea (aggregate over space, then over classes) at a few percent of it. Nothing in it depends on
the order of the classes, so permuting the vocabulary permutes the scores and nothing else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.blocks import (
    MASKED,
    LayerNorm,
    linear_attend,
    map_from_tokens,
    normalize,
    resize_map,
    tokens_from_map,
)


class CostAggregation(nn.Module):
    """Adds to every level what the cost volume says about which words are where.

    cost = cos(pixel embedding, text), lifted to `lift` channels by a 7x7 convolution over space,
    mixed by linear attention over the valid classes of each pixel, then read back as a softmax
    average of projected text embeddings plus a mean of the mixed volume.
    """

    def __init__(self, width: int, text_width: int, lift: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width, text_width)
        self.spatial = nn.Conv2d(1, lift, 7, padding=3)
        self.norm = LayerNorm(lift)
        self.qkv = nn.Linear(lift, 3 * lift)
        self.mix = nn.Linear(lift, lift)
        self.evidence = nn.Linear(lift, 1)
        self.text = nn.Linear(text_width, width)
        self.summary = nn.Linear(lift, width)
        self.norm_out = LayerNorm(width)
        self.out = nn.Linear(width, width)
        # Learned sharpness of the cosine in the readout and in the auxiliary dense logits.
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        # Shifts the auxiliary dense logits alone: the readout's softmax cancels it.
        nn.init.constant_(self.evidence.bias, -2.0)

    def forward(
        self, levels: list[Tensor], clip_embedding: Tensor, text: Tensor, valid: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Return the enriched levels and the dense class logits [B, K, gh, gw] in float32.

        levels: coarse, middle, fine [B, c, h, w]; clip_embedding: CLIP's own projection of its
        patch tokens [B, N, D]; text: [K, D] unit rows; valid: [K].
        """
        centre = levels[1]
        batch, _, gh, gw = centre.shape
        pixels = normalize(self.embed(tokens_from_map(centre)) + clip_embedding)
        cost = pixels.to(centre.dtype) @ text.to(centre.dtype).t()  # [B, N, K]
        volume = self._mixed(cost, valid, (gh, gw))  # [B, N, K, lift]
        scaled = cost.float() * self.log_scale.float().exp()
        logits = scaled + self.evidence(volume)[..., 0].float()
        share = (logits + (1 - valid) * MASKED).softmax(-1).to(cost.dtype)
        words = share @ self.text(text.to(cost.dtype))
        weight = (valid / valid.sum()).to(volume.dtype)
        mean = (volume * weight[:, None]).sum(2)
        update = self.out(self.norm_out(words + self.summary(mean)))
        update_map = map_from_tokens(update, (gh, gw))
        enriched = [x + resize_map(update_map, (x.shape[2], x.shape[3])) for x in levels]
        dense = logits.transpose(1, 2).reshape(batch, -1, gh, gw)
        return enriched, dense

    def _mixed(self, cost: Tensor, valid: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        batch, cells, classes = cost.shape
        gh, gw = grid_hw
        planes = cost.transpose(1, 2).reshape(batch * classes, 1, gh, gw)
        lifted = F.gelu(self.spatial(planes)).reshape(batch, classes, -1, cells)
        volume = lifted.permute(0, 3, 1, 2)  # [B, N, K, lift]
        q, k, v = self.qkv(self.norm(volume)).chunk(3, dim=-1)
        return volume + self.mix(linear_attend(q, k, v, valid).to(volume.dtype))  # type: ignore[no-any-return]
