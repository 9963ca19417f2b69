"""`dedos-train` with a micro model and a stand-in for the diffusion model, as a program to launch.

Importing diffusers takes longer than all the steps of such a run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch
from denoiser import TinyDenoiser
from micro import micro_config
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy import presets
from dedos_deploy.cli.train import main
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training import setup
from dedos_deploy.training.diffusion.walk import Denoising, DiffusionSettings


@dataclass
class StandIn(TinyDenoiser):
    """TinyDenoiser with what a trainer asks for besides."""

    size_hw: tuple[int, int] = (32, 32)
    settings: DiffusionSettings = DiffusionSettings("stand-in")  # noqa: RUF009
    alphas: Tensor = torch.ones(1)  # noqa: RUF009

    def denoise(self, latents: Tensor, *, seed: int = 0) -> Denoising:
        return Denoising(super().denoise(latents, seed=seed).features, 0.5 * latents)

    def decode(self, latents: Tensor) -> Tensor:
        maps = F.interpolate(latents, size=self.size_hw)
        return (127.5 * (maps + 1)).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def stand_in(settings: DiffusionSettings, *, device: torch.device) -> StandIn:
    """Return the stand-in whatever is asked for."""
    return StandIn()


def program_config() -> ModelConfig:
    """Return the micro model without its detail branch.

    BatchNorm there keeps running statistics of each process's own images.
    """
    return replace(micro_config(), detail_width=0)


if __name__ == "__main__":
    presets.PRESETS["micro"] = program_config()
    setup.load_diffusion = stand_in  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
