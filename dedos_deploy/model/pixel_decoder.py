"""Pixel decoders: CLIP token maps in, three feature levels and the stride-4 mask features out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.blocks import LayerNorm, map_from_tokens, resize_map, tokens_from_map
from dedos_deploy.model.msdeform import DeformableEncoder
from dedos_deploy.presets import PixelDecoderKind

Levels = list[Tensor]
"""Feature levels [B, c, h, w], coarse to fine: strides 2p, p and p/2 of the input."""


class LevelInputs(nn.Module):
    """Projects three CLIP taps to three levels; each level also sees the last tap's semantics.

    The coarse level is pooled, the fine one unfolded from each token by a learned 2x2 expansion.
    """

    def __init__(self, clip_width: int, width: int, detail_widths: tuple[int, ...]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm(clip_width) for _ in range(3))
        self.fine = nn.Linear(clip_width, 4 * width)
        self.middle = nn.Linear(clip_width, width)
        self.last = nn.Linear(clip_width, width)
        self.width = width
        if detail_widths:
            self.detail8 = nn.Conv2d(detail_widths[1], width, 1)
            self.detail16 = nn.Conv2d(detail_widths[2], width, 1)

    def forward(
        self, taps: list[Tensor], grid_hw: tuple[int, int], detail: tuple[Tensor, ...]
    ) -> Levels:
        """taps: three [B, N, C] token maps, early to last."""
        early, middle, last = (norm(tap) for norm, tap in zip(self.norms, taps, strict=True))
        semantics = self.last(last)
        gh, gw = grid_hw
        centre = map_from_tokens(self.middle(middle) + semantics, grid_hw)
        expanded = self.fine(early).reshape(-1, gh, gw, 2, 2, self.width)
        fine = expanded.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.width, 2 * gh, 2 * gw)
        fine = fine + F.interpolate(map_from_tokens(semantics, grid_hw), scale_factor=2.0)
        if detail:
            fine = fine + resize_map(self.detail8(detail[1]), (2 * gh, 2 * gw))
            centre = centre + resize_map(self.detail16(detail[2]), grid_hw)
        coarse = F.avg_pool2d(centre, 2, ceil_mode=True, count_include_pad=False)
        return [coarse, centre, fine]


class SeparableUnit(nn.Module):
    """Depthwise 3x3, pointwise, LayerNorm over channels, GELU, with a residual: GEMM-shaped."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pointwise = nn.Linear(width, width)
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.norm(self.pointwise(tokens_from_map(self.depthwise(x))))
        return x + map_from_tokens(F.gelu(mixed), (x.shape[2], x.shape[3]))


class FpnEncoder(nn.Module):
    """Top-down feature pyramid of separable units: the edge presets' pixel decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(SeparableUnit(width) for _ in range(3))

    def forward(self, levels: Levels) -> Levels:
        above: Tensor | None = None
        out: Levels = []
        for unit, level in zip(self.units, levels, strict=True):
            if above is not None:
                level = level + resize_map(above, (level.shape[2], level.shape[3]))
            above = unit(level)
            out.append(above)
        return out


class PixelDecoder(nn.Module):
    """Levels from CLIP taps, mixed over space and scale by the chosen encoder."""

    def __init__(
        self,
        kind: PixelDecoderKind,
        *,
        clip_width: int,
        width: int,
        layers: int,
        ffn: int,
        heads: int,
        detail_widths: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.inputs = LevelInputs(clip_width, width, detail_widths)
        self.encoder: nn.Module = (
            DeformableEncoder(width, layers=layers, ffn=ffn, heads=heads)
            if kind == "msdeform"
            else FpnEncoder(width)
        )

    def forward(
        self, taps: list[Tensor], grid_hw: tuple[int, int], detail: tuple[Tensor, ...]
    ) -> Levels:
        levels: Levels = self.encoder(self.inputs(taps, grid_hw, detail))
        return levels


class MaskFeatures(nn.Module):
    """Stride-4 mask features [B, c, H/4, W/4] from the fine level and the detail branch."""

    def __init__(self, width: int, detail_widths: tuple[int, ...]) -> None:
        super().__init__()
        self.unit = SeparableUnit(width)
        self.out = nn.Linear(width, width)
        if detail_widths:
            self.detail4 = nn.Conv2d(detail_widths[0], width, 1)

    def forward(self, fine: Tensor, size_hw: tuple[int, int], detail: tuple[Tensor, ...]) -> Tensor:
        x = resize_map(fine, size_hw)
        if detail:
            x = x + resize_map(self.detail4(detail[0]), size_hw)
        return map_from_tokens(self.out(tokens_from_map(self.unit(x))), size_hw)
