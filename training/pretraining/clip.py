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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import Dedos, build_model, save_checkpoint
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.muon import MuonAdamW
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
from dedos_deploy.training.pretraining.loop import (
    LoopSettings,
    PretrainingLoop,
    StateFile,
    cosine,
)
from dedos_deploy.training.pretraining.scenes import WORDS, SceneSet


@dataclass(frozen=True)
class ClipSettings:
    """How the nano CLIP is pretrained.

    The run ends with `steps` or `minutes`, whichever is reached first, and the cosine schedule
    with it.

    Raises BadInputError for values out of range.
    """

    steps: int = 1000
    minutes: float | None = None
    """None: by steps alone, and then the result is the same on every run of one machine."""

    batch: int = 16
    matrix_rate: float = 0.005
    """Peak rate of Muon for the matrices."""

    learning_rate: float = 2.5e-4
    """Peak rate of AdamW for all else."""

    warmup: int = 30
    regions: float = 1.0
    """Weight of the second loss beside the first."""

    places: float = 1.0
    """Weight of the third loss beside the first."""

    half: bool = True
    """bfloat16 autocast, about twice as fast on CPUs that multiply it."""

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
    other settings, or a file cannot be written; KeyboardInterrupt after Ctrl-C or SIGTERM, with the
    state saved; DivergedError when the loss is no finite number.
    """
    config.check_size(scenes.size_hw)
    config.check_size(held_out.size_hw)
    output.mkdir(parents=True, exist_ok=True)
    model, losses = build_model(config, seed=settings.seed).train(), PairLosses()
    centre_text_tower(model, word_tokens(model, WORDS))
    recipe = json.dumps(
        [config.to_dict(), asdict(settings), scenes.seed, len(scenes), scenes.size_hw]
    )
    state = StateFile(output / "state.safetensors", recipe, data="scenes")
    loop = _loop(model, losses, settings, state)
    if resume:
        loop.resume()

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = clip_batch(
            scenes,
            batch=settings.batch,
            patch=config.clip.patch,
            seed=settings.seed,
            step=step,
        )
        found = _losses(model, losses, batch, settings)
        terms = {name: float(loss.detach()) for name, loss in found.items()}
        return torch.stack(list(found.values())).sum(), terms

    loop.run(loss_of, lambda report: on_step(report.step, report.terms) if on_step else None)
    model.eval()
    report = read_regions(model, held_out, steps=loop.step, elapsed_s=loop.elapsed_s)
    extra = {
        "step": loop.step,
        "words": list(WORDS),
        "template": "single",
        "size_hw": list(scenes.size_hw),
        "sources": [_SOURCE],
    }
    save_checkpoint(output / "checkpoint.safetensors", model, extra=extra)
    write_report(output / "report.json", report)
    return report


_SOURCE = "procedural scenes of dedos-deploy"


def _loop(
    model: Dedos, losses: PairLosses, settings: ClipSettings, state: StateFile
) -> PretrainingLoop[nn.ModuleDict]:
    """Return the loop of what is trained: both towers of CLIP and the temperatures."""
    parts = {"trunk": model.trunk, "text_tower": model.text_tower, "losses": losses}
    learner = nn.ModuleDict(parts)
    named = list(learner.named_parameters())
    matrices = [parameter for name, parameter in named if _is_map(name, parameter)]
    plain = [parameter for name, parameter in named if not _is_map(name, parameter)]
    optimizer = MuonAdamW(
        [
            {
                "params": matrices,
                "peak_lr": settings.matrix_rate,
                "muon": True,
                "betas": (_MOMENTUM, 0.98),
                "weight_decay": 0.0,
            },
            {
                "params": plain,
                "peak_lr": settings.learning_rate,
                "betas": (0.9, 0.98),
                "weight_decay": 0.0,
            },
        ],
        half=settings.half,
    )
    length = LoopSettings(
        "the nano CLIP",
        settings.steps,
        settings.minutes,
        rate=cosine(settings.warmup),
        advice=f"lower learning_rate ({settings.learning_rate}) or set half to false",
        seed=settings.seed,
        save_minutes=settings.save_minutes,
    )
    return PretrainingLoop(learner, optimizer, length, state)


def _is_map(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter takes orthogonal steps.

    A table of words does not: it is rows of their own, and those of words never met must keep what
    they start with.
    """
    table = name.endswith("token_embedding.weight")
    return parameter.ndim == 2 and name.endswith((".weight", "_weight")) and not table


def _losses(
    model: Dedos, losses: PairLosses, batch: ClipBatch, settings: ClipSettings
) -> dict[str, Tensor]:
    """Return the three losses, weighted, by name."""
    same = torch.tensor([[a == b for b in batch.captions] for a in batch.captions])
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.half):
        words = read(model, word_tokens(model, WORDS))
        text = read(model, tokens_of(model, batch.captions))
        seen = look(model, batch.images)
    base = batch.cover.shape[-1]
    return {
        "captions": losses.captions(seen.cls, text, same),
        "regions": settings.regions * losses.regions(seen.patches, words[:base], batch.cover),
        "places": settings.places * losses.places(seen.patches, words, batch.named),
    }
