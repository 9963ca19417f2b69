"""One stage of pretraining: steps until a number or the clock says enough, resumable at each save."""

from __future__ import annotations

import copy
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Generic, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadInputError
from dedos_deploy.files import write_atomically
from dedos_deploy.model.tensor_files import load_strictly, read_tensors
from dedos_deploy.training.muon import MuonAdamW
from dedos_deploy.training.optimizer import rate_factor, set_rate

FORMAT = "dedos-nano-stage-1"
SEED_SPAN = 10**9
OUTER = ("conv_in", "conv_out", "time_embedding")
"""Layers at the border of a noise predictor, whose directions do not all matter alike."""

SMOOTHED = 0.98
"""How much of the reported loss is the mean of the steps before."""


@dataclass(frozen=True)
class StageSettings:
    """How long and how fast one stage learns; it ends at `steps` or `minutes`, what comes first.

    hidden_lr: rate of orthogonal steps for the matrices and convolutions between the first and the
    last one (None: AdamW for all); ema: decay of the mean of the weights, which is what the stage leaves behind; 0.99 forgets a
    hundred steps back, a small part of even a short run.
    """

    name: str
    steps: int | None
    minutes: float | None
    lr: float = 1e-3
    hidden_lr: float | None = None
    ema: float = 0.99
    warmup: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    seed: int = 0
    amp: bool = True
    save_minutes: float = 2.0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise BadInputError(f"stage {self.name} needs an end; give steps, minutes or both")


@dataclass(frozen=True)
class StageReport:
    """One step as an observer sees it; loss: running mean; progress: part that is over, [0, 1]."""

    name: str
    step: int
    loss: float
    progress: float
    elapsed_s: float


Model = TypeVar("Model", bound=nn.Module, covariant=True)

LossOf = Callable[[int], tuple[Tensor, dict[str, float]]]
"""Loss and named terms of the step of a number; draws from torch's seeded generator."""

Observe = Callable[[StageReport], None]


