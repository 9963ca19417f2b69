"""The autoencoder of the nano diffusion: pictures to latents of a quarter of their size and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.pretraining.diffusion_start import start_linear

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

GROUPS = 4
"""Groups of every GroupNorm; they need at least four channels each to start linear."""
LOGVAR_AT_START = -7.0


@dataclass(frozen=True)
class VaeSettings:
    """Shape and recipe of the autoencoder.

    Raises BadInputError for widths that do not fit its groups, or a crop that does not fit its
    scales.
    """

    widths: tuple[int, ...] = (16, 32, 32)
    """Channels at each scale, from the full one down, halved in size between two."""

    channels: int = 4
    crop: int = 64
    """Side in pixels of the squares it trains on."""

    whole: float = 0.2
    """Part of the run, its last, that trains on whole pictures, whose statistics the group norms
    meet later."""

    batch: int = 4
    """Crops a step."""

    lr: float = 2e-3
    kl: float = 1e-5
    """Weight of the divergence from a unit Gaussian, mean over elements."""

    squares: float = 5.0
    edges: float = 1.0
    """Weight of the L1 distance between Laplacian pyramids, which counts contours more than
    areas."""

    def __post_init__(self) -> None:
        check_widths(self.widths, 4 * GROUPS)
        if self.crop % self.factor:
            raise BadInputError(
                f"crop {self.crop} is not a multiple of {self.factor}, by which the autoencoder "
                "shrinks pictures; choose another"
            )

    @property
    def factor(self) -> int:
        """How many times smaller latents are than pictures, along each side."""
        return int(2 ** (len(self.widths) - 1))


def check_widths(widths: tuple[int, ...], multiple: int) -> None:
    """Raise BadInputError unless there are widths, all of them multiples of `multiple`."""
    if not widths or any(width < 1 or width % multiple for width in widths):
        raise BadInputError(
            f"widths {widths} must all be multiples of {multiple}, as "
            f"{(multiple, 2 * multiple, 2 * multiple)}"
        )


def build_vae(settings: VaeSettings, size_hw: tuple[int, int]) -> AutoencoderKL:
    """Return an untrained autoencoder for pictures of `size_hw`; see Note [Linear start]."""
    from diffusers import AutoencoderKL

    scales = len(settings.widths)
    # No attention in the middle: at a quarter of the size it costs as much as all the rest.
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * scales,
        up_block_types=("UpDecoderBlock2D",) * scales,
        block_out_channels=settings.widths,
        layers_per_block=1,
        latent_channels=settings.channels,
        norm_num_groups=GROUPS,
        sample_size=max(size_hw),
        mid_block_add_attention=False,
    )
    start_linear(vae, GROUPS)
    with torch.no_grad():
        # Latents start nearly without noise: at the deviation of 1 that zeros mean, it drowns them,
        # and the first minutes teach nothing but to make them large.
        vae.quant_conv.bias[settings.channels :] = LOGVAR_AT_START
    return vae


def vae_loss(
    vae: AutoencoderKL, pixels: Tensor, settings: VaeSettings
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of reconstructing `pixels`, float [B, 3, H, W] in [-1, 1], and its terms."""
    posterior = vae.encode(pixels).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    latents = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    found = vae.decode(latents).sample.float()
    l1 = (found - pixels).abs().mean()
    l2 = (found - pixels).square().mean()
    edges = pyramid_distance(found, pixels)
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss = l1 + settings.squares * l2 + settings.edges * edges + settings.kl * kl
    terms = {"l1": l1, "l2": l2, "edges": edges, "kl": kl}
    return loss, {name: float(term.detach()) for name, term in terms.items()}


def pyramid_distance(first: Tensor, second: Tensor, *, levels: int = 3) -> Tensor:
    """Return the mean L1 distance of the band-pass levels of two pictures [B, C, H, W].

    A level is a picture minus its blurred self; the next one is made from every second pixel of
    that. Areas of one colour count nothing.
    """
    rest = first - second  # the pyramid is linear: that of a difference is the difference
    total = rest.new_zeros(())
    for _ in range(levels):
        small = F.avg_pool2d(rest, 2)
        band = rest - F.interpolate(small, rest.shape[-2:], mode="bilinear", align_corners=False)
        total = total + band.abs().mean()
        rest = small
    return total / levels


@torch.no_grad()
def standardize(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Change `vae` in place so that its latents have mean 0 and deviation 1 in every channel.

    mean, std: float [C], of the latents it gives now. Its reconstructions stay what they were: the
    1x1 convolutions on both sides of the latents take the scale, so the usual single scaling factor
    is 1 and no shift is needed.
    """
    into, back = vae.quant_conv, vae.post_quant_conv
    count = len(mean)
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= std.view(1, count, 1, 1)
    into.weight[:count] /= std.view(count, 1, 1, 1)
    into.bias[:count] = (into.bias[:count] - mean) / std
    into.bias[count:] -= 2 * std.log()  # the other half is the logarithm of the variance
    vae.register_to_config(scaling_factor=1.0)


def pixels_from_images(images: Tensor) -> Tensor:
    """Return float32 RGB [B, 3, H, W] in [-1, 1] of uint8 BGR [B, H, W, 3]."""
    rgb = images.flip(-1).permute(0, 3, 1, 2).float()
    return (rgb / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def psnr_db(images: NDArray[np.uint8], found: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio in dB of each picture [B, H, W, 3]; at most 99."""
    error = (images.astype(np.float64) - found) ** 2
    mean = error.reshape(len(images), -1).mean(1)
    return np.asarray(np.minimum(99.0, 10 * np.log10(255.0**2 / np.maximum(mean, 1e-9))))
