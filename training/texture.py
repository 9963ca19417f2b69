"""Separation of texture information: the consistency loss of Eq. 9-12."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dedos_deploy.model.blocks import map_from_tokens, normalize, tokens_from_map


class TextureSeparation(nn.Module):
    """L_consist: positions must relate through the proxy queries as they do in CLIP itself.

    clip_width: C; query_width: c; layers: tapped CLIP layers l of Eq. 9, all through one P^L and
    one P^C, over which the loss is averaged; side: features are pooled to at most side x side
    positions, since M has a row and a column for each.

    Gradients reach Q, P^L and P^C only: features and M_clip are constants.
    """

    def __init__(
        self, clip_width: int, query_width: int, layers: tuple[int, ...], *, side: int = 16
    ) -> None:
        super().__init__()
        self.layers, self.side = layers, side
        self.project_queries = nn.Linear(query_width, query_width)
        self.project_features = nn.Conv2d(clip_width, query_width, 1)

    def forward(
        self,
        queries: Tensor,
        before: Sequence[Tensor],
        after: Sequence[Tensor],
        grid_hw: tuple[int, int],
    ) -> Tensor:
        """Return L_consist of every image, float32 [B].

        queries: Q [B, n, c] (or [n, c]); before, after: plain CLIP features of x_b and x_a, one
        [B, P, C] per layer, over the grid of P = gh * gw positions.
        """
        assert len(before) == len(after) == len(self.layers), (len(before), len(after))
        projected = self.project_queries(queries)
        losses = [
            self._layer(projected, self._pooled(b, grid_hw), self._pooled(a, grid_hw))
            for b, a in zip(before, after, strict=True)
        ]
        return torch.stack(losses).mean(0)

    def _pooled(self, tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        maps = map_from_tokens(tokens.detach().float(), grid_hw)
        size = (min(grid_hw[0], self.side), min(grid_hw[1], self.side))
        return F.adaptive_avg_pool2d(maps, size)

    def _layer(self, projected: Tensor, before: Tensor, after: Tensor) -> Tensor:
        target = cosine_matrix(tokens_from_map(before), tokens_from_map(after))
        found = cosine_matrix(self._interact(projected, before), self._interact(projected, after))
        return F.smooth_l1_loss(found, target, reduction="none").mean((-2, -1))

    def _interact(self, projected: Tensor, maps: Tensor) -> Tensor:
        """Return f̂ [B, P, n] of Eq. 10: the similarity of every position to every query."""
        tokens = tokens_from_map(self.project_features(maps))
        return tokens @ projected.transpose(-1, -2)


def cosine_matrix(before: Tensor, after: Tensor) -> Tensor:
    """Return M of Eq. 11, float32 [B, P, P]: cosine of position i before and position j after.

    before, after: [B, P, d]. Never in bfloat16, whose rounding is as large as the loss.
    """
    with torch.autocast(before.device.type, enabled=False):
        return normalize(before) @ normalize(after).transpose(-1, -2)
