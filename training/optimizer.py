"""AdamW over the trained parts, the learning-rate schedule, and the running mean of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import nn

from dedos_deploy.model import Dedos
from dedos_deploy.training.muon import MuonAdamW
from dedos_deploy.training.settings import Schedule, TrainSettings

_MAPS = ("trunk.blocks.", "pixel_decoder.", "mask_features.", "mask_decoder.", "text_aggregation.")
_EMBEDDINGS = frozenset(
    ("place", "level_embedding", "cls", "table", "position", "basic_kernel", "diffusion_kernels")
)
_SMALLEST_MAP = 8
_MOMENTUM = 0.95


def build_optimizer(
    model: Dedos, settings: TrainSettings, learning: nn.Module | None = None
) -> MuonAdamW:
    """Return AdamW with two learning rates: CLIP's towers and the rest, `learning` included.

    With `settings.muon` the matrices of trunk blocks and decoders take orthogonal steps, those of
    the trunk at a rate as much lower as `backbone_lr` is than `lr`.

    Vectors, scales and embeddings, the kernels of the proxy queries among them, are not decayed, nor
    is a partly trained projection, whose frozen rows would shrink. Each group keeps its peak rate as
    `peak_lr`.
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in named_parameters(model, learning):
        if not parameter.requires_grad:
            continue
        tower = name.startswith(("trunk.", "text_tower."))
        partial = name.startswith("trunk.") and model.config.clip_tune == "qv"
        plain = parameter.ndim < 2 or partial or _is_embedding(name)
        rate = settings.backbone_lr if tower else settings.lr
        muon = settings.muon > 0 and not plain and _is_map(name, parameter)
        if muon:
            rate *= settings.muon / settings.lr
        key = (rate, 0.0 if plain else settings.weight_decay, muon)
        groups.setdefault(key, []).append(parameter)
    return MuonAdamW(
        [
            {
                "params": members,
                "lr": rate,
                "peak_lr": rate,
                "weight_decay": decay,
                "muon": muon,
                "betas": (_MOMENTUM if muon else 0.9, 0.999),
            }
            for (rate, decay, muon), members in groups.items()
        ]
    )


def _is_map(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter maps tokens to tokens, so that all of its directions are worth a step."""
    inside = name.startswith(_MAPS)
    return inside and parameter.ndim == 2 and min(parameter.shape) >= _SMALLEST_MAP


def named_parameters(
    model: Dedos, learning: nn.Module | None
) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the model's parameters, then those of `learning` under the prefix `learning.`."""
    yield from model.named_parameters()
    if learning is not None:
        yield from learning.named_parameters(prefix="learning")


def _is_embedding(name: str) -> bool:
    return name.rpartition(".")[2] in _EMBEDDINGS


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to `factor` times its peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def rate_factor(step: int, progress: float, *, warmup: int, schedule: Schedule) -> float:
    """Return the learning rate at `step` as a part of its peak, in [0, 1].

    progress: how much of the run is over, in [0, 1], by steps or by the clock, whichever is
    further; so a run that the clock ends has seen its whole schedule.
    """
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    left = max(0.0, 1.0 - progress)
    return ramp * (left**0.9 if schedule == "poly" else 0.5 - 0.5 * math.cos(math.pi * left))


def part_done(step: int, steps: int | None, elapsed_s: float, minutes: float | None) -> float:
    """Return the part of a run that is over, [0, 1], by steps or by the clock, whichever is further.

    steps, minutes: where it ends; None or 0: not by this.
    """
    done = step / steps if steps else 0.0
    if minutes:
        done = max(done, elapsed_s / (60 * minutes))
    return min(done, 1.0)


Model = TypeVar("Model", bound=nn.Module)


class WeightAverage(Generic[Model]):
    """Exponential moving average of a model's weights, evaluated and saved in their place.

    What reads the diffusion is left out: it is not shipped, and the bank averages what it gives.

    Early weights are forgotten faster than `decay` says: the mean of step n uses at most
    (n + 1) / (n + 10), so that a short run is not an average of its random start.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval()
        self.model.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (step + 1) / (step + 10))
        current = model.state_dict()
        for name, mean in self.model.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(current[name], 1 - decay)
            else:
                mean.copy_(current[name])
