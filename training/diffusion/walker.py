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

    separation: whether x_a is decoded; cache: latents and x_a of whole images on disk; shuffled: every
    image has the features of the one before it in the batch, a control.
    """

    def __init__(
        self,
        diffusion: LatentDiffusion,
        *,
        separation: bool,
        cache: DiffusionCache | None = None,
        shuffled: bool = False,
    ) -> None:
        self.diffusion, self.separation, self.cache = diffusion, separation, cache
        self.shuffled = shuffled

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
        features = walked.features
        if self.shuffled:
            features = tuple(tuple(f.roll(1, 0) for f in layers) for layers in features)
        if not self.separation:
            return Walked(features, None, None)
        if after is None:
            after = self.diffusion.decode(walked.latents)
        return Walked(features, images, after.to(device))


class LabelWalker:
    """In the place of a diffusion: the true labels as features, a control (`oracle`).

    words: of the union vocabulary, W, one channel for each; steps: N; device: of the features.
    """

    STRIDE = 4

    def __init__(self, words: int, steps: int, device: torch.device) -> None:
        self.words, self.steps, self.device = words, steps, device

    def __call__(self, batch: Batch, seed: int) -> Walked:
        """Return for every step the part of each 4x4 cell that has a word, [B, W, h / 4, w / 4]."""
        # IGNORE and OTHER, -1 and -2, index the last two entries: no word.
        word_of = torch.tensor([*batch.slots, self.words, self.words])
        return Walked(self.features(word_of[batch.labels]), None, None)

    def features(self, labels: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Return the features of labels, int64 [B, H, W]: a word each, W for none."""
        whole = torch.nn.functional.one_hot(labels.to(self.device), self.words + 1)[..., :-1]
        maps = whole.permute(0, 3, 1, 2).float()
        maps = torch.nn.functional.avg_pool2d(maps, self.STRIDE, ceil_mode=True)
        return ((maps,),) * self.steps
