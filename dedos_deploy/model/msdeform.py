"""Multi-scale deformable attention encoder (Deformable DETR; Mask2Former's pixel decoder).

Sampling exists in two forms that agree to float rounding: `grid_sample`, for training and ONNX
Runtime, and `gather`, corner look-ups with bilinear weights, for TensorRT, which silently miscompiles
deformable attention built on GridSample (NVIDIA/TensorRT issue 4813).

Note [Sampling in half]
In an fp16 graph the corners are multiplied and added in float16. That is safe for any values that are
finite in float16: a point's four bilinear weights lie in [0, 1] and sum to at most 1, the shares of all
points are a softmax, so each sum, also a partial one, is at most the largest value in size. Coordinates
and weights are float32 until they are multiplied: half cannot address a 160-wide map to a sub-pixel.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.blocks import (
    LayerNorm,
    map_from_tokens,
    sine_position,
    tokens_from_map,
)

Sampling = Literal["grid_sample", "gather"]

Sizes = list[tuple[int, int]]
"""Height and width of each level, in cells."""


def sample_grid(value: Tensor, points: Tensor, share: Tensor, sizes: Sizes) -> Tensor:
    """Return what all points of each token see, weighted by their share, [B, L, heads, d].

    value: [B, N, heads, d], the cells of every level, one level after another; points: float32
    [B, L, heads, levels, P, 2], (x, y) in cells of the level, 0 at the centre of the first; share:
    float32 [B, L, heads, levels, P]. Bilinear between cells; zero outside the level.
    """
    batch, _, heads, depth = value.shape
    length, count = points.shape[1], points.shape[4]
    levels = torch.split(value, [height * width for height, width in sizes], dim=1)
    # Points before tokens: a sum over the last axis of four takes ONNX Runtime a tenth longer.
    points, share = points.permute(0, 2, 3, 4, 1, 5), share.permute(0, 2, 3, 4, 1)
    mixed = None
    for index, (part, (height, width)) in enumerate(zip(levels, sizes, strict=True)):
        part = part.permute(0, 2, 3, 1).reshape(batch * heads, depth, height, width)
        size = torch.tensor([width, height], dtype=points.dtype, device=points.device)
        grid = (2 * points[:, :, index] + 1) / size - 1
        grid = grid.reshape(batch * heads, count, length, 2).to(part.dtype)
        seen = F.grid_sample(part, grid, mode="bilinear", align_corners=False)
        weight = share[:, :, index].reshape(batch * heads, 1, count, length)
        term = (seen * weight.to(part.dtype)).sum(2)  # [B * heads, d, L]
        mixed = term if mixed is None else mixed + term
    assert mixed is not None
    return mixed.reshape(batch, heads, depth, length).permute(0, 3, 1, 2)


def sample_gather(value: Tensor, points: Tensor, share: Tensor, sizes: Sizes) -> Tensor:
    """The same as `sample_grid`, written as row look-ups; see Note [Sampling in half].

    TensorRT makes one kernel of it, which stores nothing but its result.
    """
    batch, cells, heads, depth = value.shape
    rows = value.reshape(-1, depth)
    device = value.device
    height, width = (
        torch.tensor(side, dtype=points.dtype, device=device)[:, None]
        for side in zip(*sizes, strict=True)
    )
    starts = [sum(h * w for h, w in sizes[:level]) for level in range(len(sizes))]
    start = torch.tensor(starts, device=device)[:, None]
    start = start + torch.arange(batch, device=device)[:, None, None, None, None] * cells
    head = torch.arange(heads, device=device)[:, None, None]
    x, y = points.unbind(-1)
    x0, y0 = x.floor(), y.floor()
    fx, fy = x - x0, y - y0

    def corner(cx: Tensor, cy: Tensor, weight: Tensor) -> Tensor:
        inside = (cx >= 0) & (cx <= width - 1) & (cy >= 0) & (cy <= height - 1)
        cell = cy.clamp(min=0).minimum(height - 1) * width + cx.clamp(min=0).minimum(width - 1)
        index = (cell.long() + start) * heads + head
        picked = rows.index_select(0, index.reshape(-1)).reshape(*index.shape, depth)
        return picked * (share * weight * inside.float())[..., None].to(value.dtype)

    total = corner(x0, y0, (1 - fx) * (1 - fy)) + corner(x0 + 1, y0, fx * (1 - fy))
    total = total + corner(x0, y0 + 1, (1 - fx) * fy) + corner(x0 + 1, y0 + 1, fx * fy)
    # Added one by one: a ReduceSum would be float32, and larger than all that it is made of.
    first, *others = total.flatten(3, 4).unbind(3)
    return sum(others, start=first)


class DeformableAttention(nn.Module):
    """Each token attends to P learned points around its place on each of the three levels."""

    def __init__(self, width: int, heads: int, *, levels: int = 3, points: int = 4) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling: Sampling = "grid_sample"
        self.value = nn.Linear(width, width)
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.out = nn.Linear(width, width)
        self._reset()

    def _reset(self) -> None:
        """Heads start looking in evenly spread directions, points at growing distance."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ring = torch.stack([angles.cos(), angles.sin()], dim=-1)
        ring = (ring / ring.abs().amax(-1, keepdim=True))[:, None, None]
        steps = torch.arange(1, self.points + 1)[None, None, :, None]
        offsets = (ring * steps).expand(self.heads, self.levels, self.points, 2)
        with torch.no_grad():
            self.offsets.weight.zero_()
            self.offsets.bias.copy_(offsets.reshape(-1))
            self.weights.weight.zero_()
            self.weights.bias.zero_()

    def forward(self, query: Tensor, tokens: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        """query, tokens [B, L, c]; reference [L, 2] (x, y) in [0, 1]; returns [B, L, c]."""
        batch, length, width = query.shape
        shape = (batch, length, self.heads, self.levels, self.points)
        share = self.weights(query).reshape(batch, length, self.heads, -1).float().softmax(-1)
        size = torch.tensor([(wide, high) for high, wide in sizes], device=query.device)
        centres = reference[:, None, None] * size[:, None] - 0.5  # [L, levels, 1, 2]
        # An offset of 1 is one cell of its level.
        points = self.offsets(query).float().reshape(*shape, 2) + centres[:, None]
        value = self.value(tokens).reshape(batch, length, self.heads, -1)
        sample = sample_grid if self.sampling == "grid_sample" else sample_gather
        mixed = sample(value, points, share.reshape(shape), sizes)
        return self.out(mixed.reshape(batch, length, width))  # type: ignore[no-any-return]


class DeformableLayer(nn.Module):
    """A layer of the pixel decoder: deformable attention over all scales, then two linear maps."""

    def __init__(self, width: int, *, heads: int, ffn: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads)
        self.norm_1 = LayerNorm(width)
        self.fc = nn.Linear(width, ffn)
        self.proj = nn.Linear(ffn, width)
        self.norm_2 = LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        x = self.norm_1(x + self.attention(x + position, x, reference, sizes))
        return self.norm_2(x + self.proj(F.relu(self.fc(x))))  # type: ignore[no-any-return]


class DeformableEncoder(nn.Module):
    """Stack of deformable layers over three levels given coarse to fine."""

    def __init__(self, width: int, *, layers: int, ffn: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableLayer(width, heads=heads, ffn=ffn) for _ in range(layers)
        )
        self.level_embedding = nn.Parameter(torch.randn(3, width) * 0.02)
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(3))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        tokens = [
            norm(tokens_from_map(level)) for norm, level in zip(self.norms, levels, strict=True)
        ]
        x = torch.cat(tokens, dim=1)
        embedding = self.level_embedding.to(x.dtype)
        position = torch.cat(
            [
                sine_position(size, x.shape[-1], like=x) + embedding[index]
                for index, size in enumerate(sizes)
            ],
            dim=1,
        )
        reference = torch.cat([_centres(size, x.device) for size in sizes])
        for layer in self.layers:
            x = layer(x, position, reference, sizes)
        lengths = [height * width for height, width in sizes]
        parts = torch.split(x, lengths, dim=1)
        return [map_from_tokens(part, size) for part, size in zip(parts, sizes, strict=True)]


def _centres(size_hw: tuple[int, int], device: torch.device) -> Tensor:
    """Return the (x, y) centres of a map's cells in [0, 1], [h * w, 2]."""
    height, width = size_hw
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    grid = torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)], dim=-1)
    return grid.reshape(-1, 2)
