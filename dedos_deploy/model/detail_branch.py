"""A thin convolutional branch for the stride-4, 8 and 16 detail that a plain ViT lacks."""

from __future__ import annotations

from torch import Tensor, nn


class ConvUnit(nn.Sequential):
    """3x3 convolution, BatchNorm (folded into it at export), ReLU."""

    def __init__(self, wide: int, narrow: int, *, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(wide, narrow, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
        )


class DetailBranch(nn.Module):
    """uint8 BGR [B, H, W, 3] -> maps at strides 4, 8, 16 with 2d, 4d, 4d channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widths = (2 * width, 4 * width, 4 * width)
        self.stem = nn.Sequential(
            ConvUnit(3, width, stride=2), ConvUnit(width, 2 * width, stride=2)
        )
        self.stage8 = nn.Sequential(
            ConvUnit(2 * width, 4 * width, stride=2), ConvUnit(4 * width, 4 * width)
        )
        self.stage16 = nn.Sequential(
            ConvUnit(4 * width, 4 * width, stride=2), ConvUnit(4 * width, 4 * width)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Bytes to about [-1, 1]; the branch learns its own channel statistics.
        dtype = next(self.stem.parameters()).dtype
        x = image.to(dtype).permute(0, 3, 1, 2) * (1 / 127.5) - 1
        x4 = self.stem(x)
        x8 = self.stage8(x4)
        return x4, x8, self.stage16(x8)
