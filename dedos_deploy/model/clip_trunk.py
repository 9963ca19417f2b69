"""CLIP's ViT trunk on uint8 BGR frames, with a refinement hook after chosen blocks.

Parameters load from open_clip by the explicit table in `open_clip_weights.py`.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.blocks import Constant, LayerNorm, TransformerBlock
from dedos_deploy.presets import ClipConfig


class Refine(Protocol):
    """What happens to the tokens of a refined block; see `picture_queries.py`."""

    def tokens(self, x: Tensor, q_hat: Tensor | None) -> Tensor: ...


class PatchEmbedding(nn.Module):
    """open_clip's preprocessing and patch convolution, from the deployed graph's uint8 BGR input.

    image: uint8 [B, H, W, 3] BGR -> [B, (H/p)(W/p), C]. Channels are flipped to RGB, scaled to
    [0, 1] and normalised by CLIP's mean and std before the bias-free convolution.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.conv = nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=False)
        self.register_buffer("mean", torch.tensor(config.mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.std), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        rgb = image.to(self.conv.weight.dtype).flip(-1) / 255
        rgb = (rgb - self.mean) / self.std
        patches: Tensor = self.conv(rgb.permute(0, 3, 1, 2))
        return patches.flatten(2).transpose(1, 2)

    def folded(self) -> FoldedPatchEmbedding:
        """Return the same map as one matrix product on raw BGR bytes.

        A linear map of a linear map: with u the BGR bytes of a patch in (y, x, channel) order,
        conv((u/255 - mean)/std) = u @ W' + b'. Computed in float64.
        """
        weight = self.conv.weight.detach().double()  # [C, 3 RGB, p, p]
        mean, std = self.mean.double(), self.std.double()
        bias = -(weight.sum((2, 3)) * (mean / std)).sum(1)
        scaled = weight / (255 * std)[None, :, None, None]
        matrix = scaled.flip(1).permute(2, 3, 1, 0).reshape(-1, weight.shape[0])
        return FoldedPatchEmbedding(matrix.float(), bias.float(), self.patch)


class FoldedPatchEmbedding(nn.Module):
    """Patch embedding as one Linear on bytes; see `PatchEmbedding.folded`."""

    def __init__(self, matrix: Tensor, bias: Tensor, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(*matrix.shape)
        self.linear.weight.data = matrix.t().contiguous()
        self.linear.bias.data = bias

    def forward(self, image: Tensor) -> Tensor:
        batch, height, width, _ = image.shape
        p = self.patch
        # The cast comes first: TensorRT refuses Transpose on uint8.
        x = image.to(self.linear.weight.dtype)
        x = x.reshape(batch, height // p, p, width // p, p * 3).transpose(2, 3)
        patches: Tensor = self.linear(x.reshape(batch, (height // p) * (width // p), p * p * 3))
        return patches


class PositionEmbedding(nn.Module):
    """Learned positions of a square grid, resized bicubically to the grid at hand."""

    def __init__(self, grid: int, width: int) -> None:
        super().__init__()
        self.grid = grid
        self.cls = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.table = nn.Parameter(torch.randn(grid * grid, width) * width**-0.5)

    def forward(self, grid_hw: tuple[int, int]) -> Tensor:
        """Return [1, 1 + gh * gw, C]; row 0 belongs to the CLS token."""
        if grid_hw == (self.grid, self.grid):
            return torch.cat([self.cls, self.table])[None]
        square = self.table.reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        flat = self.resized(square, grid_hw).flatten(2).transpose(1, 2)[0]
        return torch.cat([self.cls, flat])[None]

    def resized(self, square: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Return the table [1, C, grid, grid] at another grid."""
        return F.interpolate(square, size=grid_hw, mode="bicubic", align_corners=False)

    def frozen(self, grid_hw: tuple[int, int]) -> Constant:
        with torch.no_grad():
            return Constant(self(grid_hw))


class ClipTrunk(nn.Module):
    """CLIP image encoder that returns token maps after chosen blocks.

    refine_blocks: blocks whose output passes through the refinement of Eq. 13-14, CLS excluded.
    """

    def __init__(self, config: ClipConfig, refine_blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.patch = config.patch
        self.refine_blocks = refine_blocks
        self.patch_embedding: nn.Module = PatchEmbedding(config)
        self.cls = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.position: nn.Module = PositionEmbedding(config.grid, config.width)
        self.ln_pre = LayerNorm(config.width)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.activation)
            for _ in range(config.layers)
        )
        self.ln_post = LayerNorm(config.width)
        self.proj = nn.Linear(config.width, config.text_width, bias=False)

    def embed(self, image: Tensor) -> Tensor:
        """Return the tokens that enter the first block, [B, 1 + N, C], for uint8 [B, H, W, 3]."""
        grid_hw = (image.shape[1] // self.patch, image.shape[2] // self.patch)
        patches = self.patch_embedding(image)
        cls = self.cls.to(patches.dtype).expand(image.shape[0], 1, -1)
        x = torch.cat([cls, patches], dim=1) + self.position(grid_hw).to(patches.dtype)
        tokens: Tensor = self.ln_pre(x)
        return tokens

    def forward(
        self,
        image: Tensor,
        refine: Refine | None,
        q_hat: Tensor | None,
        taps: tuple[int, ...],
    ) -> list[Tensor]:
        """Return the patch tokens [B, N, C] after each block in `taps`, in that order.

        refine: None for CLIP's own; q_hat: the projected proxy queries of Eq. 13, None when `refine`
        holds them as constants.
        """
        x = self.embed(image)
        tapped: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks[: max(taps) + 1]):
            x = block(x)
            if refine is not None and index in self.refine_blocks:
                x = refine.tokens(x, q_hat)
            if index in taps:
                tapped[index] = x[:, 1:]
        return [tapped[index] for index in taps]

    def plain_features(self, image: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        """Return CLIP's own patch tokens [B, N, C] after each block in `layers`, in that order.

        image: uint8 [B, H, W, 3]. Without refinement, which is what Eq. 9 reads.
        """
        return self.forward(image, None, None, layers)

    def embeddings(self, image: Tensor) -> Tensor:
        """Return plain CLIP's embeddings [B, 1 + N, D], of the image and of its patches.

        image: uint8 [B, H, W, 3]. Not normalised and without refinement.
        """
        x = self.embed(image)
        for block in self.blocks:
            x = block(x)
        embedding: Tensor = self.proj(self.ln_post(x))
        return embedding
