"""Multi-scale deformable attention encoder (Deformable DETR; Mask2Former's pixel decoder).

Sampling exists in two forms that agree to float rounding: `grid_sample`, for training and ONNX
Runtime, and `gather`, four corner look-ups with bilinear weights, for TensorRT, which silently
miscompiles deformable attention built on GridSample (NVIDIA/TensorRT issue 4813).
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
    softmax,
    tokens_from_map,
)

Sampling = Literal["grid_sample", "gather"]


def sample_grid(value: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of value [M, d, h, w] at points [M, L, P, 2] (x, y in [0, 1]): [M, d, L, P].

    Outside the map the value is zero; pixel centres lie at (i + 0.5) / size.
    """
    grid = 2 * points - 1
    return F.grid_sample(value, grid.to(value.dtype), mode="bilinear", align_corners=False)


def sample_gather(value: Tensor, points: Tensor) -> Tensor:
    """The same as `sample_grid`, written as four row look-ups and bilinear weights."""
    maps, depth, height, width = value.shape
    rows = value.flatten(2).transpose(1, 2).reshape(maps * height * width, depth)
    # Coordinates stay float32: half cannot address a 160-wide map to a sub-pixel.
    x = points[..., 0].float() * width - 0.5
    y = points[..., 1].float() * height - 0.5
    x0, y0 = x.floor(), y.floor()
    base = torch.arange(maps, device=value.device)[:, None, None] * (height * width)

    def corner(cx: Tensor, cy: Tensor, weight: Tensor) -> Tensor:
        inside = (cx >= 0) & (cx <= width - 1) & (cy >= 0) & (cy <= height - 1)
        index = cy.clamp(0, height - 1).long() * width + cx.clamp(0, width - 1).long() + base
        picked = rows.index_select(0, index.reshape(-1)).reshape(*index.shape, depth)
        return picked * (weight * inside.float())[..., None].to(value.dtype)

    fx, fy = x - x0, y - y0
    total = corner(x0, y0, (1 - fx) * (1 - fy)) + corner(x0 + 1, y0, fx * (1 - fy))
    total = total + corner(x0, y0 + 1, (1 - fx) * fy) + corner(x0 + 1, y0 + 1, fx * fy)
    return total.permute(0, 3, 1, 2)


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

    def forward(
        self, query: Tensor, tokens: Tensor, reference: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        """query, tokens [B, L, c]; reference [L, 2] (x, y) in [0, 1]; returns [B, L, c]."""
        batch, length, width = query.shape
        depth = width // self.heads
        shape = (batch, length, self.heads, self.levels * self.points)
        weights = softmax(self.weights(query).reshape(shape))
        offsets = self.offsets(query).float()
        offsets = offsets.reshape(batch, length, self.heads, self.levels, self.points, 2)
        value = self.value(tokens)
        start, mixed = 0, None
        for level, (height, wide) in enumerate(sizes):
            part = value[:, start : start + height * wide]
            part = part.reshape(batch, height, wide, self.heads, depth).permute(0, 3, 4, 1, 2)
            part = part.reshape(batch * self.heads, depth, height, wide)
            scale = torch.tensor([1 / wide, 1 / height], device=query.device)
            points = reference[None, :, None, None] + offsets[:, :, :, level] * scale
            points = points.transpose(1, 2).reshape(batch * self.heads, length, self.points, 2)
            sample = sample_grid if self.sampling == "grid_sample" else sample_gather
            sampled = sample(part, points)  # [B * heads, d, L, P]
            share = weights[..., level * self.points : (level + 1) * self.points]
            share = share.transpose(1, 2).reshape(batch * self.heads, 1, length, self.points)
            term = (sampled * share).sum(-1)
            mixed = term if mixed is None else mixed + term
            start += height * wide
        assert mixed is not None
        merged = mixed.reshape(batch, self.heads * depth, length).transpose(1, 2)
        return self.out(merged)  # type: ignore[no-any-return]


class DeformableLayer(nn.Module):
    """A layer of the pixel decoder: deformable attention over all scales, then two linear maps."""

    def __init__(self, width: int, *, heads: int, ffn: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads)
        self.norm_1 = LayerNorm(width)
        self.fc = nn.Linear(width, ffn)
        self.proj = nn.Linear(ffn, width)
        self.norm_2 = LayerNorm(width)

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
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
