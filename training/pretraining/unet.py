"""The noise predictor of the nano diffusion: its shape, its loss, and pictures drawn with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.muon import MuonAdamW
from dedos_deploy.training.pretraining.vae import check_widths

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DConditionModel

GROUPS = 8
OUTER = ("conv_in", "conv_out", "time_embedding")
"""Layers at the border of a noise predictor, whose directions do not all matter alike."""

WEIGHT_DECAY = 0.01
Prediction = Literal["v_prediction", "epsilon"]


@dataclass(frozen=True)
class UNetSettings:
    """Shape and recipe of the noise predictor.

    Raises BadInputError for widths that do not fit its groups and heads.
    """

    widths: tuple[int, ...] = (32, 64, 96, 128)
    """Channels at each scale, halved in size between two."""

    attention: tuple[int, ...] = (2,)
    """Scales with self- and cross-attention; the middle block has it always."""

    head: int = 32
    """Channels of an attention head."""

    text: int = 64
    """Width of the text token, that of the text tower if there is one."""

    batch: int = 8
    lr: float = 2e-3
    hidden_lr: float | None = 5e-3
    """Rate of orthogonal steps for the matrices and convolutions between the first and the last
    one; None: AdamW for all."""

    prediction: Prediction = "v_prediction"
    """What it predicts, v as Stable Diffusion 2.1 or the noise as 1.x."""

    snr: float = 5.0
    """The weight of a timestep is that of its signal-to-noise ratio limited to this (min-SNR);
    0: equal weights."""

    floor: float = 0.25
    """Least weight of a timestep: the noisiest ones lay out what is drawn from noise, and
    min-SNR all but drops them."""

    empty: float = 0.2
    """Probability that a picture is shown without its caption."""

    def __post_init__(self) -> None:
        check_widths(self.widths, GROUPS)
        for scale in self.attention:
            if not 0 <= scale < len(self.widths) or self.widths[scale] % self.head:
                raise BadInputError(
                    f"attention at scale {scale} needs widths[{scale}] to be a multiple of the "
                    f"head's {self.head} channels, but widths are {self.widths}"
                )

    @property
    def factor(self) -> int:
        """What both sides of the latents must be multiples of."""
        return int(2 ** (len(self.widths) - 1))


def build_unet(
    settings: UNetSettings, channels: int, latent_hw: tuple[int, int]
) -> UNet2DConditionModel:
    """Return an untrained noise predictor for latents [B, channels, *latent_hw]."""
    from diffusers import UNet2DConditionModel

    attends = [scale in settings.attention for scale in range(len(settings.widths))]
    down = tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attends)
    up = tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attends))
    # What diffusers calls the dimension of a head is the number of heads here, as in SD 2.1.
    heads = tuple(max(1, width // settings.head) for width in settings.widths)
    return UNet2DConditionModel(
        sample_size=list(latent_hw),
        in_channels=channels,
        out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=settings.widths,
        layers_per_block=1,
        norm_num_groups=GROUPS,
        cross_attention_dim=settings.text,
        attention_head_dim=heads,
        use_linear_projection=True,
    )


def build_network_optimizer(
    network: nn.Module, lr: float, hidden_lr: float | None = None
) -> MuonAdamW:
    """Return AdamW, with orthogonal steps for the hidden weights where there is a rate for them.

    network: noise predictor or autoencoder.
    """
    groups: dict[str, list[nn.Parameter]] = {"hidden": [], "weights": [], "plain": []}
    for name, parameter in network.named_parameters():
        hidden = hidden_lr is not None and not name.startswith(OUTER)
        matrix = "hidden" if hidden else "weights"
        groups[matrix if parameter.ndim > 1 else "plain"].append(parameter)
    rates = {"hidden": hidden_lr or 0.0, "weights": lr, "plain": lr}
    return MuonAdamW(
        [
            {
                "params": members,
                "peak_lr": rates[kind],
                "muon": kind == "hidden",
                "betas": (0.9, 0.99),
                "weight_decay": WEIGHT_DECAY if kind == "weights" else 0.0,
            }
            for kind, members in groups.items()
        ]
    )


def build_scheduler(prediction: Prediction) -> DDIMScheduler:
    """Return the noise schedule of Stable Diffusion, with `prediction` written into it."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def unet_loss(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    latents: Tensor,
    text: Tensor,
    settings: UNetSettings,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one batch, timesteps and noise drawn from torch's generator, and its terms.

    latents: float [B, C, h, w] of unit size; text: float [B, tokens, width].
    """
    count = len(latents)
    total = scheduler.config.num_train_timesteps
    # One draw in each of B equal parts of the schedule: less variance than B free draws.
    place = (torch.arange(count) + torch.rand(count)) / count
    timesteps = (place * total).long().clamp(max=total - 1).to(latents.device)
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = prediction_target(scheduler, latents, noise, timesteps)
    found = unet(noisy, timesteps, text).sample.float()
    each = (found - target).square().mean((1, 2, 3))
    weights = snr_weights(scheduler.alphas_cumprod[timesteps.cpu()].to(each), settings)
    low = each[: max(1, count // 4)]
    terms = {"mse": float(each.detach().mean()), "mse_low_t": float(low.detach().mean())}
    return (each * weights).mean(), terms


def prediction_target(
    scheduler: DDIMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Return what the noise predictor should say: v, or the noise; float [B, C, h, w]."""
    if scheduler.config.prediction_type == "v_prediction":
        velocity: Tensor = scheduler.get_velocity(latents, noise, timesteps)
        return velocity
    return noise


def snr_weights(alphas: Tensor, settings: UNetSettings) -> Tensor:
    """Return the weight of each sample's squared error, for cumulated alphas [B].

    Predicting the clean latents is worth min(SNR, limit); v and noise are that up to a factor of
    SNR + 1 and SNR.
    """
    if not settings.snr:
        return torch.ones_like(alphas)
    snr = alphas / (1 - alphas)
    limited = snr.clamp(max=settings.snr)
    weights = limited / (snr + 1 if settings.prediction == "v_prediction" else snr)
    return weights.clamp(min=settings.floor)


@torch.no_grad()
def draw_latents(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    text: Tensor,
    latent_hw: Sequence[int],
    *,
    steps: int = 50,
    seed: int = 0,
) -> Tensor:
    """Return latents [B, C, h, w] drawn by DDIM from noise, one for each text [B, tokens, width]."""
    # A generator of its own on the CPU, so that the picture of a seed is the same on any device.
    generator = torch.Generator().manual_seed(seed)
    shape = (len(text), unet.config.in_channels, *latent_hw)
    latents = torch.randn(shape, generator=generator).to(text.device)
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        found = unet(latents, timestep, text).sample
        latents = scheduler.step(found, timestep, latents).prev_sample
    return latents
