"""Gives a small CLIP trunk the sight of trained nets, before it learns any mask.

From random numbers a trunk needs most of a short training to see edges, textures and parts. Trained
nets see them already. On crops of any labelled or pseudo-labelled pictures the trunk repeats the
nets' whitened activations (middle ones after a middle block, late ones after the last), and CLIP's
own projection of every patch is drawn to the text embedding of the word that the patch shows, which
is what the open-vocabulary head reads later. Heads for the activations are thrown away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dedos_deploy.model import Dedos, save_checkpoint
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.training.losses import count_labels, dense_loss
from dedos_deploy.training.muon import MuonAdamW
from dedos_deploy.training.pretraining.loop import (
    LoopReport,
    LoopSettings,
    PretrainingLoop,
    StateFile,
    cosine,
    telling,
)
from dedos_deploy.training.pretraining.teacher_features import FeatureStore
from dedos_deploy.training.pretraining.trunk_patches import Patches, PatchStream, TrunkSettings
from dedos_deploy.training.survey import content_digest
from dedos_deploy.training.targets import mask_targets

LOG = "log.jsonl"
START_CHECKPOINT = "start.safetensors"
STATE = "state.safetensors"
MOMENTUM = 0.95
_LOGGED_EVERY = 20


class FeatureHeads(nn.Module):
    """One linear map per layer, from the tokens after its block, and the scale of word logits.

    Used while learning only.
    """

    def __init__(self, width: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in channels)
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in channels)

    def forward(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """tokens: one [B, N, C] per layer; returns one [B, N, D] each."""
        return [
            head(norm(one)) for head, norm, one in zip(self.heads, self.norms, tokens, strict=True)
        ]


Record = dict[str, object]


class TrunkDistillation:
    """Trains the trunk of `model` in place.

    model: a Dedos whose text tower knows the words; its head is neither used nor changed.
    """

    def __init__(self, model: Dedos, store: FeatureStore, stream: PatchStream) -> None:
        self.model, self.store, self.stream = model, store, stream
        settings = stream.settings
        torch.manual_seed(settings.seed)
        layers = model.config.clip.layers
        self.blocks = tuple(layers - 1 if layer.late else layers // 2 for layer in store.layers)
        self.heads = FeatureHeads(model.config.clip.width, store.channels)
        self.text = WordEmbeddings(model, stream.words, template="single", tuned=False)(
            range(len(stream.words))
        )
        model.requires_grad_(False)
        model.trunk.requires_grad_(True)
        self._recipe = self._read_recipe()

    def _optimizer(self, settings: TrunkSettings) -> MuonAdamW:
        blocks: list[nn.Parameter] = []
        matrices: list[nn.Parameter] = []
        vectors: list[nn.Parameter] = []
        for name, parameter in self.model.trunk.named_parameters():
            plain = parameter.ndim < 2 or name.rpartition(".")[2] in ("cls", "table")
            inner = name.startswith("blocks.") and settings.muon > 0
            (vectors if plain else blocks if inner else matrices).append(parameter)
        for parameter in (
            *self.heads.norms.parameters(),
            *self.heads.heads.parameters(),
            self.heads.log_scale,
        ):
            (vectors if parameter.ndim < 2 else matrices).append(parameter)
        decay = settings.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": matrices, "peak_lr": settings.lr, "weight_decay": decay},
            {"params": vectors, "peak_lr": settings.lr, "weight_decay": 0.0},
        ]
        if blocks:
            groups.append(
                {
                    "params": blocks,
                    "peak_lr": settings.muon,
                    "weight_decay": decay,
                    "muon": True,
                    "betas": (MOMENTUM, 0.999),
                }
            )
        return MuonAdamW(groups)

    def losses(self, patches: Patches) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss with gradient and its parts: squared error per layer, words."""
        settings = self.stream.settings
        used = tuple(sorted({*self.blocks, self.model.config.clip.layers - 1}))
        trunk = self.model.trunk
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.amp):
            found = dict(zip(used, trunk.plain_features(patches.images, used), strict=True))
            said = self.heads([found[block] for block in self.blocks])
            seen = trunk.proj(trunk.ln_post(found[used[-1]]))
        parts = {
            layer.name: F.mse_loss(one.float(), target)
            for layer, one, target in zip(self.store.layers, said, patches.targets, strict=True)
        }
        total = settings.features * torch.stack(list(parts.values())).mean()
        logits = self.heads.log_scale.exp() * F.normalize(seen.float(), dim=-1) @ self.text.T
        grid = tuple(side // trunk.patch for side in patches.images.shape[1:3])
        maps = logits.transpose(1, 2).reshape(len(logits), -1, *grid)
        targets = mask_targets(patches.labels, patches.annotated, (grid[0], grid[1]))
        words = dense_loss(maps, targets, count_labels(patches.labels, patches.annotated))
        found_parts = {name: part.detach() for name, part in {**parts, "words": words}.items()}
        return total + settings.words * words, found_parts

    def run(
        self,
        output: Path,
        record: Record,
        progress: Progress = QUIET,
        *,
        resume: bool = False,
    ) -> PretrainingLoop[nn.ModuleDict]:
        """Train to the end, save on the way, and return the finished loop.

        output: gets start.safetensors, log.jsonl and state.safetensors, from which `resume` goes on;
        record: what the checkpoint says of itself beside its step; progress: told of every step.

        Raises DivergedError when the loss is no finite number, KeyboardInterrupt after Ctrl-C or
        SIGTERM, with the state saved, BadInputError when there is nothing to resume.
        """
        output.mkdir(parents=True, exist_ok=True)
        loop = self._loop(output / STATE)
        if resume:
            loop.resume()

        tell = telling(progress)

        def observe(report: LoopReport) -> None:
            if report.step % _LOGGED_EVERY == 1:
                _log(log, report)
            tell(report)

        def save() -> None:
            extra = {**record, "step": loop.step}
            save_checkpoint(output / START_CHECKPOINT, self.model, extra=extra)

        with (output / LOG).open("a", encoding="utf-8") as log:
            loop.run(self._loss_of, observe, on_save=save)
        return loop

    def _loop(self, state: Path) -> PretrainingLoop[nn.ModuleDict]:
        settings = self.stream.settings
        optimizer = self._optimizer(settings)
        length = LoopSettings(
            "the trunk",
            settings.steps,
            settings.minutes,
            rate=cosine(settings.warmup),
            advice="lower --lr",
            seed=settings.seed,
            save_minutes=settings.save_minutes,
        )
        return PretrainingLoop(
            nn.ModuleDict({"trunk": self.model.trunk, "heads": self.heads}),
            optimizer,
            length,
            StateFile(state, self._recipe),
            clipped=[p for group in optimizer.param_groups for p in group["params"]],
        )

    def _loss_of(self, step: int) -> tuple[Tensor, dict[str, float]]:
        loss, parts = self.losses(self.stream.batch(step))
        return loss, {name: float(part) for name, part in parts.items()}

    def _read_recipe(self) -> str:
        """Return what parts of a run have in common; more time or steps may be given to the last."""
        settings = lasting(settings_record(self.stream.settings))
        start = hashlib.sha256()
        for part in (self.model.trunk, self.model.text_tower):
            for value in part.state_dict().values():
                start.update(value.contiguous().numpy().tobytes())
        teachers = [teacher.fingerprint for teacher in self.store.teachers]
        folders = [[f.name, f.words, f.share, len(f.items)] for f in self.stream.folders]
        channels = self.store.channels
        content = content_digest(self.stream.folders)
        return json.dumps([settings, start.hexdigest(), teachers, channels, folders, content])

    @torch.no_grad()
    def measure(self, items: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Return what is repeated of whole pictures: per layer the part of the variance explained,
        and `words`, the mean loss of the patches' words."""
        sums: dict[str, float] = {}
        self.model.eval()
        for item in items:
            patches = self.stream.crops([item], self.model.config.size_hw, None)
            _, parts = self.losses(patches)
            for (name, part), target in zip(parts.items(), [*patches.targets, None], strict=True):
                value = float(part)
                sums[name] = sums.get(name, 0.0) + (
                    value if target is None else 1 - value / float(target.square().mean())
                )
        return {name: value / max(len(items), 1) for name, value in sums.items()}


def _log(log: TextIO, report: LoopReport) -> None:
    values = {"loss": report.loss, **report.terms}
    rounded = {name: round(value, 4) for name, value in values.items()}
    line = {"step": report.step, "seconds": round(report.elapsed_s, 1), **rounded}
    log.write(json.dumps(line) + "\n")
    log.flush()


def settings_record(settings: TrunkSettings) -> Record:
    """Return the settings as JSON values."""
    record: Record = json.loads(json.dumps(asdict(settings)))
    return record


def lasting(record: Record) -> Record:
    """Return the settings of a record that may not change between a run and its continuation."""
    free = ("minutes", "steps", "save_minutes")
    return {name: value for name, value in record.items() if name not in free}
