"""Another use of the diffusion: queries that read CLIP alone are taught to equal the denoised ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 1e-12
"""Squared distance below which the bank counts as the denoised Q itself."""


def distillation_loss(read: Sequence[Tensor], denoised: Tensor, start: Tensor) -> Tensor:
    """Return L_distil of every image, float32 [B]: the part of what the bank cannot tell that is left.

        L_distil = mean_l ‖Q_l - Q‖² / ‖Q_0 - Q‖²

    1 for a reader that adds nothing to the bank, 0 for one that tells the denoised Q.

    read: Q_l [B, n, c] of every refined block (see model/query_reader.py); denoised: Q of Eq. 7-8
    [B, n, c]; start: Q_0 [n, c]. Gradients reach `read` alone.
    """
    wanted = denoised.detach().float()
    spread = (start.detach().float() - wanted).square().sum((-2, -1)).clamp_min(SMALLEST)
    left = torch.stack([(one.float() - wanted).square().sum((-2, -1)) for one in read])
    return left.mean(0) / spread
