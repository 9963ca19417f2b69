"""`dedos-train --dry-run`: what a run would hold in memory and learn from, without training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import Tensor, nn

from dedos_deploy.model.cost import LiveBytes
from dedos_deploy.training.data import Batch
from dedos_deploy.training.diffusion.walker import Walker
from dedos_deploy.training.loop import Trainer
from dedos_deploy.training.preview import FIRST_BATCH, write_first_batch

_MIB = 2.0**20


def dry_run(trainer: Trainer) -> Iterator[str]:
    """Yield lines about parameters, memory and the first batch, whose picture is written.

    Activations are measured: the most that one image's forward pass, diffusion included, holds at once,
    for its backward pass or in passing, times the micro-batch.
    """
    yield from _parameters(trainer)
    batch = trainer.stream[0]
    if isinstance(batch, Exception):
        raise batch
    yield from _memory(trainer, batch)
    path = trainer.output / FIRST_BATCH
    write_first_batch(path, batch, trainer.stream.words)
    shown = [trainer.stream.words[slot] for slot in batch.slots]
    yield f"first batch: {len(batch.images)} images, {len(shown)} words, painted in {path}"


def _parameters(trainer: Trainer) -> Iterator[str]:
    model, learning = trainer.training.model, trainer.training.learning
    rows = [
        ("trained, and shipped", _count(model.parameters(), trained=True)),
        ("frozen, and shipped", _count(model.parameters(), trained=False)),
        ("trained, for training only", _count(_of(learning), trained=True)),
        ("frozen diffusion, for training only", _count(_of(_diffusion(trainer)))),
    ]
    if trainer.objective.keeper is not None:
        rows.append(("frozen start, for training only", _count(_start(trainer))))
    for name, count in rows:
        yield f"{name + ':':<37}{count / 1e6:>9.2f} M parameters"


def _diffusion(trainer: Trainer) -> nn.Module | None:
    walker = trainer.objective.walker
    return walker.diffusion if isinstance(walker, Walker) else None


def _start(trainer: Trainer) -> Iterable[Tensor]:
    keeper = trainer.objective.keeper
    return _of(keeper.start if keeper is not None else None)


def _of(module: nn.Module | None) -> Iterable[Tensor]:
    return module.parameters() if module is not None else ()


def _count(parameters: Iterable[Tensor], *, trained: bool | None = None) -> int:
    return sum(p.numel() for p in parameters if trained is None or p.requires_grad == trained)


def _memory(trainer: Trainer, batch: Batch) -> Iterator[str]:
    training, settings = trainer.training, trainer.settings
    average = training.average.model if training.average is not None else None
    modules = (training.model, training.learning, average, _diffusion(trainer))
    weights = sum(_bytes(_of(module)) for module in modules) + _bytes(_start(trainer))
    trained = [p for group in training.optimizer.param_groups for p in group["params"]]
    optimizer = 3 * _bytes(trained)
    activations = _held_at_once(trainer, batch) * (settings.micro_batch or settings.batch)
    parts = {"weights": weights, "gradients and Adam": optimizer, "activations": activations}
    for name, size in (*parts.items(), ("sum, for one process", sum(parts.values()))):
        yield f"{name + ':':<37}{size / _MIB:>9.0f} MiB"


def _bytes(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _held_at_once(trainer: Trainer, batch: Batch) -> int:
    """Return the most bytes that a forward pass of one image holds at once, weights left out."""
    one = replace(
        batch,
        images=batch.images[:1],
        labels=batch.labels[:1],
        annotated=batch.annotated[:1],
        whole=None if batch.whole is None else batch.whole[:1],
        keys=batch.keys[:1],
        scenes=None if batch.scenes is None else batch.scenes[:1],
    )
    live = LiveBytes()
    with live:
        loss = trainer.objective(
            one,
            trainer.objective.totals(one),
            denoise=trainer.objective.walker is not None,
            seed=0,
        )
    del loss
    return live.peak
