"""Contrastive pretraining of the nano CLIP, both towers from random weights.

Three losses, each an InfoNCE with a learned temperature:

| pairs | candidates | teaches |
|---|---|---|
| picture, its caption | captions and pictures of the batch | CLS token and sentences; all words |
| region or patch, its base word | base words | patch tokens; base words, by masks |
| word of a caption, its likely patches | pictures of the batch; all words | patch tokens; all words |

What a novel word looks like is told by captions alone, through the first and third loss: in a
picture whose caption names it, the patches that no other word explains as well must resemble it more
than those of other pictures do, and more than they resemble other words. The second loss knows
nothing of novel words, not even as negatives: with them among its candidates, 32 base words that are
always right and 9 novel ones that never are, the novel ones were pushed away from every patch
(0.6 % of novel regions were read right after 420 steps, against 10 % without them).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadInputError
from dedos_deploy.files import replacing
from dedos_deploy.model import Dedos, build_model, save_checkpoint
from dedos_deploy.model.tensor_files import read_tensors
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.loop import DivergedError
from dedos_deploy.training.miniature.data import WORDS, SceneSet
from dedos_deploy.training.muon import MuonAdamW
from dedos_deploy.training.optimizer import rate_factor, set_rate
from dedos_deploy.training.pretraining.clip_batches import ClipBatch, clip_batch
from dedos_deploy.training.pretraining.clip_losses import PairLosses, look, read
from dedos_deploy.training.pretraining.clip_report import (
    ClipReport,
    read_regions,
    tokens_of,
    word_tokens,
    write_report,
)
from dedos_deploy.training.pretraining.clip_start import centre_text_tower


@dataclass(frozen=True)
class ClipSettings:
    """How the nano CLIP is pretrained.

    steps, minutes: the run ends with whichever is reached first, and the cosine schedule with it;
    minutes None: by steps alone, and then the result is the same on every run of one machine;
    matrix_rate: peak rate of Muon for the matrices; learning_rate: of AdamW for all else;
    regions, places: weights of the second and third loss beside the first; half: bfloat16 autocast,
    about twice as fast on CPUs that multiply it.
    """

    steps: int = 1000
    minutes: float | None = None
    batch: int = 16
    matrix_rate: float = 0.005
    learning_rate: float = 2.5e-4
    warmup: int = 30
    regions: float = 1.0
    places: float = 1.0
    half: bool = True
    seed: int = 0
    save_minutes: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("matrix_rate", "learning_rate", "save_minutes"):
            if not getattr(self, name) > 0:
                raise BadInputError(f"{name} must be positive, not {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise BadInputError(f"minutes must be positive or none, not {self.minutes}")


_MOMENTUM = 0.85


@dataclass
class _Run:
    model: Dedos
    losses: PairLosses
    optimizer: MuonAdamW
    step: int = 0
    elapsed_s: float = 0.0

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        return _towers(self.model, self.losses)


def pretrain_clip(
    config: ModelConfig,
    scenes: SceneSet,
    settings: ClipSettings,
    output: Path,
    *,
    held_out: SceneSet,
    resume: bool = False,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> ClipReport:
    """Pretrain the trunk and text tower of `config` on `scenes`; return how well they read.

    Writes `output`/checkpoint.safetensors (a DEDOS checkpoint whose other parts are untrained),
    report.json, and state.safetensors, from which `resume` goes on. held_out: scenes of another
    seed, for the report; on_step: told (step, losses) after every step.

    Raises BadInputError when sizes do not fit, there is nothing to resume, what is resumed had
    other settings, or a file cannot be written.
    """
    config.check_size(scenes.size_hw)
    config.check_size(held_out.size_hw)
    output.mkdir(parents=True, exist_ok=True)
    run = _new_run(config, settings)
    centre_text_tower(run.model, word_tokens(run.model, WORDS))
    fingerprint = json.dumps(
        [config.to_dict(), asdict(settings), scenes.seed, len(scenes), scenes.size_hw]
    )
    state = output / "state.safetensors"
    if resume:
        _load(state, run, fingerprint)
    _train(run, scenes, settings, on_step, lambda: _save(state, run, fingerprint))
    _save(state, run, fingerprint)
    run.model.eval()
    report = read_regions(run.model, held_out, steps=run.step, elapsed_s=run.elapsed_s)
    extra = {
        "step": run.step,
        "words": list(WORDS),
        "template": "single",
        "size_hw": list(scenes.size_hw),
        "sources": [_SOURCE],
    }
    save_checkpoint(output / "checkpoint.safetensors", run.model, extra=extra)
    write_report(output / "report.json", report)
    return report


_SOURCE = "procedural scenes of dedos-deploy"


def _new_run(config: ModelConfig, settings: ClipSettings) -> _Run:
    model, losses = build_model(config, seed=settings.seed), PairLosses()
    towers = _towers(model, losses)
    matrices = [parameter for name, parameter in towers if _is_map(name, parameter)]
    plain = [parameter for name, parameter in towers if not _is_map(name, parameter)]
    shared = {"weight_decay": 0.0}
    optimizer = MuonAdamW(
        [
            {
                "params": matrices,
                "lr": settings.matrix_rate,
                "peak_lr": settings.matrix_rate,
                "muon": True,
                "betas": (_MOMENTUM, 0.98),
                **shared,
            },
            {
                "params": plain,
                "lr": settings.learning_rate,
                "peak_lr": settings.learning_rate,
                "betas": (0.9, 0.98),
                **shared,
            },
        ],
        half=settings.half,
    )
    return _Run(model.train(), losses, optimizer)


def _towers(model: Dedos, losses: PairLosses) -> list[tuple[str, nn.Parameter]]:
    """Return what is trained: both towers of CLIP and the temperatures."""
    parts = (("trunk", model.trunk), ("text_tower", model.text_tower), ("losses", losses))
    return [named for prefix, part in parts for named in part.named_parameters(prefix=prefix)]


def _is_map(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter takes orthogonal steps.

    A table of words does not: it is rows of their own, and those of words never met must keep what
    they start with.
    """
    table = name.endswith("token_embedding.weight")
    return parameter.ndim == 2 and name.endswith((".weight", "_weight")) and not table


