"""Contrastive pretraining of the nano CLIP, both towers from random weights.

Three losses, each an InfoNCE with a learned temperature:

| pairs | candidates | teaches |
|---|---|---|
| picture, its caption | the captions and pictures of the batch | CLS token and sentences; all words |
| region, its word | the base words | patch tokens of base words, averaged under their mask |
| word of a caption, where it is | the pictures of the batch | patch tokens of all words, no mask |

A novel word is met in captions alone: by the first loss, and by the third, which asks that the
patches of the picture whose caption names the word resemble it more than other pictures' do.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import Dedos, build_model, save_checkpoint
from dedos_deploy.presets import ModelConfig
from dedos_deploy.text.templates import TEMPLATES
from dedos_deploy.training.loop import DivergedError
from dedos_deploy.training.miniature.clip_batches import ClipBatch, clip_batch
from dedos_deploy.training.miniature.clip_losses import PairLosses, look, read
from dedos_deploy.training.miniature.clip_report import (
    ClipReport,
    read_regions,
    tokens_of,
    word_tokens,
    write_report,
)
from dedos_deploy.training.miniature.data import BASE_WORDS, WORDS, SceneSet
from dedos_deploy.training.optimizer import rate_factor, set_rate


@dataclass(frozen=True)
class ClipSettings:
    """How the nano CLIP is pretrained.

    steps, minutes: the run ends with whichever is reached first, and the cosine schedule with it;
    minutes None: by steps alone, and then the result is the same on every run of one machine;
    regions, places: weights of the second and third loss beside the first; half: bfloat16 autocast,
    about twice as fast on CPUs that multiply it.
    """

    steps: int = 500
    minutes: float | None = None
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 40
    regions: float = 1.0
    places: float = 1.0
    half: bool = True
    seed: int = 0
    save_minutes: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "save_minutes"):
            if not getattr(self, name) > 0:
                raise BadInputError(f"{name} must be positive, not {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise BadInputError(f"minutes must be positive or none, not {self.minutes}")


@dataclass
class _Run:
    model: Dedos
    losses: PairLosses
    optimizer: torch.optim.AdamW
    step: int = 0
    elapsed_s: float = 0.0

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what is trained: both towers of CLIP and the temperatures."""
        for name, tower in (("trunk", self.model.trunk), ("text_tower", self.model.text_tower)):
            yield from tower.named_parameters(prefix=name)
        yield from self.losses.named_parameters(prefix="losses")


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
    extra = {"step": run.step, "words": list(WORDS), "template": "single",
             "size_hw": list(scenes.size_hw), "sources": [_SOURCE]}  # fmt: skip
    save_checkpoint(output / "checkpoint.safetensors", run.model, extra=extra)
    write_report(output / "report.json", report)
    return report


_SOURCE = "procedural scenes of dedos-deploy"


def _new_run(config: ModelConfig, settings: ClipSettings) -> _Run:
    model, losses = build_model(config, seed=settings.seed), PairLosses()
    run = _Run(model.train(), losses, torch.optim.AdamW([nn.Parameter(torch.zeros(1))]))
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in run.parameters():
        # words that are never met must keep the embedding they start with
        table = name.endswith("token_embedding.weight")
        groups[parameter.ndim >= 2 and not table].append(parameter)
    rate = settings.learning_rate
    run.optimizer = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": settings.weight_decay, "peak_lr": rate},
            {"params": groups[False], "weight_decay": 0.0, "peak_lr": rate},
        ],
        lr=rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    return run


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
        batch = clip_batch(scenes, batch=settings.batch, patch=run.model.config.clip.patch,
                           seed=settings.seed, step=run.step)  # fmt: skip
        losses = _losses(run, batch, settings)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise DivergedError(
                f"the loss of step {run.step} is {float(total)}; lower learning_rate "
                f"({settings.learning_rate}) or set half to false"
            )
        run.optimizer.zero_grad(set_to_none=True)
        total.backward()
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
    prompt = _PROMPTS[run.step % len(_PROMPTS)]
    same = torch.tensor([[a == b for b in batch.captions] for a in batch.captions])
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.half):
        words = read(run.model, word_tokens(run.model, WORDS, prompt))
        text = read(run.model, tokens_of(run.model, batch.captions))
        seen = look(run.model, batch.images)
    base = words[: len(BASE_WORDS)]
    return {
        "captions": run.losses.captions(seen.cls, text, same),
        "regions": settings.regions * run.losses.regions(seen.patches, base, batch.cover),
        "places": settings.places * run.losses.places(seen.patches, words, batch.named),
    }


_PROMPTS = (TEMPLATES["single"][0], "a {}", TEMPLATES["single"][0], "a photo of a {}")
"""What a single word is put into, in turn: the template of training and use most of all."""


def _save(path: Path, run: _Run, fingerprint: str) -> None:
    tensors: dict[str, Tensor] = {}
    for name, parameter in run.parameters():
        tensors[name] = parameter.detach()
        for key, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = value
    record = {"step": str(run.step), "elapsed_s": repr(run.elapsed_s), "settings": fingerprint}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata=record)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise BadInputError(
            f"cannot write training state {path}: {error}; free space or choose another output"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _load(path: Path, run: _Run, fingerprint: str) -> None:
    if not path.is_file():
        raise BadInputError(f"there is nothing to resume: {path} does not exist; start without it")
    try:
        with safe_open(path, framework="pt") as file:
            record = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"training state {path} is damaged ({error}); start anew") from error
    if record.get("settings") != fingerprint:
        raise BadInputError(
            f"{path} was written with other settings or scenes; resume with the same ones, or start "
            "anew in another folder"
        )
    with torch.no_grad():
        for name, parameter in run.parameters():
            parameter.copy_(tensors[name])
            run.optimizer.state[parameter] = {
                key: tensors[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}/{key}" in tensors
            }  # fmt: skip
    run.step, run.elapsed_s = int(record["step"]), float(record["elapsed_s"])
