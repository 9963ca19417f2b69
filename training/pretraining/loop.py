"""The loop of every pretraining: steps until a number or the clock says enough, resumable at each save."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadInputError
from dedos_deploy.model.tensor_files import load_strictly, read_tensors
from dedos_deploy.progress import Progress
from dedos_deploy.training.failure import DivergedError
from dedos_deploy.training.interrupts import interruptible, stopped
from dedos_deploy.training.muon import MuonAdamW
from dedos_deploy.training.optimizer import WeightAverage, part_done, rate_factor, set_rate
from dedos_deploy.training.state import part_of, write_state

FORMAT = "dedos-nano-stage-1"
"""An old name, kept so that states of earlier versions go on."""

SEED_SPAN = 10**9

SMOOTHED = 0.98
"""How much of the running mean of the loss is that of the steps before."""

Rate = Callable[[int, float], float]
"""(step, part of the run that is over) -> learning rate as a part of its peak."""


def cosine(warmup: int) -> Rate:
    """Return a ramp of `warmup` steps on a cosine that is 0 at the end."""
    return lambda step, progress: rate_factor(step, progress, warmup=warmup, schedule="cosine")


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast a model learns; it ends at `steps` or `minutes`, what comes first.

    Raises BadInputError without an end.
    """

    name: str
    """What learns, for messages."""

    steps: int | None
    minutes: float | None
    rate: Rate
    advice: str
    """What to do when the loss is no finite number."""

    ema: float | None = None
    """Decay of the mean of the weights, which is left behind in their place; None: no mean. 0.99
    forgets a hundred steps back, a small part of even a short run."""

    clip_norm: float = 1.0
    seed: int = 0
    save_minutes: float = 2.0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise BadInputError(f"{self.name} needs an end; give steps, minutes or both")


