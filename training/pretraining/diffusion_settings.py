"""What decides a pretraining of the nano diffusion."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.pretraining.unet import UNetSettings
from dedos_deploy.training.pretraining.vae import VaeSettings


@dataclass(frozen=True)
class NanoSettings:
    """One pretraining.

    Raises BadInputError without an end, for numbers that are none, or for a size that does not fit the
    networks.
    """

    size_hw: tuple[int, int] = (128, 160)
    minutes: float | None = 12.0
    """Wall clock of reading, encoding and learning together."""

    vae_steps: int | None = None
    """Ends the autoencoder by number, too; with `unet_steps` and no minutes a run repeats
    exactly."""

    unet_steps: int | None = None
    """Ends the noise predictor by number, too."""

    vae_part: float = 0.42
    """Part of `minutes` for the autoencoder, (0, 1)."""

    vae: VaeSettings = field(default_factory=VaeSettings)
    unet: UNetSettings = field(default_factory=UNetSettings)
    text: str | None = None
    """Dedos checkpoint whose text tower embeds the captions."""

    draw_steps: int = 50
    """DDIM steps of the pictures drawn at the end."""

    limit: int | None = None
    """Most pictures read."""

    seed: int = 0
    threads: int = 0
    """0 for torch's choice."""

    amp: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    save_minutes: float = 2.0

    def __post_init__(self) -> None:
        for name in ("minutes", "vae_steps", "unet_steps", "draw_steps", "limit", "save_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInputError(f"{name} is {value}, but must be more than 0")
        if self.minutes is None and (self.vae_steps is None or self.unet_steps is None):
            raise BadInputError("a run needs an end; give minutes, or steps of both networks")
        multiple = self.vae.factor * self.unet.factor
        if any(side % multiple or side < self.vae.crop for side in self.size_hw):
            raise BadInputError(
                f"size {self.size_hw[0]}x{self.size_hw[1]} does not fit the networks; both sides "
                f"must be multiples of {multiple} and at least {self.vae.crop}, as 128x160"
            )

    @property
    def latent_hw(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.size_hw[0] // self.vae.factor, self.size_hw[1] // self.vae.factor

    def recipe(self, network: Literal["vae", "unet"]) -> str:
        """Return what a network that is gone on with must have in common with its first part.

        The autoencoder does not care what the noise predictor will be, so that one can be chosen
        anew between the two.
        """
        common = ("size_hw", "limit", "seed", "amp", "vae")
        names = (*common, "unet", "text") if network == "unet" else common
        values = asdict(self)
        return json.dumps({name: values[name] for name in names}, sort_keys=True)


QUICK = NanoSettings(minutes=None, vae_steps=60, unet_steps=30, draw_steps=10, limit=64)
"""A run of about half a minute that shows that all works, and draws noise."""
