"""What the dense heads make of CLIP's last block: attention without residual and feed-forward."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dedos_deploy.model.blocks import TransformerBlock

GridHw = tuple[int, int]


class Head(Protocol):
    """From the tokens of a trunk to dense ones.

    tokens: [B, 1 + N, C] after each block but the last; block: the last one; grid_hw: rows and columns
    of the N patches. Returns [B, N, C], which ln_post and the projection take to the words' space.
    """

    def __call__(
        self, tokens: list[Tensor], block: TransformerBlock, grid_hw: GridHw
    ) -> Tensor: ...


def keys_and_values(block: TransformerBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys and the values of a block for tokens [B, N, C], both [B, N, C]."""
    _, keys, values = block.qkv(block.ln_1(x)).chunk(3, dim=-1)
    return keys, values
