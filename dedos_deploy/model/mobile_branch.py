"""A pretrained convolutional branch: MobileNet EdgeTPU with a light DeepLab head, as data.

The layout is that of the published Cityscapes net ("slim" MobileNet EdgeTPU in DeepLab,
github.com/google-coral/test_data, Apache-2.0), rebuilt here from its tensors; its weights are read by
`training/pretraining/mobile_weights.py`. BatchNorm is folded into the published weights, so there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

STEM = (24, 16)
HEAD_CHANNELS = 1280
FEATURES = 128
DETAIL_WIDTHS = (24, 40, FEATURES + 120)
"""Channels of the maps at strides 4, 8 and 16."""


@dataclass(frozen=True)
class BottleneckPlan:
    """One inverted bottleneck."""

    wide: int
    """Channels inside the bottleneck."""
    out: int
    """Channels after the bottleneck."""
    kernel: int = 3
    """Side of the spatial convolution."""
    stride: int = 1
    """Stride of the spatial convolution."""
    dilation: int = 1
    """Dilation of the spatial convolution."""
    fused: bool = False
    """The spatial convolution also widens (full 3x3), where otherwise a 1x1 widens and a depthwise
    one looks around."""


_STAGE4 = (BottleneckPlan(128, 24, stride=2, fused=True), *[BottleneckPlan(96, 24, fused=True)] * 3)
_STAGE8 = (
    BottleneckPlan(192, 40, stride=2, fused=True),
    *[BottleneckPlan(160, 40, fused=True)] * 3,
)
_STAGE16 = (
    BottleneckPlan(320, 72, stride=2),
    *[BottleneckPlan(288, 72)] * 3,
    BottleneckPlan(576, 72),
    *[BottleneckPlan(288, 72)] * 3,
    BottleneckPlan(576, 120, kernel=5),
    *[BottleneckPlan(480, 120, kernel=5, dilation=2)] * 3,
)
_WIDENED = 576
"""A separable bottleneck of this width starts a new group: it has no residual, even with equal
channels."""
_LAST = BottleneckPlan(960, 144, dilation=2)

_LATE_STRIDES = frozenset({4, 16})
"""Strides at which a halving convolution looks at the pixels after its own instead of around it.