class Stage(Generic[Model]):
    """A model that learns, the mean of its weights, and the file that both go on from.

    path: state file; one that exists is gone on with. loss: running mean over about 50 steps.

    Raises BadInputError when the file is damaged or of other settings.
    """

    def __init__(self, model: Model, settings: StageSettings, path: Path, recipe: str) -> None:
        self.model, self.settings, self.path, self._recipe = model, settings, path, recipe
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.step, self.elapsed_s, self.loss = 0, 0.0, 0.0
        self.terms: dict[str, float] = {}
        self.optimizer = _optimizer(model, settings)
        if path.exists():
            self._load()

    @property
    def progress(self) -> float:
        """Part that is over, by steps or by the clock, whichever is further."""
        done = self.step / self.settings.steps if self.settings.steps else 0.0
        if self.settings.minutes:
            done = max(done, self.elapsed_s / (60 * self.settings.minutes))
        return min(done, 1.0)

    def run(self, loss_of: LossOf, observe: Observe) -> None:
        """Learn to the end, then save.

        Raises KeyboardInterrupt after Ctrl-C, with everything up to the last whole step saved;
        DivergedError when the loss or a gradient is not finite.
        """
        saved_s, before = self.elapsed_s, time.monotonic()
        with deferred_interrupt() as interrupted:
            while self.progress < 1.0 and not interrupted.is_set():
                self._step(loss_of)
                now = time.monotonic()
                self.elapsed_s, before = self.elapsed_s + now - before, now
                observe(self.report())
                if self.elapsed_s - saved_s >= 60 * self.settings.save_minutes:
                    self.save()
                    saved_s = self.elapsed_s
            self.save()
        if interrupted.is_set():
            raise KeyboardInterrupt

    def report(self) -> StageReport:
        return StageReport(self.settings.name, self.step, self.loss, self.progress, self.elapsed_s)

    def _step(self, loss_of: LossOf) -> None:
        settings = self.settings
        set_rate(
            self.optimizer,
            rate_factor(self.step, self.progress, warmup=settings.warmup, schedule="cosine"),
        )
        # Each step has its own seed, so that nothing random needs to be saved to resume exactly.
        torch.manual_seed(settings.seed * SEED_SPAN + self.step)
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.amp):
            loss, terms = loss_of(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            from dedos_deploy.training.loop import DivergedError

            raise DivergedError(
                f"step {self.step} of stage {settings.name} has loss {float(loss)} and gradient "
                f"norm {float(norm)}, so the run stopped; try --no-amp or another --seed"
            )
        self.optimizer.step()
        self._follow(terms, float(loss.detach()))

    @torch.no_grad()
    def _follow(self, terms: dict[str, float], loss: float) -> None:
        decay = min(self.settings.ema, (self.step + 1) / (self.step + 10))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        kept = min(SMOOTHED, self.step / (self.step + 1))
        self.loss = kept * self.loss + (1 - kept) * loss
        self.terms = {n: kept * self.terms.get(n, 0.0) + (1 - kept) * v for n, v in terms.items()}
        self.step += 1

    def save(self) -> None:
        """Write the state file, whole or not at all.

        Raises BadInputError when it cannot be written.
        """
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}/{key}"] = value
        record = {
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "loss": self.loss,
            "terms": self.terms,
        }
        metadata = {"format": FORMAT, "recipe": self._recipe, "record": json.dumps(record)}
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            write_atomically(self.path, save(plain, metadata))
        except OSError as error:
            raise BadInputError(
                f"cannot write {self.path}: {error}; free space or choose another --output"
            ) from error

    def _damaged(self, reason: str) -> BadInputError:
        return BadInputError(
            f"{self.path} is damaged ({reason}); remove it to start this stage again"
        )

    def _load(self) -> None:
        metadata, tensors = read_tensors(self.path, self._damaged)
        if metadata.get("format") != FORMAT or metadata.get("recipe") != self._recipe:
            raise BadInputError(
                f"{self.path} was written under other settings or data; repeat its options, or "
                "start anew in another --output"
            )
        load_strictly(self.model, _part(tensors, "model."), self._damaged)
        load_strictly(self.average, _part(tensors, "average."), self._damaged)
        self.optimizer.load_moments(
            self.model.named_parameters(), _part(tensors, "optimizer."), self._damaged
        )
        with foreign(self._damaged):
            record = json.loads(metadata["record"])
            self.step, self.elapsed_s = int(record["step"]), float(record["elapsed_s"])
            self.loss, self.terms = record["loss"], record["terms"]


def _optimizer(model: nn.Module, settings: StageSettings) -> MuonAdamW:
    """Return AdamW, with orthogonal steps for hidden weights where there is a rate for them."""
    groups: dict[str, list[nn.Parameter]] = {"hidden": [], "weights": [], "plain": []}
    for name, parameter in model.named_parameters():
        hidden = settings.hidden_lr is not None and not name.startswith(OUTER)
        matrix = "hidden" if hidden else "weights"
        groups[matrix if parameter.ndim > 1 else "plain"].append(parameter)
    decay = settings.weight_decay
    optimizer = MuonAdamW(
        [
            {
                "params": groups["hidden"],
                "lr": settings.hidden_lr or 0.0,
                "muon": True,
                "betas": (0.9, 0.99),
                "weight_decay": 0.0,
            },
            {
                "params": groups["weights"],
                "lr": settings.lr,
                "betas": (0.9, 0.99),
                "weight_decay": decay,
            },
            {
                "params": groups["plain"],
                "lr": settings.lr,
                "betas": (0.9, 0.99),
                "weight_decay": 0.0,
            },
        ]
    )
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second one interrupts at once.

    An optimizer stopped between two parameters could not be gone on with.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {
        number: signal.signal(number, on_signal)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
