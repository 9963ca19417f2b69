"""What every one of the authors' models is to the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Authors:
    """One of their modules and how to run it.

    network: whose state dict is the checkpoint; scores: (uint8 RGB [1, 3, H, W], text) -> their
    scores [K, H / 4, W / 4] before any clipping; whole: the same at full size, as they evaluate.
    """

    network: nn.Module
    scores: Callable[[Tensor, Tensor], Tensor]
    whole: Callable[[Tensor, Tensor], Tensor]


def enliven(network: nn.Module, noise: float = 0.02) -> None:
    """Give every tensor that starts as a constant some noise, so that no part is inert."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if not name.endswith("logit_scale"):
                value += torch.randn(value.shape, generator=generator) * noise
