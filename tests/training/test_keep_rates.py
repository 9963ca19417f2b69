"""A run that keeps what its start knew takes steps, and statistics, that do not undo it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from micro import Recorder, Write

from dedos_deploy.model import build_model, load_checkpoint, save_checkpoint
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.loop import CHECKPOINT, Trainer
from dedos_deploy.training.settings import settings_for


@pytest.mark.parametrize("preset", ["nano", "miniature"])
def test_a_run_that_keeps_something_takes_shorter_steps(preset: str) -> None:
    free = settings_for(preset, ("yours",))
    kept = settings_for(preset, ("yours",), keep="demo")
    assert (free.lr, free.backbone_lr) == (1e-3, 1e-3)
    assert (kept.lr, kept.backbone_lr) == (1e-4, 1e-4)


def test_rates_that_are_given_stand() -> None:
    one = settings_for("nano", ("yours",), keep="demo", lr=3e-4)
    assert (one.lr, one.backbone_lr) == (3e-4, 1e-4)
    edge = settings_for("edge-b", ("yours",), keep="demo", init="dense-b")
    assert edge.lr == settings_for("edge-b", ("yours",), init="dense-b").lr


@pytest.mark.parametrize(("keeps", "begins"), [(True, True), (True, False), (False, True)])
def test_batch_statistics_stay_those_of_weights_that_saw_pictures(
    keeps: bool, begins: bool, micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    start = tmp_path / "start.safetensors"
    save_checkpoint(start, build_model(micro, seed=7), extra={"words": ["floor", "sky"]})
    settings = settings_for(
        "micro",
        (str(write_folder()),),
        steps=1,
        batch=2,
        workers=0,
        threads=1,
        device="cpu",
        eval_minutes=0.0,
        samples=0,
        init=str(start) if begins else None,
        keep=str(start) if keeps else None,
    )
    trainer = Trainer(settings, tmp_path / "run")
    before = {n: v.clone() for n, v in _statistics(trainer.training.model.state_dict()).items()}
    trainer.train(Recorder())
    after = _statistics(load_checkpoint(tmp_path / "run" / CHECKPOINT)[0].state_dict())
    same = all(torch.equal(after[name], value) for name, value in before.items())
    assert before and same == (keeps and begins)


def _statistics(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors.items() if "running_" in name}
