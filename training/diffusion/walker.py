"""What a training step asks of the frozen diffusion model: features, and images before and after."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dedos_deploy.training.data import Batch
from dedos_deploy.training.diffusion.cache import DiffusionCache
from dedos_deploy.training.diffusion.walk import LatentDiffusion


@dataclass(frozen=True)
class Walked:
    """One batch after the walk."""

    features: tuple[tuple[Tensor, ...], ...]
    """[N][L] maps [B, C_i, h_i, w_i]."""

    before: Tensor | None
    """x_b, uint8 BGR [B, H, W, 3]; None when it is not needed."""

    after: Tensor | None
    """x_a, uint8 BGR [B, H, W, 3]; None when it is not needed."""


class Walker:
    """Walks a batch's images through the diffusion model.

    separation: whether x_a is decoded; cache: latents and x_a of whole images on disk.
    """

    def __init__(
        self, diffusion: LatentDiffusion, *, separation: bool, cache: DiffusionCache | None = None
    ) -> None:
        self.diffusion, self.separation, self.cache = diffusion, separation, cache

    def __call__(self, batch: Batch, seed: int) -> Walked:
        """Return the walk of the batch's whole images, or of its crops when it has none.

        seed: of the noise of the first image, where noise is added; the next ones have the next.
        """
        device = self.diffusion.alphas.device
        # What the cache holds must not depend on a run's --amp; half precision is an option of its
        # own, and part of the diffusion's fingerprint.
        with torch.autocast(device.type, enabled=False):
            return self._walk(batch, seed, device)

    def _walk(self, batch: Batch, seed: int, device: torch.device) -> Walked:
        images = (batch.images if batch.whole is None else batch.whole).to(device)
        after: Tensor | None = None
        if self.cache is not None and batch.keys:
            latents, after = self.cache.latents_and_decoded(batch.keys, images)
            latents = latents.to(device)
        else:
            latents = self.diffusion.encode(images)
        walked = self.diffusion.denoise(latents, seed=seed)
        if not self.separation:
            return Walked(walked.features, None, None)
        if after is None:
            after = self.diffusion.decode(walked.latents)
        return Walked(walked.features, images, after.to(device))
