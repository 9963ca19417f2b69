"""The loop of every pretraining: signals end it after a whole step, and what goes on ends alike."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dedos_deploy.errors import BadInputError
from dedos_deploy.model.text_tower import TextTower
from dedos_deploy.model.word_embeddings import clip_tokenizer
from dedos_deploy.presets import ModelConfig, TextTowerConfig
from dedos_deploy.training.failure import DivergedError
from dedos_deploy.training.muon import MuonAdamW
from dedos_deploy.training.pretraining import text as words
from dedos_deploy.training.pretraining.clip import ClipSettings, pretrain_clip
from dedos_deploy.training.pretraining.diffusion_settings import NanoSettings
from dedos_deploy.training.pretraining.loop import (
    LoopReport,
    LoopSettings,
    PretrainingLoop,
    StateFile,
    cosine,
)
from dedos_deploy.training.pretraining.scene_words import WordList
from dedos_deploy.training.pretraining.scenes import render_scenes

STEPS = LoopSettings(
    "a line", 8, None, rate=cosine(2), advice="pray", ema=0.9, save_minutes=9, seed=4
)


class Fit:
    """A line that learns from numbers drawn anew in every step."""

    def __init__(self, path: Path, settings: LoopSettings = STEPS, recipe: str = "line") -> None:
        torch.manual_seed(1)
        self.model = nn.Linear(3, 2)
        groups = [{"params": self.model.parameters(), "peak_lr": 0.1}]
        self.loop = PretrainingLoop(
            self.model, MuonAdamW(groups), settings, StateFile(path, recipe, data="numbers")
        )
        self.seen: list[LoopReport] = []
        self.before_step: Callable[[int], None] = lambda step: None

    def loss_of(self, step: int) -> tuple[Tensor, dict[str, float]]:
        self.before_step(step)
        loss = (self.model(torch.randn(4, 3)) - 1).square().mean()
        return loss, {"double": 2 * float(loss.detach())}

    def run(self) -> None:
        self.loop.run(self.loss_of, self.seen.append)


def assert_same(first: Path, second: Path) -> None:
    one, two = load_file(first), load_file(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_step_ends_the_run_after_it(number: signal.Signals, tmp_path: Path) -> None:
    whole = Fit(tmp_path / "whole")
    whole.run()
    cut = Fit(tmp_path / "cut")
    cut.before_step = lambda step: os.kill(os.getpid(), number) if step == 3 else None
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    assert [report.step for report in cut.seen] == [1, 2, 3, 4]
    again = Fit(tmp_path / "cut")
    again.loop.resume()
    again.run()
    assert [report.step for report in again.seen] == [5, 6, 7, 8]
    assert [r.loss for r in cut.seen + again.seen] == [r.loss for r in whole.seen]
    assert again.loop.mean_terms == whole.loop.mean_terms
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert "average.weight" in load_file(tmp_path / "whole")


def test_the_mean_of_the_weights_is_left_behind_where_it_is_asked_for(tmp_path: Path) -> None:
    averaged, plain = Fit(tmp_path / "a"), Fit(tmp_path / "b", replace(STEPS, ema=None))
    averaged.run()
    plain.run()
    assert torch.equal(averaged.model.weight, plain.model.weight)
    assert plain.loop.best_model is plain.model
    assert not torch.equal(averaged.loop.best_model.weight, averaged.model.weight)


def test_what_ends_by_the_clock_has_seen_its_whole_schedule(tmp_path: Path) -> None:
    rates: list[float] = []

    def rate(step: int, progress: float) -> float:
        rates.append(cosine(1)(step, progress))
        return rates[-1]

    timed = Fit(tmp_path / "s", replace(STEPS, steps=None, minutes=0.003, rate=rate))
    timed.run()
    assert timed.seen[-1].progress == 1.0 and timed.seen[-1].elapsed_s >= 0.18
    assert rates[0] > 0.9 and rates[-1] < 0.1


def test_a_loss_that_is_no_number_is_said_and_nothing_is_saved(tmp_path: Path) -> None:
    fit = Fit(tmp_path / "state")

    def spoil(step: int) -> None:
        if step == 2:
            fit.model.weight.data.fill_(torch.inf)

    fit.before_step = spoil
    with pytest.raises(DivergedError, match=r"step 2 of a line has loss .*stopped; pray"):
        fit.run()
    assert not (tmp_path / "state").exists()


def test_what_cannot_go_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="a line needs an end"):
        replace(STEPS, steps=None)
    path = tmp_path / "state"
    with pytest.raises(BadInputError, match="nothing to resume"):
        Fit(path).loop.resume()
    Fit(path).run()
    with pytest.raises(BadInputError, match="other settings or numbers"):
        Fit(path, recipe="circle").loop.resume()
    path.write_bytes(b"torn")
    with pytest.raises(BadInputError, match="is damaged"):
        Fit(path).loop.resume()


def test_sigterm_keeps_what_the_nano_clip_learned(micro: ModelConfig, tmp_path: Path) -> None:
    train, held_out = (render_scenes(6, size_hw=(32, 32), seed=seed) for seed in (1, 2))
    settings = ClipSettings(steps=4, batch=4, warmup=2, half=False, save_minutes=9)

    def stop(step: int, _: dict[str, float]) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        pretrain_clip(micro, train, settings, tmp_path, held_out=held_out, on_step=stop)
    seen: list[int] = []
    pretrain_clip(
        micro,
        train,
        settings,
        tmp_path,
        held_out=held_out,
        resume=True,
        on_step=lambda step, _: seen.append(step),
    )
    assert seen == [4]


NAMES = ("car", "automobile", "road", "street")


class Distillation:
    """A text tower that learns four words."""

    def __init__(self, settings: words.DistilSettings, path: Path) -> None:
        torch.manual_seed(0)
        self.tower = TextTower(TextTowerConfig(8, 1, 2, context_length=16), 8, "gelu")
        self.settings, self.state = settings, StateFile(path, "words")
        self.steps: list[int] = []
        self.stopping = False

    def run(self, *, resume: bool = False) -> dict[str, Tensor]:
        targets = torch.eye(8)[: len(NAMES)]
        words.distil(
            self.tower,
            clip_tokenizer(16),
            WordList(NAMES, 2),
            targets,
            self.settings,
            report=self.report,
            state=self.state,
            resume=resume,
        )
        return self.tower.state_dict()

    def report(self, step: int, loss: float) -> None:
        self.steps.append(step)
        if self.stopping:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_text_tower_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    settings = words.DistilSettings(steps=6, batch=8)
    whole = Distillation(settings, tmp_path / "whole").run()
    cut = Distillation(settings, tmp_path / "cut")
    cut.stopping = True
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    again = Distillation(settings, tmp_path / "cut")
    parts = again.run(resume=True)
    assert (cut.steps, again.steps) == ([0], [5])
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_clock_ends_a_text_tower(tmp_path: Path) -> None:
    timed = words.DistilSettings(steps=100_000, batch=4, minutes=0.003)
    run = Distillation(timed, tmp_path / "state")
    run.run()
    assert run.steps[0] == 0 and run.steps[-1] < 99_999
    with pytest.raises(BadInputError, match="minutes must be positive"):
        words.DistilSettings(minutes=0.0)


@pytest.mark.parametrize("name", ["minutes", "vae_steps", "draw_steps"])
@pytest.mark.parametrize("value", [0, -5])
def test_a_length_that_is_none_is_refused(name: str, value: int) -> None:
    """Of the nano diffusion; minutes below 0 are never over."""
    with pytest.raises(BadInputError, match=f"{name} is {value}, but must be more than 0"):
        NanoSettings(**{name: value})
