"""What the miniature does: sizes, budgets, components and seeds, as one record."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.components import COMPONENTS, Component, Parts, component_named
from dedos_deploy.training.pretraining.diffusion_settings import NanoSettings

SIZE_HW = (128, 160)

AT = "@"
"""Between a component and its γ in the name of a row, as V@30."""

LEAST_MINUTES = 10.0
"""Rendering, starting processes and scoring take a few minutes however little is learned."""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    component: Component
    gamma: float | None
    """Weight of L_consist, None for the plan's."""

    @property
    def parts(self) -> Parts:
        """What the component has."""
        return COMPONENTS[self.component]

    @classmethod
    def named(cls, name: str) -> Row:
        """Return the row called `name`. Raises BadInputError for none.

        >>> Row.named("V@30"), Row.named("V0").gamma
        (Row(component='V', gamma=30.0), None)
        """
        text, at, number = name.partition(AT)
        component = component_named(text)
        if not at:
            return cls(component, None)
        try:
            gamma = float(number)
        except ValueError:
            gamma = -1.0
        if not 0 < gamma < float("inf") or not COMPONENTS[component].separation:
            raise BadInputError(
                f"row {name!r} has no γ; write one above 0 behind a component that separates texture, "
                "as V@30"
            )
        return cls(component, gamma)


@dataclass(frozen=True)
class MiniaturePlan:
    """One miniature."""

    minutes: float | None = None
    """Wall clock of everything together, from which `budget.py` chooses the time of both
    pretrainings and the steps of the runs (None: as clip_steps, diffusion_minutes and steps
    say)."""

    size_hw: tuple[int, int] = SIZE_HW
    train: int = 3000
    """Scenes to learn from, with their labels."""

    unlabelled: int | None = None
    """Further scenes that the nano CLIP and the nano diffusion learn from in their place, without
    labels: pictures alone teach the diffusion, pictures and captions CLIP (None: both learn from the
    labelled ones, and masks of base words teach CLIP, too)."""

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
    components: tuple[str, ...] = ("I", "II", "III", "IV", "V")
    """Rows; runs are all pairs of one and a seed. A row is a component, or one with a γ of its own
    behind an @, as V@30."""

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
        if self.diffusion_minutes is not None and not self.diffusion_minutes > 0:
            raise BadInputError(
                f"diffusion_minutes is {self.diffusion_minutes}, but must be more than 0"
            )
        if self.unlabelled is not None and self.unlabelled < 2:
            raise BadInputError(
                f"unlabelled is {self.unlabelled}, but must be at least 2; leave it out to learn from the "
                "labelled scenes alone"
            )
        rows = [Row.named(name) for name in self.components]
        if len({(row.component, row.gamma or self.gamma) for row in rows}) < len(rows):
            raise BadInputError(
                f"a row is named twice in {' '.join(self.components)}, where γ is {self.gamma:g} unless "
                "named; name each once"
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

_AGAINST = ("I", "V0", "V", "V-random")

REGIMES: dict[str, dict[str, Any]] = {
    "long": {"steps": 3000, "components": _AGAINST},
    "few-labels": {
        "unlabelled": 30_000,
        "train": 100,
        "calibration": 100,
        "clip_steps": 4000,
        "diffusion_minutes": 60.0,
        "components": _AGAINST,
    },
    "gamma": {"components": ("I", "V0", "V", "V@30", "V@300")},
}
"""Plans that ask where a diffusion would help: what each changes of the default plan. In
`few-labels` CLIP sees the scenes without labels twice, and the diffusion learns for five times as long."""


def regime_plan(name: str, *, quick: bool) -> MiniaturePlan:
    """Return the plan of a regime; quick: with tiny budgets, where all of its parts still run.

    Raises BadInputError for an unknown one.
    """
    if name not in REGIMES:
        raise BadInputError(f"unknown regime {name!r}; known are {', '.join(REGIMES)}")
    changes = REGIMES[name]
    if not quick:
        return replace(MiniaturePlan(), **changes)
    small = {"components": changes["components"]}
    if "unlabelled" in changes:
        small |= {"unlabelled": QUICK.train, "train": QUICK.train // 4}
    return replace(QUICK, **small)