With padding around it cell i of every map would be centred on pixel stride * i, but ViT patches
are centred half a cell further on. Two of four halvings moved by one of their input's cells bring the
maps to 2, 2 and 10 pixels, where 1.5, 3.5 and 7.5 are ideal. Inside the picture the net computes
the same as published, at other positions."""


def _convolution(
    wide: int, narrow: int, plan: BottleneckPlan, *, depthwise: bool, stride: int
) -> nn.Module:
    spread = (plan.kernel - 1) * plan.dilation
    late = plan.stride == 2 and stride in _LATE_STRIDES
    convolution = nn.Conv2d(
        wide,
        narrow,
        plan.kernel,
        stride=plan.stride,
        dilation=plan.dilation,
        groups=wide if depthwise else 1,
        padding=0 if late else spread // 2,
    )
    if not late:
        return convolution
    return nn.Sequential(nn.ZeroPad2d((0, spread, 0, spread)), convolution)


class Bottleneck(nn.Module):
    """Inverted bottleneck with a linear end; `stride` is that of its result against the image."""

    def __init__(self, narrow: int, plan: BottleneckPlan, *, stride: int) -> None:
        super().__init__()
        wide = plan.wide
        if plan.fused:
            inside = [_convolution(narrow, wide, plan, depthwise=False, stride=stride), nn.ReLU()]
        else:
            around = _convolution(wide, wide, plan, depthwise=True, stride=stride)
            inside = [nn.Conv2d(narrow, wide, 1), nn.ReLU(), around, nn.ReLU()]
        self.inside = nn.Sequential(*inside)
        self.out = nn.Conv2d(wide, plan.out, 1)
        opens = not plan.fused and wide == _WIDENED
        self.residual = plan.stride == 1 and narrow == plan.out and not opens

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.inside(x))
        return x + y if self.residual else y


def _stage(narrow: int, plans: tuple[BottleneckPlan, ...], *, stride: int) -> nn.Sequential:
    blocks = []
    for plan in plans:
        blocks.append(Bottleneck(narrow, plan, stride=stride))
        narrow = plan.out
    return nn.Sequential(*blocks)


class SceneHead(nn.Module):
    """DeepLab's light head: every cell beside the mean of the picture, FEATURES channels."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(narrow, HEAD_CHANNELS, 1)
        self.cell = nn.Conv2d(HEAD_CHANNELS, FEATURES, 1)
        self.picture = nn.Conv2d(HEAD_CHANNELS, FEATURES, 1)
        self.join = nn.Conv2d(2 * FEATURES, FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.widen(x).relu()
        cells = self.cell(wide).relu()
        # In float32: a sum over a few thousand cells leaves float16's range.
        mean = wide.float().mean((2, 3), keepdim=True).to(wide.dtype)
        picture = self.picture(mean).relu()
        joined = torch.cat([picture.expand_as(cells), cells], dim=1)
        return self.join(joined).relu()  # type: ignore[no-any-return]


class Standardise(nn.Module):
    """Channels brought to zero mean and unit deviation by constants, [B, C, h, w] to the same."""

    factor: Tensor
    offset: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(channels, 1, 1))
        self.register_buffer("offset", torch.zeros(channels, 1, 1))

    def fit(self, mean: Tensor, deviation: Tensor) -> None:
        """Take the statistics of some pictures, both [C]; constant channels become zero."""
        factor = torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 0.0)
        self.factor.copy_(factor[:, None, None])
        self.offset.copy_((-mean * factor)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor.to(x.dtype) + self.offset.to(x.dtype)


class MobileBranch(nn.Module):
    """uint8 BGR [B, H, W, 3] -> maps at strides 4, 8, 16 with DETAIL_WIDTHS channels."""

    def __init__(self) -> None:
        super().__init__()
        self.widths = DETAIL_WIDTHS
        self.stem = nn.Sequential(
            nn.Conv2d(3, STEM[0], 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(*STEM, 1)
        )
        self.stage4 = _stage(STEM[1], _STAGE4, stride=4)
        self.stage8 = _stage(DETAIL_WIDTHS[0], _STAGE8, stride=8)
        self.stage16 = _stage(DETAIL_WIDTHS[1], _STAGE16, stride=16)
        self.last = Bottleneck(_STAGE16[-1].out, _LAST, stride=16)
        self.head = SceneHead(_LAST.out)
        self.standardise = nn.ModuleList(Standardise(width) for width in DETAIL_WIDTHS)

    def raw_maps(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps before they are standardised."""
        dtype = next(self.stem.parameters()).dtype
        x = image.to(dtype).permute(0, 3, 1, 2) * (1 / 128) - 1
        x4 = self.stage4(self.stem(x))
        x8 = self.stage8(x4)
        x16 = self.stage16(x8)
        return x4, x8, torch.cat([self.head(self.last(x16)), x16], dim=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x4, x8, x16 = (
            fit(raw) for fit, raw in zip(self.standardise, self.raw_maps(image), strict=True)
        )
        return x4, x8, x16

    @torch.no_grad()
    def fit_statistics(self, images: list[Tensor]) -> None:
        """Set the constants of `Standardise` from pictures uint8 [1, H, W, 3] of any sizes."""
        sums = [torch.zeros(2, width, dtype=torch.float64) for width in self.widths]
        cells = [0] * len(sums)
        for image in images:
            for index, found in enumerate(self.raw_maps(image)):
                flat = found.double().flatten(2).transpose(0, 1).flatten(1)
                sums[index] += torch.stack([flat.sum(1), flat.square().sum(1)])
                cells[index] += flat.shape[1]
        for module, (total, squares), count in zip(self.standardise, sums, cells, strict=True):
            mean = total / count
            deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
            assert isinstance(module, Standardise)
            module.fit(mean.float(), deviation.float())
