"""MaskCLIP (Zhou, Loy and Dai, 2022): the values of the last block are dense features already."""

from __future__ import annotations

from torch import Tensor, nn

from dedos_deploy.head_numbers import MaskclipHead
from dedos_deploy.model.blocks import TransformerBlock
from dedos_deploy.model.heads.last_block import GridHw, keys_and_values


class MaskClip(nn.Module):
    """out = W_o v; see `last_block.Head`."""

    def __init__(self, numbers: MaskclipHead) -> None:
        super().__init__()

    def forward(self, tokens: list[Tensor], block: TransformerBlock, grid_hw: GridHw) -> Tensor:
        _, values = keys_and_values(block, tokens[-1][:, 1:])
        out: Tensor = block.out(values)
        return out
