"""What the miniature does: sizes, budgets, components and seeds, as one record."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.components import COMPONENTS, Component
from dedos_deploy.training.pretraining.diffusion_settings import NanoSettings

SIZE_HW = (128, 160)

LEAST_MINUTES = 10.0
"""Rendering, starting processes and scoring take a few minutes however little is learned."""


@dataclass(frozen=True)
class MiniaturePlan:
    """One miniature."""

    minutes: float | None = None
    """Wall clock of everything together, from which `budget.py` chooses the time of both
    pretrainings and the steps of the runs (None: as clip_steps, diffusion_minutes and steps
    say)."""

    size_hw: tuple[int, int] = SIZE_HW
    train: int = 3000
    """Scenes to learn from."""

    val: int = 240
    """Scenes to score on."""

    clip_steps: int = 1200
    """Steps of the nano CLIP's pretraining."""

    clip_minutes: float | None = None
    """The nano CLIP's pretraining ends then, if that is earlier."""

    diffusion_minutes: float | None = 12.0
    """Wall clock of the nano diffusion on one core (None: by vae_steps and unet_steps)."""

    vae_steps: int | None = None
    unet_steps: int | None = None
    components: tuple[Component, ...] = ("I", "II", "III", "IV", "V")
    """Runs of Table 3 are all pairs of a component and a seed."""

    seeds: int = 3
    steps: int = 300
    """Optimizer steps of each run."""

    batch: int = 8
    """Pictures in a step."""

    lr: float = 1e-3
    """Peak rate of what each run adds to CLIP."""

    backbone_lr: float = 0.0
    """Rate of CLIP's trunk, which stays as pretrained, as in the paper."""

    muon: float = 0.003
    """Rate of orthogonal steps (0: AdamW alone)."""

    gamma: float = 1.0
    bank_drop: float = 0.5
    calibration: int = 300
    """Images that calibrate the bank."""

    jobs: int = 2
    """Runs at a time, one thread each."""

    def __post_init__(self) -> None:
        for name in "train val clip_steps seeds steps batch calibration jobs".split():
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.minutes is not None and self.minutes < LEAST_MINUTES:
            raise BadInputError(
                f"minutes is {self.minutes}, but the miniature needs {LEAST_MINUTES:g} at least; "
                "--quick shows every part in three"
            )
        for component in self.components:
            if component not in COMPONENTS:
                raise BadInputError(
                    f"unknown component {component!r}; rows of Table 3: {', '.join(COMPONENTS)}"
                )

    @property
    def diffusion(self) -> NanoSettings:
        """Settings of the nano diffusion."""
        return NanoSettings(
            size_hw=self.size_hw,
            minutes=self.diffusion_minutes,
            vae_steps=self.vae_steps,
            unet_steps=self.unet_steps,
            draw_steps=50 if self.vae_steps is None else 10,
            threads=1,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def recipe(self) -> str:
        """Return what decides results: all but how many runs go on at a time."""
        return replace(self, jobs=1).to_json()


def plan_from_json(text: str) -> MiniaturePlan:
    """Return the plan that `MiniaturePlan.to_json` wrote."""
    values: dict[str, Any] = json.loads(text)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return MiniaturePlan(**values)


QUICK = MiniaturePlan(
    train=96,
    val=24,
    clip_steps=6,
    diffusion_minutes=None,
    vae_steps=8,
    unet_steps=6,
    seeds=1,
    steps=3,
    batch=2,
    calibration=4,
)
"""Every part once, in about three minutes on two cores: shows that all works, and no figure."""
