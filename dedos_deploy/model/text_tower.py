"""CLIP's text tower: causal transformer over BPE tokens, pooled at the end-of-text token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dedos_deploy.model.blocks import MASKED, LayerNorm, TransformerBlock
from dedos_deploy.presets import Activation, TextTowerConfig


class TextTower(nn.Module):
    """tokens int64 [N, L] -> text embedding [N, D], not normalised.

    The end-of-text token has the largest id, so argmax finds it. Nothing looks at what follows it:
    rows may be cut after the longest one's end, L is at most the context length.
    """

    causal: Tensor

    def __init__(self, config: TextTowerConfig, text_width: int, act: Activation) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.tokens, config.width)
        self.position = nn.Parameter(torch.randn(config.context_length, config.width) * 0.01)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, act) for _ in range(config.layers)
        )
        self.ln_final = LayerNorm(config.width)
        self.projection = nn.Linear(config.width, text_width, bias=False)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        mask = torch.full((config.context_length, config.context_length), MASKED).triu(1)
        self.register_buffer("causal", mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.position[:length]
        causal = self.causal[:length, :length]
        for block in self.blocks:
            x = block(x, causal)
        end = tokens.argmax(-1, keepdim=True)[..., None].expand(-1, 1, x.shape[-1])
        pooled = self.ln_final(x).gather(1, end)[:, 0]
        return self.projection(pooled)  # type: ignore[no-any-return]