def _train(
    run: _Run,
    scenes: SceneSet,
    settings: ClipSettings,
    on_step: Callable[[int, dict[str, float]], None] | None,
    save: Callable[[], None],
) -> None:
    before, saved = time.perf_counter() - run.elapsed_s, time.perf_counter()
    trained = [parameter for _, parameter in run.parameters()]
    while (progress := _progress(run, settings)) < 1:
        factor = rate_factor(run.step, progress, warmup=settings.warmup, schedule="cosine")
        set_rate(run.optimizer, factor)
        batch = clip_batch(
            scenes,
            batch=settings.batch,
            patch=run.model.config.clip.patch,
            seed=settings.seed,
            step=run.step,
        )
        losses = _losses(run, batch, settings)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise DivergedError(
                f"the loss of step {run.step} is {float(total)}; lower learning_rate "
                f"({settings.learning_rate}) or set half to false"
            )
        for parameter in trained:
            parameter.grad = None
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(trained, 1.0)
        run.optimizer.step()
        run.step += 1
        run.elapsed_s = time.perf_counter() - before
        if on_step is not None:
            on_step(run.step, {name: float(loss.detach()) for name, loss in losses.items()})
        if time.perf_counter() - saved > 60 * settings.save_minutes:
            save()
            saved = time.perf_counter()


def _progress(run: _Run, settings: ClipSettings) -> float:
    by_clock = run.elapsed_s / (60 * settings.minutes) if settings.minutes is not None else 0.0
    return max(run.step / settings.steps, by_clock)


def _losses(run: _Run, batch: ClipBatch, settings: ClipSettings) -> dict[str, Tensor]:
    """Return the three losses, weighted, by name."""
    same = torch.tensor([[a == b for b in batch.captions] for a in batch.captions])
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.half):
        words = read(run.model, word_tokens(run.model, WORDS))
        text = read(run.model, tokens_of(run.model, batch.captions))
        seen = look(run.model, batch.images)
    base = batch.cover.shape[-1]
    return {
        "captions": run.losses.captions(seen.cls, text, same),
        "regions": settings.regions * run.losses.regions(seen.patches, words[:base], batch.cover),
        "places": settings.places * run.losses.places(seen.patches, words, batch.named),
    }


def _save(path: Path, run: _Run, fingerprint: str) -> None:
    tensors: dict[str, Tensor] = {}
    for name, parameter in run.parameters():
        tensors[name] = parameter.detach()
        for key, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = value
    record = {"step": str(run.step), "elapsed_s": repr(run.elapsed_s), "settings": fingerprint}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=record)
    except (OSError, SafetensorError) as error:
        raise BadInputError(
            f"cannot write training state {path}: {error}; free space or choose another output"
        ) from error


def _load(path: Path, run: _Run, fingerprint: str) -> None:
    if not path.is_file():
        raise BadInputError(f"there is nothing to resume: {path} does not exist; start without it")

    def refusal(reason: str) -> BadInputError:
        return BadInputError(f"training state {path} is damaged ({reason}); start anew")

    record, tensors = read_tensors(path, refusal)
    if record.get("settings") != fingerprint:
        raise BadInputError(
            f"{path} was written with other settings or scenes; resume with the same ones, or start "
            "anew in another folder"
        )
    with foreign(refusal), torch.no_grad():
        for name, parameter in run.parameters():
            parameter.copy_(tensors[name])
        run.optimizer.load_moments(run.parameters(), tensors, refusal)
        run.step, run.elapsed_s = int(record["step"]), float(record["elapsed_s"])
