"""Gives a small CLIP trunk the sight of trained nets, before it learns any mask.

From random numbers a trunk needs most of a short training to see edges, textures and parts. Trained
nets see them already. On crops of any labelled or pseudo-labelled pictures the trunk repeats the
nets' whitened activations (middle ones after a middle block, late ones after the last), and CLIP's
own projection of every patch is drawn to the text embedding of the word that the patch shows, which
is what the open-vocabulary head reads later. Heads for the activations are thrown away.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dedos_deploy.errors import DedosError
from dedos_deploy.model import Dedos, save_checkpoint
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.training.losses import count_labels, dense_loss
from dedos_deploy.training.muon import MuonAdamW
from dedos_deploy.training.optimizer import rate_factor, set_rate
from dedos_deploy.training.pretraining.teacher_features import FeatureStore
from dedos_deploy.training.pretraining.trunk_patches import Patches, PatchStream, TrunkSettings
from dedos_deploy.training.targets import mask_targets

LOG = "log.jsonl"
START_CHECKPOINT = "start.safetensors"
MOMENTUM = 0.95
_LOGGED_EVERY = 20


class FeatureHeads(nn.Module):
    """One linear map per layer, from the tokens after its block; used while learning only."""

    def __init__(self, width: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in channels)
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in channels)

    def forward(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """tokens: one [B, N, C] per layer; returns one [B, N, D] each."""
        return [
            head(norm(one)) for head, norm, one in zip(self.heads, self.norms, tokens, strict=True)
        ]


class Observer(Protocol):
    """What a front end shows while it goes on."""

    def on_progress(self, part: float, note: str) -> None: ...


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
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        model.requires_grad_(False)
        model.trunk.requires_grad_(True)
        self.optimizer = self._optimizer(settings)

    def _optimizer(self, settings: TrunkSettings) -> MuonAdamW:
        blocks: list[nn.Parameter] = []
        matrices: list[nn.Parameter] = []
        vectors: list[nn.Parameter] = []
        for name, parameter in self.model.trunk.named_parameters():
            plain = parameter.ndim < 2 or name.rpartition(".")[2] in ("cls", "table")
            inner = name.startswith("blocks.") and settings.muon > 0
            (vectors if plain else blocks if inner else matrices).append(parameter)
        for parameter in (*self.heads.parameters(), self.log_scale):
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
        logits = self.log_scale.exp() * F.normalize(seen.float(), dim=-1) @ self.text.T
        grid = tuple(side // trunk.patch for side in patches.images.shape[1:3])
        maps = logits.transpose(1, 2).reshape(len(logits), -1, *grid)
        targets = mask_targets(patches.labels, patches.annotated, (grid[0], grid[1]))
        words = dense_loss(maps, targets, count_labels(patches.labels, patches.annotated))
        found_parts = {name: part.detach() for name, part in {**parts, "words": words}.items()}
        return total + settings.words * words, found_parts

    def run(self, output: Path, record: dict[str, object], observer: Observer | None) -> int:
        """Train to the end, save on the way, and return the number of steps.

        Raises DedosError when the loss is no finite number, KeyboardInterrupt after Ctrl-C.
        """
        settings = self.stream.settings
        output.mkdir(parents=True, exist_ok=True)
        start = saved = time.monotonic()
        step, progress = 0, 0.0
        with (output / LOG).open("a", encoding="utf-8") as log:
            while progress < 1.0:
                factor = rate_factor(step, progress, warmup=settings.warmup, schedule="cosine")
                set_rate(self.optimizer, factor)
                values = self._step(step)
                step += 1
                now = time.monotonic()
                progress = self._progress(step, now - start)
                if step % _LOGGED_EVERY == 1:
                    line = {"step": step, "seconds": round(now - start, 1), **values}
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                if observer is not None:
                    observer.on_progress(progress, f"step {step}, loss {values['loss']:.3f}")
                if now - saved >= 60 * settings.save_minutes:
                    self._save(output, {**record, "step": step})
                    saved = now
        self._save(output, {**record, "step": step})
        return step

    def _progress(self, step: int, seconds: float) -> float:
        settings = self.stream.settings
        done = step / settings.steps if settings.steps else 0.0
        return max(done, seconds / (60 * settings.minutes) if settings.minutes else 0.0)

    def _step(self, step: int) -> dict[str, float]:
        loss, parts = self.losses(self.stream.batch(step))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise DedosError(
                f"trunk training broke off at step {step}: the loss is {float(loss.detach())}; lower --lr"
            )
        self.optimizer.step()
        values = {name: round(float(part), 4) for name, part in parts.items()}
        return {"loss": round(float(loss.detach()), 4), **values}

    def _save(self, output: Path, record: dict[str, object]) -> None:
        save_checkpoint(output / START_CHECKPOINT, self.model, extra=record)

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


def settings_record(settings: TrunkSettings) -> dict[str, object]:
    """Return the settings as JSON values."""
    record: dict[str, object] = json.loads(json.dumps(asdict(settings)))
    return record
