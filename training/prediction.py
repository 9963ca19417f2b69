"""Another use of the diffusion: CLIP's refined tokens predict what its noise predictor computes.

Nothing of it is left at inference: proxy queries learn from masks and from this loss, the bank is
static, and the exported graph is that of component V0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dedos_deploy.model.blocks import map_from_tokens, tokens_from_map
from dedos_deploy.model.refinement import normed
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.denoising import DenoisingLearning
from dedos_deploy.training.proxy_reader import normalized_tokens


class FeaturePrediction(nn.Module):
    """The head of L_predict, for training only.

    With f̂ the refined patch tokens of the trunk's last block and f_{i,t} the features of tapped layer i
    at step t of the same crop, positions pooled to the smaller of both grids:

        h = GELU(LN(f̂) W_hᵀ + b_h)               c wide, pooled
        y_i = mean_t LN(f_{i,t})                  LayerNorm over channels without weights, pooled
        L_predict = mean_i mean_{p, channel} (h W_iᵀ + b_i - y_i)²

    Gradients reach f̂, and so P^F, its MLP, kernels and what is trained of CLIP; y is a constant.

    config: of the model; channels: C_i of the tapped layers. (C + 1) c + Σ (c + 1) C_i parameters.
    """

    def __init__(self, config: ModelConfig, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.hidden = nn.Linear(config.clip.width, config.query_width)
        self.layers = nn.ModuleList(nn.Linear(config.query_width, c) for c in self.channels)

    def forward(
        self, tokens: Tensor, grid_hw: tuple[int, int], features: Sequence[Sequence[Tensor]]
    ) -> Tensor:
        """Return L_predict of every image, float32 [B].

        tokens: f̂ [B, gh * gw, C]; features: [N][L], each [B, C_i, h_i, w_i], of any floating dtype.
        """
        hidden = map_from_tokens(F.gelu(self.hidden(normed(tokens))).float(), grid_hw)
        losses = []
        for index, layer in enumerate(self.layers):
            wanted = self._wanted([step[index] for step in features], grid_hw)
            pooled = F.adaptive_avg_pool2d(hidden, (wanted.shape[2], wanted.shape[3]))
            found = layer(tokens_from_map(pooled)).float()
            losses.append((found - tokens_from_map(wanted)).square().mean((1, 2)))
        return torch.stack(losses).mean(0)

    @torch.no_grad()
    def _wanted(self, steps: Sequence[Tensor], grid_hw: tuple[int, int]) -> Tensor:
        height, width = steps[0].shape[2:]
        tokens = torch.stack([normalized_tokens(step) for step in steps]).mean(0)
        size = (min(height, grid_hw[0]), min(width, grid_hw[1]))
        return F.adaptive_avg_pool2d(map_from_tokens(tokens, (height, width)), size)


AnyLearning = DenoisingLearning | FeaturePrediction
"""What training adds to the model to learn from a diffusion."""
