"""Proxy queries read the diffusion model's features, layer after layer (Eq. 3-5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dedos_deploy.model.blocks import MASKED
from dedos_deploy.model.query_reader import QueryReader

MaskMap = Literal["gate", "random", "none"]

GATE_START = 0.95
"""Value of the mask map M at the start: nearly open, with slope left in the sigmoid."""

RANDOM_KEPT = 0.75
"""Part of the positions that the `random` mask map leaves visible."""


class ProxyReader(nn.Module):
    """Eq. 3-5 over the L tapped layers of the noise predictor, for all N steps at once.

    channels: C_i of every tapped layer, in the order of the forward pass; query_width: c.
    Parameters belong to a layer and are shared by the steps t, as the indices of Eq. 3 have it.
    mask_map: `gate` learns M_i, `random` hides a quarter of the positions while training (and none
    in eval mode), `none` is plain attention.
    """

    def __init__(
        self, channels: Sequence[int], query_width: int, *, mask_map: MaskMap = "gate"
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.mask_map: MaskMap = mask_map
        self.layers = nn.ModuleList(
            LayerReader(width, query_width, mask_map) for width in self.channels
        )

    def forward(self, queries: Tensor, features: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return q_{L,t}, float32 [B, N, n, c].

        queries: q_t of Eq. 6, [N, n, c]; features: [N][L], each [B, C_i, h_i, w_i], of any
        floating dtype; a layer has one size in all steps.
        """
        assert len(features) == len(queries), (len(features), len(queries))
        batch = features[0][0].shape[0]
        q = queries.float().expand(batch, *queries.shape)
        for index, layer in enumerate(self.layers):
            tokens = [normalized_tokens(step[index]) for step in features]
            q = layer(q, torch.stack(tokens, dim=1))
        return q


class LayerReader(QueryReader):
    """One layer i of Eq. 3-5, from q_{i-1,t} to q_{i,t}.

    M enters as softmax(QKᵀ/√c + log M) V M: a position with M = 0 has no weight and no value. The
    map of Eq. 5 is W_i = I + D_i with D_i = 0 at the start, so that weight decay pulls a layer
    towards handing its queries on, not towards zero.
    """

    def __init__(self, channels: int, query_width: int, mask_map: MaskMap) -> None:
        super().__init__(channels, query_width, gated=mask_map == "gate")
        self.mask_map = mask_map
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, torch.logit(torch.tensor(GATE_START)).item())

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """queries: float32 [B, N, n, c]; tokens: [B, N, P, C], normalised; returns as queries."""
        return self.read(queries, tokens, self.mask(tokens))

    def mask(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return M_i and log M_i, float32 [B, N, 1, P], one map for all queries."""
        if self.gate is not None:
            logit: Tensor = self.gate(tokens).float().transpose(-1, -2)
            return logit.sigmoid(), F.logsigmoid(logit)
        shape = (*tokens.shape[:2], 1, tokens.shape[2])
        if self.mask_map == "random" and self.training:
            # One for all pictures of a step, however it is cut into micro-batches.
            seen = (torch.rand(shape[1:], device=tokens.device) < RANDOM_KEPT).expand(shape)
            return seen.float(), torch.where(seen, 0.0, MASKED)
        return torch.ones(shape, device=tokens.device), torch.zeros(shape, device=tokens.device)


def normalized_tokens(maps: Tensor) -> Tensor:
    """Return f^sd [..., P, C], float32, of maps [..., C, h, w]: LayerNorm over channels, no weights.

    The layers of a noise predictor differ in scale by orders of magnitude. One scale for all of
    them gives all projections one initialisation and one learning rate, and bfloat16 its range.
    """
    tokens = maps.flatten(-2).transpose(-1, -2).float()
    return F.layer_norm(tokens, tokens.shape[-1:])
