"""A picture and words for both sides, the same in every run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 640
"""Side of the compared picture in pixels."""

CLASSES = 171
"""Words of the comparison."""


@dataclass(frozen=True)
class Inputs:
    """image: uint8 BGR [1, H, W, 3]; text: float32 [K, D], unit rows."""

    image: Tensor
    text: Tensor

    @classmethod
    def random(cls, size_hw: tuple[int, int], slots: int, width: int) -> Inputs:
        """A picture of soft blobs with noise, and words in random directions."""
        generator = torch.Generator().manual_seed(11)
        blobs = torch.rand(1, 3, 12, 12, generator=generator) * 255
        picture = F.interpolate(blobs, size=size_hw, mode="bicubic")
        picture += torch.randn(picture.shape, generator=generator) * 8
        image = picture.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        text = F.normalize(torch.randn(slots, width, generator=generator), dim=-1)
        return cls(image, text)

    @property
    def rgb(self) -> Tensor:
        """uint8 [1, 3, H, W], as the authors take it."""
        return self.image.flip(-1).permute(0, 3, 1, 2).contiguous()
