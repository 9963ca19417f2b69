"""What --keep keeps: scores of words that new labels do not know stay near, while a new word is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import Recorder, Write

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.export.weights import WeightsSource
from dedos_deploy.model import build_model, load_checkpoint, save_checkpoint
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.presets import ModelConfig
from dedos_deploy.scenes import render_image
from dedos_deploy.training.data import Batch, BatchStream
from dedos_deploy.training.dry_run import dry_run
from dedos_deploy.training.folders import open_folder
from dedos_deploy.training.keep import Keeper
from dedos_deploy.training.logs import StepReport
from dedos_deploy.training.loop import CHECKPOINT, STATE, Trainer
from dedos_deploy.training.replay import SCENES_CREDIT
from dedos_deploy.training.settings import TrainSettings, settings_for

OLD = ("floor", "door")
Settings = Callable[..., TrainSettings]


@pytest.fixture
def start(micro: ModelConfig, tmp_path: Path) -> Path:
    """A checkpoint of a micro model that says that it knows `OLD`, `sky` and `road`."""
    model = build_model(micro, seed=7)
    with torch.no_grad():
        # Away from the -4 at which all scores begin: there must be something to forget.
        model.text_aggregation.bias.fill_(-1.0)
    path = tmp_path / "start.safetensors"
    extra = {"words": [*OLD, "sky", "road"], "sources": ["Old pictures, CC0"]}
    save_checkpoint(path, model, extra=extra)
    return path


@pytest.fixture
def settings(start: Path, write_folder: Write) -> Settings:
    """Makes the settings of a run on sky, road and car from `start`."""
    root = str(write_folder())

    def make(**changes: object) -> TrainSettings:
        given = dict(steps=4, batch=2, workers=0, threads=1, lr=3e-3, warmup=1, seed=3)
        given |= dict(init=str(start), eval_minutes=0.0, device="cpu", drop_words=0.0)
        return settings_for("micro", (root,), **{**given, **changes})

    return make


class Classes(Recorder):
    """Keeps L_cls of the new labels alone."""

    def on_step(self, report: StepReport) -> None:
        self.losses.append(report.terms["cls"])


def scores(path: Path, words: tuple[str, ...], images: torch.Tensor) -> torch.Tensor:
    model, _ = load_checkpoint(path)
    text = WordEmbeddings(model, words, template="single", tuned=False)(range(len(words)))
    with torch.no_grad():
        return model.scores(images, text, torch.ones(len(words)))


def test_old_words_stay_near_while_a_new_one_is_learned(
    settings: Settings, start: Path, tmp_path: Path
) -> None:
    halls = [render_image("hall", seed=seed, size_hw=(32, 32))[0] for seed in range(90, 96)]
    images = torch.from_numpy(np.stack(halls))
    before = scores(start, OLD, images)
    moved, learned = {}, {}
    for name, keep in (("free", None), ("kept", str(start))):
        seen = Classes()
        Trainer(settings(steps=10, lr=8e-3, keep=keep), tmp_path / name).train(seen)
        after = scores(tmp_path / name / CHECKPOINT, OLD, images)
        moved[name] = float((after - before).abs().mean())
        learned[name] = sum(seen.losses[-3:]) / sum(seen.losses[:3])
    assert moved["free"] > 0.2 and moved["kept"] < 0.5 * moved["free"], moved
    assert learned["kept"] < 0.8, learned


def test_a_run_that_keeps_something_goes_on_exactly_and_with_nothing_else(
    settings: Settings, start: Path, tmp_path: Path
) -> None:
    chosen = settings(keep=str(start), drop_words=0.5)
    whole, first, second = Recorder(), Recorder(stop_after=2), Recorder()
    Trainer(chosen, tmp_path / "whole").train(whole)
    with pytest.raises(KeyboardInterrupt):
        Trainer(chosen, tmp_path / "parts").train(first)
    with pytest.raises(
        BadInputError, match="keeps what the checkpoint .* knew, not nothing; repeat"
    ):
        Trainer(settings(drop_words=0.5), tmp_path / "parts", resume=True)
    moved = start.rename(tmp_path / "moved.safetensors")
    again = replace(chosen, keep=str(moved), init=str(moved))
    with pytest.raises(BadInputError, match="init"):
        Trainer(again, tmp_path / "parts", resume=True)
    start.symlink_to(moved)
    Trainer(replace(chosen, keep=str(moved)), tmp_path / "parts", resume=True).train(second)
    assert first.losses + second.losses == whole.losses
    _, record = load_checkpoint(tmp_path / "parts" / CHECKPOINT)
    assert record["words"] == ["sky", "road", "car", *OLD]
    assert record["sources"] == ["Old pictures, CC0", SCENES_CREDIT, "street"]


def test_a_second_run_keeps_what_the_first_was_told_to_keep(
    settings: Settings, start: Path, write_folder: Write, tmp_path: Path
) -> None:
    chosen = settings(keep=str(start), steps=1)
    Trainer(chosen, tmp_path / "first").train(Recorder())
    first = str(tmp_path / "first" / CHECKPOINT)
    others = write_folder("other", ("grass", "tree", "dog"))
    second = replace(chosen, init=first, keep=first, data=(str(others),))
    trainer = Trainer(second, tmp_path / "second")
    keeper = trainer.objective.keeper
    assert keeper is not None
    own = trainer.stream.words
    batch = trainer.stream[0]
    assert isinstance(batch, Batch)
    asked = {keeper.words[slot] for slot in keeper.slots(batch, 0)}
    assert asked == {*own, "sky", "road", "car", *OLD}
    trainer.train(Recorder())
    _, record = load_checkpoint(tmp_path / "second" / CHECKPOINT)
    assert set(record["words"]) == {*own, "sky", "road", "car", *OLD}
    # Negatives of its bundle, and the classes that an evaluation calls known, are of all of them.
    weights = WeightsSource(tmp_path / "second" / CHECKPOINT, "micro").load()
    assert set(OLD) <= set(weights.words)


def test_how_a_step_is_cut_changes_nothing(settings: Settings, start: Path, tmp_path: Path) -> None:
    chosen = settings(keep=str(start), batch=3, steps=2)
    losses = []
    for each in (chosen, replace(chosen, micro_batch=1)):
        seen = Recorder()
        # BatchNorm sees micro-batches one by one, so its running statistics stand in for it.
        trainer = Trainer(each, tmp_path / str(len(losses)))
        assert trainer.training.model.detail is not None
        trainer.training.model.detail.eval()
        trainer.train(seen)
        losses.append(seen.losses)
    assert losses[1] == pytest.approx(losses[0], rel=2e-4)


def test_the_loss_is_least_at_the_start_and_leaves_alone_what_labels_know(
    settings: Settings, start: Path
) -> None:
    chosen = settings(keep=str(start))
    keeper = Keeper(chosen, ("sky", "road", "car"), torch.device("cpu"))
    assert keeper.words == ("sky", "road", "car", *OLD)
    labels = torch.full((1, 32, 32), 2)
    labels[:, :16] = 0
    images = torch.randint(0, 255, (1, 32, 32, 3), dtype=torch.uint8)
    batch = Batch(images, labels, (0, 1, 2), torch.ones(1, 3, dtype=torch.bool))
    slots = keeper.slots(batch, 0)
    assert slots == (0, 1, 2, 3, 4)
    text = WordEmbeddings(keeper.start, keeper.words, template="single", tuned=False)(slots)
    with torch.no_grad():
        found = keeper.start.predict(images, text, torch.ones(5))
    classes = found.class_logits.clone().requires_grad_()
    masks = found.mask_logits.clone().requires_grad_()

    def gradient() -> torch.Tensor:
        classes.grad = masks.grad = None
        keeper.on_pictures((classes, masks), batch, slots).backward()
        assert classes.grad is not None
        return classes.grad.abs().amax((0, 1))

    assert float(gradient().max()) < 1e-4
    with torch.no_grad():
        classes += 1.0
    grown = gradient()
    assert (grown[:3] == 0).all() and (grown[3:] > 1e-3).all()
    # Masks of cells labelled with `car`, which the start did not know, are not its own to keep.
    assert masks.grad is not None
    below, above = masks.grad[0, :, 4:].abs().max(), masks.grad[0, :, :4].abs().max()
    assert float(below) == 0 and float(above) > 0


def test_scenes_belong_to_pictures_and_alternate(write_folder: Write, settings: Settings) -> None:
    from dedos_deploy.training.setup import batch_settings

    folder = open_folder(str(write_folder("other")))
    with_scenes = batch_settings(settings(keep="demo", batch=4), None)
    whole = BatchStream([folder], with_scenes)[0]
    assert isinstance(whole, Batch) and whole.scenes is not None and len(whole.scenes) == 2
    parts = [BatchStream([folder], replace(with_scenes, batch=1, pieces=4))[n] for n in range(4)]
    found = [part.scenes for part in parts if isinstance(part, Batch)]
    assert found[1] is None and found[3] is None
    assert found[0] is not None and found[2] is not None
    assert torch.equal(torch.cat([found[0], found[2]]), whole.scenes)
    without = BatchStream([folder], batch_settings(settings(batch=4), None))[0]
    assert isinstance(without, Batch) and without.scenes is None
    assert torch.equal(without.images, whole.images) and without.slots == whole.slots


def test_what_it_holds_stands_in_the_dry_run(
    settings: Settings, start: Path, tmp_path: Path
) -> None:
    lines = list(dry_run(Trainer(settings(keep=str(start)), tmp_path / "run")))
    assert any(line.startswith("frozen start, for training only:") for line in lines)
    assert not (tmp_path / "run" / STATE).exists()


def test_what_cannot_be_kept_is_one_sentence(
    settings: Settings, tmp_path: Path, micro: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInputError, match="keep_weight 2.0 has no effect: nothing is kept; name"):
        settings(keep_weight=2.0)
    with pytest.raises(BadInputError, match="keep_weight is 0, but must be more than 0"):
        settings(keep="demo", keep_weight=0)
    with pytest.raises(BadInputError, match="keep is empty; name one, or leave the option out"):
        settings(keep="")
    with pytest.raises(BadInputError, match="checkpoint nowhere does not exist"):
        Trainer(settings(keep="nowhere"), tmp_path / "run")
    wordless = tmp_path / "wordless.safetensors"
    save_checkpoint(wordless, build_model(micro, seed=1), extra={})
    with pytest.raises(BadInputError, match="does not say which words it learned, .* or 'demo'"):
        Trainer(settings(keep=str(wordless)), tmp_path / "run")
    command = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--keep-weight", "2"]
    assert main(command) == 2
    assert "--keep" in capsys.readouterr().err
