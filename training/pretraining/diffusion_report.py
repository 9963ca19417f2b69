"""What came of a pretraining of the nano diffusion: figures of held-out pictures, and sheets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dedos_deploy.training.diffusion.walk import (
    DiffusionSettings,
    LatentDiffusion,
    load_diffusion,
)
from dedos_deploy.training.pretraining.captions import Prompts
from dedos_deploy.training.pretraining.diffusion_folder import write_sheet
from dedos_deploy.training.pretraining.diffusion_settings import NanoSettings
from dedos_deploy.training.pretraining.unet import (
    Prediction,
    build_scheduler,
    draw_latents,
    prediction_target,
)
from dedos_deploy.training.pretraining.vae import psnr_db

RECONSTRUCTIONS, SAMPLES = "reconstructions.png", "samples.png"
MEASURED_AT = (50, 100, 200, 500, 900)
TIMED_AT_ONCE = 4
SHOWN = 8


@dataclass(frozen=True)
class Figures:
    """Figures of held-out pictures."""

    psnr_db: dict[str, float]
    """Reconstructions, mean and worst, and how like the picture its reconstruction is after the
    walk."""

    error_at: dict[str, float]
    """Mean squared error of the prediction by timestep."""

    ms_per_image: dict[str, float]
    """In batches of 4 on this machine, under the threads the run had; a walk is three steps."""


@dataclass(frozen=True)
class NanoReport:
    """What came of a pretraining."""

    pictures: int
    held_out: int
    size_hw: tuple[int, int]
    latent_shape: tuple[int, int, int]
    figures: Figures
    """Figures of the pictures held out."""

    loss: dict[str, dict[str, float]]
    """Running means of the terms of the loss at the end, by network."""

    steps: dict[str, int]
    seconds: dict[str, float]
    """Seconds by part, those of a network with the preparation of its data."""

    parameters: dict[str, int]
    """Number of parameters by network."""

    latent_std: list[float]
    """Deviation of each latent channel before it was made 1."""

    sources: tuple[str, ...]
    """What the licences of the pictures ask to name."""

    settings: dict[str, object]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> NanoReport:
        """Return the report that `to_json` wrote."""
        values = json.loads(text)
        figures = Figures(**values.pop("figures"))
        for name in ("size_hw", "latent_shape", "sources"):
            values[name] = tuple(values[name])
        return NanoReport(figures=figures, **values)


def read_back(folder: Path, device: torch.device, *, half: bool = False) -> LatentDiffusion:
    """Return the model of `folder`, through the code that reads Stable Diffusion."""
    return load_diffusion(DiffusionSettings(str(folder), half=half), device=device)


def measure(
    diffusion: LatentDiffusion, folder: Path, shown: NDArray[np.uint8], settings: NanoSettings
) -> Figures:
    """Return the figures of the model of `folder` on pictures uint8 BGR [N, H, W, 3]."""
    images = torch.from_numpy(shown)
    latents = diffusion.encode(images)
    decoded = diffusion.decode(latents)
    walked = diffusion.decode(diffusion.denoise(latents).latents)
    quality = psnr_db(shown, decoded.cpu().numpy())
    timed = {
        "encode": _ms_per_image(diffusion.encode, images),
        "decode": _ms_per_image(diffusion.decode, latents),
        "walk": _ms_per_image(diffusion.denoise, latents),
    }
    half = read_back(folder, latents.device, half=True)
    timed["walk_half"] = _ms_per_image(half.denoise, latents)
    return Figures(
        {
            "mean": round(float(quality.mean()), 2),
            "worst": round(float(quality.min()), 2),
            "walked": round(float(psnr_db(shown, walked.cpu().numpy()).mean()), 2),
        },
        errors_at(diffusion, latents, settings.unet.prediction),
        timed,
    )


@torch.no_grad()
def errors_at(
    diffusion: LatentDiffusion, latents: Tensor, prediction: Prediction
) -> dict[str, float]:
    """Return the mean squared error of the prediction at a few timesteps, under the same noise."""
    scheduler = build_scheduler(prediction)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    prompt = diffusion.empty_prompt.expand(len(latents), -1, -1)
    errors = {}
    for timestep in MEASURED_AT:
        times = torch.full((len(latents),), timestep, device=latents.device)
        noisy = scheduler.add_noise(latents, noise, times)
        target = prediction_target(scheduler, latents, noise, times)
        found = diffusion.unet(noisy, times, prompt).sample
        errors[str(timestep)] = round(float((found - target).square().mean()), 5)
    return errors


def draw_sheets(
    diffusion: LatentDiffusion,
    folder: Path,
    shown: NDArray[np.uint8],
    prompts: Prompts,
    settings: NanoSettings,
) -> None:
    """Write reconstructions.png (original, decoded, after the walk) and samples.png (original,
    decoded, drawn from noise under the captions of the originals)."""
    picked = np.unique(np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).astype(int))
    real = shown[picked]
    latents = diffusion.encode(torch.from_numpy(real))
    decoded = diffusion.decode(latents).cpu().numpy()
    walked = diffusion.decode(diffusion.denoise(latents).latents).cpu().numpy()
    write_sheet(folder / RECONSTRUCTIONS, [real, decoded, walked])
    drawn = draw_latents(
        diffusion.unet,
        build_scheduler(settings.unet.prediction),
        prompts.table[prompts.rows[picked]].to(latents.device),
        settings.latent_hw,
        steps=settings.draw_steps,
        seed=settings.seed,
    )
    samples = diffusion.decode(drawn).cpu().numpy()
    write_sheet(folder / SAMPLES, [real, decoded, samples], columns=2)


def _ms_per_image(forward: Callable[[Tensor], object], inputs: Tensor) -> float:
    """Return milliseconds of one forward by image, the best of three in batches of four."""
    some = inputs[:TIMED_AT_ONCE]
    best = min(_timed(forward, some) for _ in range(3))
    return round(1000 * best / len(some), 2)


def _timed(forward: Callable[[Tensor], object], inputs: Tensor) -> float:
    before = time.perf_counter()
    forward(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - before
