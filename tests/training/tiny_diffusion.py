"""A tiny random latent diffusion model as a diffusers folder, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

PROMPT_WIDTH = 12


def write_tiny_diffusion(
    folder: Path, *, prediction: str = "v_prediction", final_alpha_one: bool = False, seed: int = 0
) -> Path:
    """Write vae/, unet/, scheduler/ and empty_prompt.safetensors; sides are multiples of 8.

    The latent code has a quarter of the image's side and 4 channels; the UNet has 2 down, one mid
    and 2 up blocks of 8 and 16 channels.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=4,
            scaling_factor=0.5,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=PROMPT_WIDTH,
            attention_head_dim=4,
        )
        prompt = torch.randn(1, 3, PROMPT_WIDTH)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=final_alpha_one,
        steps_offset=1,
    )
    folder.mkdir(parents=True, exist_ok=True)
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    save_file({"embedding": prompt}, folder / "empty_prompt.safetensors")
    return folder


SD2_WIDTHS = (20, 40, 80, 80)
"""Of Stable Diffusion 2's noise predictor, over 16."""

_SD2_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_SD2_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
_SD2_NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def write_small_sd2(folder: Path, *, base: bool) -> Path:
    """Write the configuration of Stable Diffusion 2-1, or 2-1-base, with every width over 16.

    Blocks, layers, heads, linear projections, prediction and scheduler are those of the published
    model: 2-1 predicts v for 768 pixels and has a DDIM scheduler, 2-1-base predicts the noise for 512
    and has PNDM. Sides of images are multiples of 64.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        vae = AutoencoderKL(
            block_out_channels=(8, 16, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            layers_per_block=2,
            norm_num_groups=8,
            sample_size=512 if base else 768,
        )
        unet = UNet2DConditionModel(
            sample_size=64 if base else 96,
            block_out_channels=SD2_WIDTHS,
            down_block_types=_SD2_DOWN,
            up_block_types=_SD2_UP,
            layers_per_block=2,
            attention_head_dim=[5, 10, 20, 20],
            cross_attention_dim=64,
            norm_num_groups=4,
            use_linear_projection=True,
            upcast_attention=not base,
        )
        prompt = torch.randn(1, 77, 64)
    noise = {**_SD2_NOISE, "prediction_type": "epsilon" if base else "v_prediction"}
    if base:
        scheduler = PNDMScheduler(**noise, skip_prk_steps=True)
    else:
        scheduler = DDIMScheduler(**noise, clip_sample=False)
    folder.mkdir(parents=True, exist_ok=True)
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    save_file({"embedding": prompt}, folder / "empty_prompt.safetensors")
    return folder