@dataclass(frozen=True)
class StateFile:
    """Where a run is kept to go on with."""

    path: Path
    recipe: str
    """What both parts of a run must have in common, as text: settings and data."""

    data: str = "data"
    """What the data is called where another recipe is refused."""

    def damaged(self, reason: str) -> BadInputError:
        """Return the refusal of a file that cannot be used."""
        return BadInputError(f"{self.path} is damaged ({reason}); remove it to start again")

    def read(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Return metadata and tensors.

        Raises BadInputError when there is no file, or it is damaged or of another recipe.
        """
        if not self.path.is_file():
            raise BadInputError(
                f"there is nothing to resume: {self.path} does not exist; start without it"
            )
        metadata, tensors = read_tensors(self.path, self.damaged)
        if metadata.get("format") != FORMAT or metadata.get("recipe") != self.recipe:
            raise BadInputError(
                f"{self.path} was written under other settings or {self.data}; repeat its options, "
                "or start anew in another --output"
            )
        return metadata, tensors


@dataclass(frozen=True)
class LoopReport:
    """One step as an observer sees it."""

    step: int
    """Steps done so far."""

    loss: float
    terms: dict[str, float]
    mean_loss: float
    """Running mean over about 50 steps."""

    progress: float
    """Part of the run that is over, [0, 1]."""

    elapsed_s: float
    """Seconds of all parts of the run together."""


Model = TypeVar("Model", bound=nn.Module)

LossOf = Callable[[int], tuple[Tensor, dict[str, float]]]
"""Loss and named terms of the step of a number; draws from torch's seeded generator."""

Observe = Callable[[LoopReport], None]


def telling(progress: Progress) -> Observe:
    """Return what tells `progress` of every step."""
    return lambda report: progress.reached(
        report.progress,
        f"{report.progress:.0%}, step {report.step}, loss {report.mean_loss:.4f}",
    )


class PretrainingLoop(Generic[Model]):
    """Steps of an optimizer on a model, the mean of its weights, and the file that both go on from.

    model: all that learns and no more; state: None for a run that leaves none; clipped: its
    parameters in the order in which their gradients' norm is summed, where that is not the model's.
    """

    def __init__(
        self,
        model: Model,
        optimizer: MuonAdamW,
        settings: LoopSettings,
        state: StateFile | None,
        *,
        clipped: Iterable[nn.Parameter] | None = None,
    ) -> None:
        self.model, self.optimizer, self.settings, self.state = model, optimizer, settings, state
        self.average = WeightAverage(model, settings.ema) if settings.ema is not None else None
        self.step, self.elapsed_s, self.mean_loss = 0, 0.0, 0.0
        self.mean_terms: dict[str, float] = {}
        self._clipped = list(model.parameters() if clipped is None else clipped)

    @property
    def best_model(self) -> Model:
        """The weights to leave behind: the mean where there is one."""
        return self.average.model if self.average is not None else self.model

    @property
    def progress(self) -> float:
        """Part that is over, by steps or by the clock, whichever is further."""
        return part_done(self.step, self.settings.steps, self.elapsed_s, self.settings.minutes)

    def run(
        self,
        loss_of: LossOf,
        observe: Observe | None = None,
        *,
        on_save: Callable[[], None] | None = None,
    ) -> None:
        """Learn to the end, then save. on_save: writes what is to be kept beside the state.

        Raises KeyboardInterrupt after Ctrl-C or SIGTERM, with everything up to the last whole step
        saved; DivergedError when the loss or a gradient is not finite.
        """
        saved_s, before = self.elapsed_s, time.monotonic()
        with interruptible() as interrupted:
            while self.progress < 1.0 and not interrupted.is_set():
                loss, terms = self._step(loss_of)
                now = time.monotonic()
                self.elapsed_s, before = self.elapsed_s + now - before, now
                if observe is not None:
                    observe(self._report(loss, terms))
                if self.elapsed_s - saved_s >= 60 * self.settings.save_minutes:
                    self._save(on_save)
                    saved_s = self.elapsed_s
            self._save(on_save)
        if interrupted.is_set():
            raise KeyboardInterrupt(stopped(self.step) if self.state is not None else "")

    def _report(self, loss: float, terms: dict[str, float]) -> LoopReport:
        return LoopReport(self.step, loss, terms, self.mean_loss, self.progress, self.elapsed_s)

    def _step(self, loss_of: LossOf) -> tuple[float, dict[str, float]]:
        settings = self.settings
        set_rate(self.optimizer, settings.rate(self.step, self.progress))
        # Each step has its own seed, so that nothing random needs to be saved to resume exactly.
        torch.manual_seed(settings.seed * SEED_SPAN + self.step)
        loss, terms = loss_of(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self._clipped, settings.clip_norm)
        value = float(loss.detach())
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise DivergedError(
                f"step {self.step} of {settings.name} has loss {value} and gradient norm "
                f"{float(norm)}, so the run stopped; {settings.advice}"
            )
        self.optimizer.step()
        self._follow(value, terms)
        return value, terms

    def _follow(self, loss: float, terms: dict[str, float]) -> None:
        if self.average is not None:
            self.average.update(self.model, self.step)
        kept = min(SMOOTHED, self.step / (self.step + 1))
        self.mean_loss = kept * self.mean_loss + (1 - kept) * loss
        known = self.mean_terms
        self.mean_terms = {n: kept * known.get(n, 0.0) + (1 - kept) * v for n, v in terms.items()}
        self.step += 1

    def _save(self, on_save: Callable[[], None] | None) -> None:
        """Write the state, whole or not at all, and what `on_save` writes.

        Raises BadInputError when it cannot be written.
        """
        if on_save is not None:
            on_save()
        if self.state is None:
            return
        tensors = {f"{p}{n}": v for p, m in self._modules() for n, v in m.state_dict().items()}
        moments = self.optimizer.moments(self.model.named_parameters())
        tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
        record = {
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "loss": self.mean_loss,
            "terms": self.mean_terms,
        }
        metadata = {"format": FORMAT, "recipe": self.state.recipe, "record": json.dumps(record)}
        write_state(self.state.path, tensors, metadata)

    def _modules(self) -> list[tuple[str, nn.Module]]:
        modules: list[tuple[str, nn.Module]] = [("model.", self.model)]
        if self.average is not None:
            modules.append(("average.", self.average.model))
        return modules

    def resume(self) -> None:
        """Go on from the state file.

        Raises BadInputError when there is none, or it is damaged or of other settings or data.
        """
        assert self.state is not None
        metadata, tensors = self.state.read()
        for prefix, module in self._modules():
            load_strictly(module, part_of(tensors, prefix), self.state.damaged)
        self.optimizer.load_moments(
            self.model.named_parameters(), part_of(tensors, "optimizer."), self.state.damaged
        )
        with foreign(self.state.damaged):
            record = json.loads(metadata["record"])
            self.step, self.elapsed_s = int(record["step"]), float(record["elapsed_s"])
            self.mean_loss, self.mean_terms = float(record["loss"]), dict(record["terms"])
