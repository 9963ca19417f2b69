"""Fillings of the proxy bank: static, running mean, or calibrated on training images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import Dedos
from dedos_deploy.pictures import open_picture
from dedos_deploy.training.denoising import (
    DenoisingLearning,
    LiveFill,
    set_means,
    set_weights,
)
from dedos_deploy.training.evaluate import network_input

if TYPE_CHECKING:
    from dedos_deploy.training.folders import LabelFolder


class Denoised(Protocol):
    """What the reader needs of a denoising."""

    @property
    def features(self) -> tuple[tuple[Tensor, ...], ...]: ...


class Denoiser(Protocol):
    """What calibration needs of `LatentDiffusion`."""

    @property
    def channels(self) -> tuple[int, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    def encode(self, images: Tensor) -> Tensor: ...

    def denoise(self, latents: Tensor, *, seed: int = 0) -> Denoised: ...


def fill_bank(model: Dedos, learning: DenoisingLearning | None, fill: LiveFill) -> None:
    """Write the filling `fill` into the bank of `model`, for evaluation and export.

    learning: may be None for `static`, which the kernels alone decide.

    Raises BadInputError for `ema` when no image was ever denoised.
    """
    proxy = model.proxy_queries
    if fill == "static":
        proxy.fill_bank(proxy.stage_queries(), "static")
        return
    if learning is None or int(learning.count) == 0:
        raise BadInputError(
            "the bank cannot be filled by ema, since the run denoised no image; train with "
            "--diffusion, or fill it with static"
        )
    proxy.fill_bank(learning.stage_mean, "ema")


@torch.no_grad()
def calibrate_bank(
    model: Dedos,
    learning: DenoisingLearning,
    diffusion: Denoiser,
    images: Iterable[Tensor],
    count: int,
    *,
    size_hw: tuple[int, int],
) -> Tensor:
    """Return the mean of q_{L,t} over `count` images, [N, n, c], in float32.

    Of a model with M sets [M, N, n, c]: that of a set is weighted by how much each image asks with it,
    seen as it is deployed, at the network's `size_hw`.

    images: batches uint8 BGR [B, H, W, 3], read no further than needed. The bank is left as it is:
    `model.proxy_queries.fill_bank(mean, "calibrated")` writes it. Without
    added noise the batches and their order change the mean by rounding only.

    Raises BadInputError for fewer images than `count`, or a diffusion of other layers.
    """
    if diffusion.channels != learning.reader.channels:
        raise BadInputError(
            f"the diffusion has layers of {diffusion.channels} channels, but the run learned on "
            f"{learning.reader.channels}; give the one it was trained with"
        )
    was_training = learning.training
    learning.eval()
    queries = model.proxy_queries.stage_queries()
    total, seen = torch.zeros_like(queries, dtype=torch.float64), 0
    shares = torch.zeros(len(queries), dtype=torch.float64, device=queries.device)
    sets = queries.ndim == 4
    try:
        for batch in images:
            batch = batch[: count - seen].to(queries.device)
            denoised = diffusion.denoise(diffusion.encode(batch), seed=seen)
            stages = learning.read(model, denoised.features)
            if sets:
                asked = model.proxy_queries.global_queries(stages)
                weights = set_weights(model, _at(size_hw, batch).to(queries.device), asked)
                shares += weights.double().sum(0)
                stages = stages * weights[..., None, None, None]
            total += stages.double().sum(0)
            seen += len(batch)
            if seen >= count:
                break
    finally:
        learning.train(was_training)
    if seen < count or not count:
        raise BadInputError(
            f"calibration asked for {count} images and found {seen}; give more --data, or ask for "
            "at least 1 and at most as many as there are"
        )
    return (set_means(total, shares) if sets else total / seen).float()


def _at(size_hw: tuple[int, int], batch: Tensor) -> Tensor:
    return torch.cat([network_input(image.cpu().numpy(), size_hw) for image in batch])


class CalibrationImages:
    """Training images spread evenly over folders, unaugmented, and the hash of those read.

    folders: their images in file order; count: how many to take (all, if there are fewer).
    """

    def __init__(self, folders: Sequence[LabelFolder], count: int) -> None:
        paths = [image for folder in folders for image, _ in folder.items]
        self.count = min(count, len(paths))
        self.paths = [paths[index * len(paths) // self.count] for index in range(self.count)]
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[Tensor]:
        """Yield uint8 BGR [1, H, W, 3], one image at a time since sizes differ.

        Raises BadInputError naming a file that cannot be read.
        """
        self._hash = hashlib.sha256()
        for path in self.paths:
            image = open_picture(path)
            self._hash.update(json.dumps(image.shape).encode())
            self._hash.update(image.tobytes())
            yield torch.from_numpy(image)[None]

    @property
    def sha256(self) -> str:
        """Hash of the shapes and pixels of every image yielded so far, in order."""
        return self._hash.hexdigest()
