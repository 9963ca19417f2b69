"""What is CAT-Seg's own around the blocks of `volume_blocks.py`: padded words, and the decoder.

The decoder upsamples every word's map four times; its transposed convolutions are merged into the
convolutions that follow them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.volume_blocks import WordBlock

SLOTS = 256
"""The class attention was trained on this many words, the missing ones a learned padding row."""

GROUP = 16
"""Channels that the decoder normalises together."""


class PaddedWordBlock(WordBlock):
    """A word block among SLOTS words at least.

    Up to SLOTS words, the published layer is padded with copies of one learned row: one such row with
    their number as its weight is the same. Beyond, the published model drops all but the SLOTS words
    that correlate most with the picture; here all words stay.
    """

    def __init__(self, width: int, guidance: int) -> None:
        super().__init__(width, guidance)
        self.padding = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.padding_guidance = nn.Parameter(torch.zeros(1, guidance))

    def mixed(self, y: Tensor, words: Tensor, weight: Tensor) -> Tensor:
        """y: [B, n, K, C]; words: [K, G]; weight: 1 for each word, float32 [K]."""
        batch, cells, _, _ = y.shape
        padding = self.padding.to(y.dtype).expand(batch, cells, -1, -1)
        words = torch.cat([words, self.padding_guidance.to(words.dtype)])
        missing = (SLOTS - weight.sum(0, keepdim=True)).clamp(min=0)
        both = super().mixed(torch.cat([y, padding], dim=2), words, torch.cat([weight, missing]))
        return both[:, :, :-1]


class UpBlock(nn.Module):
    """Doubles the resolution: transposed convolution, guidance beside it, two 3x3 convolutions.

    Nothing stands between the transposed convolution (2x2, stride 2) and the first 3x3, so they are
    one map: each 2x2 square of fine cells around a corner of the coarse grid depends on the four
    coarse cells at that corner. `corner` computes it, at half of the products. Guidance and the
    transposed bias, which meets the zero border of the 3x3, hold for every word: `guide` and `border`.
    """

    border: Tensor

    def __init__(self, width: int, guidance: int, out: int, side: int) -> None:
        super().__init__()
        self.corner = nn.Conv2d(width, 4 * out, 2, padding=1, bias=False)
        self.guide = nn.Conv2d(guidance, out, 3, padding=1, bias=False)
        self.norm_1 = GroupNorm(out)
        self.conv = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm_2 = GroupNorm(out)
        self.register_buffer("border", torch.zeros(1, out, 2 * side, 2 * side))

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x: [B * K, C, h, w]; guidance: [B, G, 2h, 2w]; returns [B * K, C', 2h, 2w]."""
        fine = F.pixel_shuffle(self.corner(x), 2)[:, :, 1:-1, 1:-1]
        guide = self.guide(guidance) + self.border.to(guidance.dtype)
        batch, channels, height, width = guide.shape
        fine = fine.reshape(batch, -1, channels, height, width) + guide[:, None]
        y = F.relu(self.norm_1(fine.reshape(-1, channels, height, width)))
        return F.relu(self.norm_2(self.conv(y)))


class GroupNorm(nn.Module):
    """GroupNorm over GROUP channels each, as one LayerNormalization in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        rows = x.reshape(-1, channels // GROUP, GROUP * height * width).float()
        normed = F.layer_norm(rows, rows.shape[-1:]).reshape(-1, channels, height, width)
        scaled = normed * self.weight[:, None, None] + self.bias[:, None, None]
        return scaled.to(x.dtype)
