"""A stand-in that keeps the contract of LatentDiffusion with a few fixed convolutions."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

CHANNELS = (6, 10, 6)


@dataclass(frozen=True)
class Maps:
    """[N][L] features, each [B, C_i, h_i, w_i]."""

    features: tuple[tuple[Tensor, ...], ...]


@dataclass
class TinyDenoiser:
    """Deterministic features of three steps and three layers; `seen` counts encoded images."""

    channels: tuple[int, ...] = CHANNELS
    fingerprint: str = "tiny"
    steps: int = 3
    seen: int = field(default=0)

    def encode(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        maps = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        return F.interpolate(maps, size=(8, 8), mode="area")

    def denoise(self, latents: Tensor, *, seed: int = 0) -> Maps:
        steps = []
        for step in range(self.steps):
            generator = torch.Generator().manual_seed(step)
            layers = []
            for index, width in enumerate(self.channels):
                kernel = torch.randn(width, 3, 3, 3, generator=generator)
                layers.append(F.conv2d(latents, kernel, stride=2 if index == 1 else 1, padding=1))
            steps.append(tuple(layers))
        return Maps(tuple(steps))
