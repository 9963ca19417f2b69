"""Cost aggregation: the cosine cost between pixels and words, cleaned up and fed back.

CAT-Seg aggregates a cost volume with Swin blocks that cost more than the backbone. The light form keeps
the idea (aggregate over space, then over classes) at a few percent of it; the other has CAT-Seg's own
blocks. Nothing in either depends on the order of the classes, so permuting the vocabulary permutes the
scores and nothing else.
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
from dedos_deploy.model.volume_blocks import POOL, AggregationLayer, WordBlock, volume_grid

LAYERS = 2
"""Of windows and words in CAT-Seg's form, as in its Section 3."""


class CostAggregation(nn.Module):
    """Adds to every level what the cost volume says about which words are where.

    cost = cos(pixel embedding, text), lifted to `lift` channels by a 7x7 convolution over space,
    mixed by linear attention over the valid classes of each pixel, then read back as a softmax
    average of projected text embeddings plus a mean of the mixed volume.
    """

    def __init__(self, width: int, text_width: int, lift: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width, text_width)
        self._add_volume(width, text_width, lift)
        self.evidence = nn.Linear(lift, 1)
        self.text = nn.Linear(text_width, width)
        self.summary = nn.Linear(lift, width)
        self.norm_out = LayerNorm(width)
        self.out = nn.Linear(width, width)
        # Learned sharpness of the cosine in the readout and in the auxiliary dense logits.
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        # Shifts the auxiliary dense logits alone: the readout's softmax cancels it.
        nn.init.constant_(self.evidence.bias, -2.0)

    def _add_volume(self, width: int, text_width: int, lift: int) -> None:
        """Add the modules that make the volume of the cost."""
        self.spatial = nn.Conv2d(1, lift, 7, padding=3)
        self.norm = LayerNorm(lift)
        self.qkv = nn.Linear(lift, 3 * lift)
        self.mix = nn.Linear(lift, lift)

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
        evidence, mean = self._aggregated(cost, levels, text, valid)
        logits = cost.float() * self.log_scale.float().exp() + evidence
        share = (logits + (1 - valid) * MASKED).softmax(-1).to(cost.dtype)
        words = share @ self.text(text.to(cost.dtype))
        update = self.out(self.norm_out(words + self.summary(mean)))
        update_map = map_from_tokens(update, (gh, gw))
        enriched = [x + resize_map(update_map, (x.shape[2], x.shape[3])) for x in levels]
        dense = logits.transpose(1, 2).reshape(batch, -1, gh, gw)
        return enriched, dense

    def _aggregated(
        self, cost: Tensor, levels: list[Tensor], text: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what the volume adds to the logits, float32 [B, N, K], and its mean [B, N, lift]."""
        volume = self._mixed(cost, valid, (levels[1].shape[2], levels[1].shape[3]))
        weight = (valid / valid.sum()).to(volume.dtype)
        return self.evidence(volume)[..., 0].float(), (volume * weight[:, None]).sum(2)

    def _mixed(self, cost: Tensor, valid: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        batch, cells, classes = cost.shape
        gh, gw = grid_hw
        planes = cost.transpose(1, 2).reshape(batch * classes, 1, gh, gw)
        lifted = F.gelu(self.spatial(planes)).reshape(batch, classes, -1, cells)
        volume = lifted.permute(0, 3, 1, 2)  # [B, N, K, lift]
        q, k, v = self.qkv(self.norm(volume)).chunk(3, dim=-1)
        return volume + self.mix(linear_attend(q, k, v, valid).to(volume.dtype))  # type: ignore[no-any-return]


class CatSegAggregation(CostAggregation):
    """The same with CAT-Seg's blocks (its Section 3) between the cost and what is read from it.

    The cost at the coarse level's cells (23 x 23 for 644, where CAT-Seg has 24 x 24) is lifted and goes
    through LAYERS of windows over space and attention among words, guided by the coarse level and by the
    words themselves. CAT-Seg's upsampling decoder has no part here: masks come from the mask decoder.
    """

    def _add_volume(self, width: int, text_width: int, lift: int) -> None:
        self.spatial = nn.Conv2d(1, lift, 7, padding=3)
        self.guide = nn.Conv2d(width, lift, 3, padding=1)
        self.guide_words = nn.Linear(text_width, lift)
        self.layers = nn.ModuleList(
            AggregationLayer(lift, lift, WordBlock(lift, lift)) for _ in range(LAYERS)
        )

    def _aggregated(
        self, cost: Tensor, levels: list[Tensor], text: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        coarse, centre = levels[0], levels[1]
        size_hw, batch = (centre.shape[2], centre.shape[3]), len(cost)
        volume = self._volume(cost, coarse, size_hw)
        guidance = tokens_from_map(F.relu(self.guide(coarse)))
        words = F.relu(self.guide_words(text.to(cost.dtype)))
        grid = volume_grid((coarse.shape[2], coarse.shape[3]), cost.device)
        for layer in self.layers:
            volume = layer(volume, guidance, words, valid, grid)
        evidence = self.evidence(volume)[..., 0].float()  # [B, K, n]
        weight = (valid / valid.sum()).to(volume.dtype)
        mean = (volume * weight[:, None, None]).sum(1).transpose(1, 2)
        evidence, mean = (
            resize_map(x.reshape(batch, -1, coarse.shape[2], coarse.shape[3]), size_hw)
            for x in (evidence, mean)
        )
        return tokens_from_map(evidence), tokens_from_map(mean)

    def _volume(self, cost: Tensor, coarse: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Return the lifted cost at the coarse level's cells, [B, K, n, lift]."""
        planes = cost.transpose(1, 2).reshape(-1, 1, *size_hw)
        pooled = F.avg_pool2d(planes, POOL, ceil_mode=True, count_include_pad=False)
        lifted = self.spatial(pooled).flatten(2).transpose(1, 2)
        return lifted.reshape(len(cost), -1, *lifted.shape[1:])  # type: ignore[no-any-return]
