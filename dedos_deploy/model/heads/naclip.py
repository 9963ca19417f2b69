"""NACLIP (Hajimiri, Ben Ayed and Dolz, 2024): keys attend to keys, and neighbours count more."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.head_numbers import NaclipHead
from dedos_deploy.model.blocks import TransformerBlock, attend
from dedos_deploy.model.heads.last_block import GridHw, keys_and_values


class Naclip(nn.Module):
    """out = W_o softmax(k kᵀ / √d + G) v with G = exp(-‖p_i - p_j‖² / 2σ²); see `last_block.Head`.

    p: row and column of a patch. The CLS token takes part, with G = 0 on both sides.
    """

    def __init__(self, numbers: NaclipHead) -> None:
        super().__init__()
        self.variance = numbers.variance

    def forward(self, tokens: list[Tensor], block: TransformerBlock, grid_hw: GridHw) -> Tensor:
        keys, values = keys_and_values(block, tokens[-1])
        near = F.pad(neighbourhood(grid_hw, self.variance), (1, 0, 1, 0))
        out: Tensor = block.out(attend(keys, keys, values, block.heads, near)[:, 1:])
        return out


def neighbourhood(grid_hw: GridHw, variance: float) -> Tensor:
    """Return G float32 [N, N] of a grid, from the Gaussians of its rows and of its columns."""
    rows, columns = (_gaussian(length, variance) for length in grid_hw)
    count = grid_hw[0] * grid_hw[1]
    return (rows[:, None, :, None] * columns[None, :, None, :]).reshape(count, count)


def _gaussian(length: int, variance: float) -> Tensor:
    steps = torch.arange(length, dtype=torch.float32)
    return torch.exp(-((steps[:, None] - steps) ** 2) / (2 * variance))
