"""Whole runs of a micro model: resume is exact, failures are kept, the command line is clear."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from micro import Recorder
from numpy.typing import NDArray
from safetensors import safe_open

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.model import build_model, load_checkpoint, save_checkpoint
from dedos_deploy.model.tuned_clip import choose_trained, tuned_count
from dedos_deploy.presets import ClipTune, ModelConfig
from dedos_deploy.training.evaluate import evaluate_scores
from dedos_deploy.training.failure import FAILED, DivergedError
from dedos_deploy.training.folders import LabelFolder
from dedos_deploy.training.logs import LOG, StepReport
from dedos_deploy.training.loop import (
    CHECKPOINT,
    STATE,
    Trainer,
)
from dedos_deploy.training.optimizer import build_optimizer, rate_factor
from dedos_deploy.training.settings import TrainSettings, settings_for
from dedos_deploy.training.setup import initial_model
from dedos_deploy.training.targets import OTHER

Write = Callable[..., Path]


def settings(root: Path, **changes: object) -> TrainSettings:
    values = dict(
        steps=6,
        batch=2,
        workers=0,
        threads=1,
        ema=0.9,
        lr=1e-3,
        backbone_lr=1e-3,
        warmup=2,
        eval_minutes=0.0,
        device="cpu",
    )
    return settings_for("micro", (str(root),), **{**values, **changes})


def weights(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


@pytest.mark.parametrize("tune_text", [False, True])
def test_a_resumed_run_repeats_the_uninterrupted_one(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, tune_text: bool
) -> None:
    root = write_folder()
    chosen = settings(root, tune_text=tune_text)
    whole, first, second = Recorder(), Recorder(stop_after=3), Recorder()
    Trainer(chosen, tmp_path / "whole").train(whole)
    with pytest.raises(KeyboardInterrupt):
        Trainer(chosen, tmp_path / "parts").train(first)
    torch.manual_seed(99)
    Trainer(chosen, tmp_path / "parts", resume=True).train(second)
    assert first.losses + second.losses == whole.losses
    expected, found = weights(tmp_path / "whole" / STATE), weights(tmp_path / "parts" / STATE)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_training_lowers_the_loss_and_writes_a_checkpoint_that_loads(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    write_folder(split="train")
    root = tmp_path / "street"
    for kind in ("images", "labels"):
        (root / kind / "val").symlink_to(root / kind / "train")
    seen = Recorder()
    chosen = settings(root, steps=30, lr=3e-3, tune_text=True)
    results = Trainer(chosen, tmp_path / "run").train(seen)
    assert sum(seen.losses[-5:]) < 0.7 * sum(seen.losses[:5])
    assert results == seen.results and results[0].classes == ("sky", "road", "car")
    model, record = load_checkpoint(tmp_path / "run" / CHECKPOINT, preset="micro")
    assert model.config == micro
    assert (record["step"], record["words"], record["sources"]) == (
        30,
        ["sky", "road", "car"],
        ["street"],
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[-1]["loss"] == seen.losses[-1]


def test_credits_follow_the_weights(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    first, second = write_folder("street"), write_folder("hall")
    (first / "credits.txt").write_text("Street pictures, CC BY 4.0\n\nTeacher X, Apache-2.0\n")
    Trainer(settings(first, steps=1), tmp_path / "a").train(Recorder())
    earlier = str(tmp_path / "a" / CHECKPOINT)
    Trainer(settings(second, steps=1, init=earlier), tmp_path / "b").train(Recorder())
    _, record = load_checkpoint(tmp_path / "b" / CHECKPOINT)
    assert record["sources"] == ["Street pictures, CC BY 4.0", "Teacher X, Apache-2.0", "hall"]


def test_the_licence_of_first_weights_stays_known(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    model, root = build_model(micro, seed=0), write_folder("street")
    begun = {"sources": ["Halls, CC BY 4.0"], "licence": "Apache-2.0; with credit"}
    save_checkpoint(tmp_path / "first.safetensors", model, extra=begun)
    for turn, init in enumerate((tmp_path / "first.safetensors", tmp_path / "0" / CHECKPOINT)):
        chosen = settings(root, steps=1, init=str(init))
        Trainer(chosen, tmp_path / str(turn)).train(Recorder())
        _, record = load_checkpoint(tmp_path / str(turn) / CHECKPOINT)
        assert record["sources"] == [
            "Halls, CC BY 4.0",
            "Weights it began with: Apache-2.0; with credit",
            "street",
        ]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_batch(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    trainer = Trainer(settings(write_folder()), tmp_path / "run")
    with torch.no_grad():
        trainer.training.model.mask_features.out.bias.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"step 0 has loss nan.*failed_step\.safetensors"):
        trainer.train(Recorder())
    kept = weights(tmp_path / "run" / FAILED)
    assert torch.equal(kept["images"], trainer.stream[0].images)


def test_the_clock_ends_a_run_at_the_end_of_its_schedule(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    trainer = Trainer(settings(write_folder(), steps=None, minutes=0.02), tmp_path / "run")
    trainer.train(Recorder())
    last = json.loads((tmp_path / "run" / LOG).read_text().splitlines()[-1])
    assert trainer.progress == 1.0 and trainer.training.step > 1
    assert last["progress"] == 1.0 and last["step"] == trainer.training.step


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_the_rate_rises_and_falls_to_zero(schedule: str) -> None:
    rates = [rate_factor(s, s / 100, warmup=10, schedule=schedule) for s in range(101)]
    assert rates[0] < rates[4] < rates[9] and max(rates) <= 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[100] == 0.0


@pytest.mark.parametrize(
    ("tune", "moves"),
    [("none", ()), ("ln", ("blocks.0.ln_1.weight",)), ("all", ("blocks.0.fc.weight",))],
)
def test_clip_tune_decides_what_moves(
    micro: ModelConfig, tune: str, moves: tuple[str, ...]
) -> None:
    model = build_model(replace(micro, clip_tune=tune))
    choose_trained(model, tune_text=False)
    trained = {
        n.removeprefix("trunk.") for n, p in model.trunk.named_parameters() if p.requires_grad
    }
    assert set(moves) <= trained and bool(trained) == bool(moves)
    assert not any(p.requires_grad for p in model.text_tower.parameters())
    assert all(p.requires_grad for p in model.mask_decoder.parameters())


@pytest.mark.parametrize("tune", ["none", "ln", "qv", "all"])
def test_the_count_of_tuned_numbers_is_what_an_optimizer_moves(
    micro: ModelConfig, write_folder: Write, tune: ClipTune
) -> None:
    model = build_model(replace(micro, clip_tune=tune))
    choose_trained(model, tune_text=False)
    trunk = [p for p in model.trunk.parameters() if p.requires_grad]
    keys = sum(p.numel() // 3 for p in trunk) if tune == "qv" else 0
    assert tuned_count(model) == sum(p.numel() for p in trunk) - keys


def test_kernels_and_embeddings_of_queries_are_not_decayed(
    micro: ModelConfig, write_folder: Write
) -> None:
    model = build_model(micro)
    choose_trained(model, tune_text=False)
    optimizer = build_optimizer(model, settings(write_folder()))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    named = dict(model.named_parameters())
    for name in ("basic_kernel", "diffusion_kernels"):
        assert decay[id(named[f"proxy_queries.{name}"])] == 0
    assert decay[id(named["mask_decoder.place"])] == 0
    assert decay[id(named["proxy_queries.aggregate.weight"])] > 0


def test_the_papers_presets_train_as_section_4_2_says(write_folder: Write) -> None:
    root = str(write_folder())
    paper, edge = (settings_for(preset, (root,)) for preset in ("paper-l", "edge-l"))
    assert (paper.lr, paper.backbone_lr, paper.batch, paper.steps) == (2e-4, 2e-6, 4, 60_000)
    assert (paper.tuned, edge.tuned, settings_for("nano", (root,)).tuned) == ("ln", "none", "all")
    assert (paper.vocabulary, paper.clip_norm, paper.view) == (171, 0.01, "crop")
    assert paper.drop_words == 0  # All words in every step.
    assert paper.diffusion_hw == (640, 640)
    assert settings_for("paper-l", (root,), clip_tune="qv").tuned == "qv"


@pytest.mark.parametrize(
    ("preset", "given", "told"),
    [
        ("edge-b", {"backbone_lr": 1e-5}, "backbone_lr 1e-05 has no effect: CLIP stays as it is"),
        ("paper-b", {"backbone_lr": 1e-5, "clip_tune": "none"}, "has no effect"),
        ("paper-b", {"balance": 0.5}, "balance 0.5 has no effect"),
        ("nano", {"cost": "catseg"}, "cost catseg has no effect: preset nano has one form"),
        (
            "edge-b",
            {"cost": "light"},
            "cost light has no effect.* take paper-l or paper-b, or leave",
        ),
        ("edge-b", {"view": "crop"}, "view crop has no effect: no diffusion model is read"),
        ("edge-b", {"diffusion_hw": (64, 64)}, "has no effect.* leave --diffusion-size out"),
        ("edge-b", {"add_noise": True}, "add_noise True has no effect"),
        ("edge-b", {"diffusion_half": True, "component": "oracle"}, "diffusion_half True has no"),
        ("edge-b", {"mask_map": "none"}, "mask_map none has no effect"),
        ("edge-b", {"bank": "static"}, "bank static has no effect"),
        ("edge-b", {"bank_drop": 0.0, "component": "V0"}, "bank_drop 0.0 has no effect"),
        ("edge-b", {"gamma": 0.0}, "gamma 0.0 has no effect"),
        (
            "edge-b",
            {"gamma": 2.0, "component": "III", "diffusion": "sd"},
            "gamma 2.0 has no effect",
        ),
        ("edge-b", {"timesteps": (9,), "component": "I"}, "has no effect: component I walks none"),
    ],
)
def test_a_value_that_nothing_would_come_of_is_refused(
    write_folder: Write, preset: str, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadInputError, match=told):
        settings_for(preset, (str(write_folder()),), **given)


@pytest.mark.parametrize(
    ("preset", "given"),
    [
        ("nano", {"backbone_lr": 1e-4, "balance": 0.4}),
        ("paper-l", {"cost": "light"}),
        ("paper-b", {"cost": "catseg"}),
        ("edge-b", {"backbone_lr": 1e-5, "tune_text": True}),
        ("edge-b", {"add_noise": False, "diffusion_half": False, "timesteps": (9, 8)}),
        ("edge-b", {"component": "oracle", "mask_map": "none", "bank_drop": 0.0}),
        ("edge-b", {"diffusion": "sd", "component": "II", "timesteps": (9,), "bank": "static"}),
        ("edge-b", {"diffusion": "sd", "gamma": 0.0, "view": "crop", "diffusion_hw": (64, 64)}),
    ],
)
def test_a_value_that_decides_something_is_taken(
    write_folder: Write, preset: str, given: dict[str, Any]
) -> None:
    settings_for(preset, (str(write_folder()),), **given)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(write_folder: Write, seed: int) -> None:
    with pytest.raises(
        BadInputError, match=rf"seed is {seed}, but a seed lies in \[0, 4294967296\)"
    ):
        settings_for("nano", (str(write_folder()),), seed=seed)


def test_a_whole_text_tower_is_decayed_while_parts_of_the_trunk_are_not(
    micro: ModelConfig, write_folder: Write
) -> None:
    model = build_model(replace(micro, clip_tune="qv"))
    choose_trained(model, tune_text=True)
    optimizer = build_optimizer(model, settings(write_folder(), tune_text=True))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    tuned = {n: decay[id(p)] for n, p in model.named_parameters() if "blocks.0.qkv.weight" in n}
    assert tuned["text_tower.blocks.0.qkv.weight"] > 0 == tuned["trunk.blocks.0.qkv.weight"]


def test_runs_of_before_clip_could_be_tuned_go_on_with_their_options(write_folder: Write) -> None:
    root = (str(write_folder()),)
    now = settings_for("paper-b", root, clip_tune="none", diffusion="sd", diffusion_hw=(768, 768))
    before = json.loads(now.to_json())
    del before["clip_tune"]
    before["diffusion_hw"] = None  # Its own, 768 for Stable Diffusion 2.1; the fingerprint tells.
    now.check_continues(json.dumps(before))
    with pytest.raises(BadInputError, match="the run to resume has clip_tune 'none', not 'ln'"):
        replace(now, clip_tune="ln").check_continues(json.dumps(before))
    replace(now, clip_tune=None).check_continues(now.to_json())  # The preset's own is the same.


def test_runs_of_before_views_were_darkened_go_on_with_their_options(write_folder: Write) -> None:
    now = settings_for("nano", (str(write_folder()),))
    before = json.loads(now.to_json())
    del before["augmentation"]["darken"]
    now.check_continues(json.dumps(before))
    darker = settings_for("nano", now.data, darken=3.0)
    with pytest.raises(BadInputError, match="resume has augmentation darken 0.0, not 3.0"):
        darker.check_continues(json.dumps(before))
    with pytest.raises(BadInputError, match="resume has augmentation .*, not"):
        now.check_continues(json.dumps({**before, "augmentation": 5}))


def test_what_is_trained_of_clip_stands_in_the_checkpoint(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "first.safetensors", build_model(micro))
    start = str(tmp_path / "first.safetensors")
    chosen = settings(write_folder(), clip_tune="ln", steps=1, init=start)
    Trainer(chosen, tmp_path / "run").train(Recorder())
    model, _ = load_checkpoint(tmp_path / "run" / CHECKPOINT, preset="micro")
    assert model.config == replace(micro, clip_tune="ln")
    # It can be the start of a run that trains other parts.
    again = settings(write_folder("two"), init=str(tmp_path / "run" / CHECKPOINT), clip_tune="qv")
    assert initial_model(again)[0].config.clip_tune == "qv"


def test_qv_tuning_leaves_key_rows_alone(micro: ModelConfig, write_folder: Write) -> None:
    model = build_model(replace(micro, clip_tune="qv"))
    choose_trained(model, tune_text=False)
    optimizer = build_optimizer(model, settings(write_folder()))
    before = model.trunk.blocks[0].qkv.weight.detach().clone()
    image = torch.randint(0, 255, (1, 32, 32, 3), dtype=torch.uint8)
    text = torch.nn.functional.normalize(torch.randn(2, 16), dim=-1)
    model.predict(image, text, torch.ones(2)).mask_logits.square().mean().backward()
    optimizer.step()
    moved = (model.trunk.blocks[0].qkv.weight != before).any(1).reshape(3, -1)
    assert moved[0].any() and moved[2].any() and not moved[1].any()


def write_maps(root: Path, maps: Sequence[NDArray[np.uint8]]) -> LabelFolder:
    """A label folder of four words and `nothing`, which is known to be none of them."""
    items = []
    for index, labels in enumerate(maps):
        image, path = root / f"{index}.png", root / f"{index}_labels.png"
        cv2.imwrite(str(image), np.zeros((*labels.shape, 3), np.uint8))
        cv2.imwrite(str(path), labels)
        items.append((image, path))
    return LabelFolder("maps", ("a", "b", "c", "d", None), tuple(items), background=OTHER)


def winning(maps: Sequence[NDArray[np.uint8]]) -> Callable[..., torch.Tensor]:
    """Scores whose best word is that of each picture's map."""

    def scores(item: int, image: object) -> torch.Tensor:
        chosen = torch.nn.functional.one_hot(torch.from_numpy(maps[item]).long(), 4)
        return chosen.permute(2, 0, 1)[None]

    return scores


def test_iou_against_sets(tmp_path: Path) -> None:
    labels = np.array([[0, 0, 1, 1, 1, 255, 4, 2]], np.uint8)
    predicted = np.array([[0, 1, 1, 1, 0, 0, 0, 2]], np.uint8)
    result = evaluate_scores(write_maps(tmp_path, [labels]), winning([predicted]))
    assert result.iou == (1 / 3, 2 / 4, 1.0, None)
    assert result.miou_present == pytest.approx((1 / 3 + 2 / 4 + 1) / 3)
    assert result.classes == ("a", "b", "c", "d") and result.images == 1
    empty = write_maps(tmp_path, [np.full((2, 2), 255, np.uint8)])
    assert evaluate_scores(empty, winning([np.zeros((2, 2), np.uint8)])).miou_present == 0.0


def test_training_counts_as_a_table_of_pairs_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = np.array([0, 1, 2, 4, 255], np.uint8)
    maps = [values[rng.integers(0, 5, (7 + index, 9))] for index in range(5)]
    predicted = [rng.integers(0, 4, each.shape).astype(np.uint8) for each in maps]
    result = evaluate_scores(write_maps(tmp_path, maps), winning(predicted), images=3)
    table = np.zeros((4, 4), np.int64)
    for index in (0, 1, 3):
        known = maps[index] < 4
        np.add.at(table, (maps[index][known], predicted[index][known]), 1)
    right, union = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
    assert result.iou == tuple((right / union).tolist())
    assert result.miou_present == float(np.mean((right / union)[:3]))  # d is in no label
    assert result.labelled == tuple(table.sum(1).tolist()) and result.images == 3


def test_resume_refuses_other_options_and_names_them(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    chosen = settings(write_folder(), steps=1)
    Trainer(chosen, tmp_path / "run").train(Recorder())
    with pytest.raises(BadInputError, match="has batch 2, not 3"):
        Trainer(replace(chosen, batch=3), tmp_path / "run", resume=True)
    with pytest.raises(BadInputError, match="already holds a run; add --resume"):
        Trainer(chosen, tmp_path / "run")
    longer = Trainer(replace(chosen, steps=2), tmp_path / "run", resume=True)
    assert longer.training.step == 1


def test_a_damaged_state_is_refused(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    chosen = settings(write_folder(), steps=1)
    Trainer(chosen, tmp_path / "run").train(Recorder())
    path = tmp_path / "run" / STATE
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadInputError, match="state.safetensors is damaged"):
        Trainer(chosen, tmp_path / "run", resume=True)


def command(root: Path, output: Path, *more: str) -> list[str]:
    return [
        "--preset",
        "micro",
        "--data",
        str(root),
        "--output",
        str(output),
        "--steps",
        "2",
        "--batch",
        "2",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--eval-minutes",
        "0",
        *more,
    ]


def test_the_command_trains_and_says_what_comes_next(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_folder()
    write_folder("other", split="val")
    (root / "images/val").symlink_to(tmp_path / "other/images/val")
    (root / "labels/val").symlink_to(tmp_path / "other/labels/val")
    assert main(command(root, tmp_path / "run")) == 0
    shown = capfd.readouterr().err
    assert "street, 6 images: miou_present" in shown and "images/s" in shown
    assert f"dedos-export --checkpoint {tmp_path / 'run' / CHECKPOINT}" in shown
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())[0]["images"] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "there is no data set folder 'nowhere'"),
        (["--preset", "nanoo"], "unknown preset 'nanoo', did you mean 'nano'"),
        (["--size", "33x32"], "size 33x32 does not fit micro"),
        (["--lr", "-1"], "lr is -1.0, but must be more than 0"),
        (["--lr", "nan"], "lr is nan, but must be more than 0"),
        (["--minutes", "nan"], "minutes is nan, but must be more than 0"),
        (["--eval-minutes", "nan"], "eval_minutes is nan, but must not be negative"),
        (["--drop-words", "nan"], "drop_words is nan, but a probability lies in [0, 1]"),
        (["--ema", "1"], "ema is 1.0, but a decay lies in"),
        (["--template", "poem"], "unknown prompt templates 'poem'"),
        (["--resume"], "there is nothing to resume"),
        (["--init", "none.safetensors"], "checkpoint none.safetensors does not exist"),
        (["--init", "a", "--clip-weights", "b"], "init and clip_weights exclude each other"),
        (["--preset", "edge-b"], "preset edge-b does not train all of CLIP and needs its weights"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_exit_2(
    micro: ModelConfig,
    write_folder: Write,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    if options[-1] == "edge-b":
        # Shrunk, since only its frozen CLIP matters here.
        from dedos_deploy import presets

        presets.PRESETS["edge-b"], kept = (
            replace(micro, preset="edge-b", clip_tune="none"),
            presets.PRESETS["edge-b"],
        )
        try:
            code = main(command(write_folder(), tmp_path / "run", *options))
        finally:
            presets.PRESETS["edge-b"] = kept
    else:
        code = main(command(write_folder(), tmp_path / "run", *options))
    captured = capfd.readouterr()
    assert code == 2 and captured.out == ""
    assert message in captured.err and captured.err.count("\n") == 1


def test_a_share_that_is_no_number_is_named(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_folder()
    assert main(command(Path(f"{root}=often"), tmp_path / "run")) == 2
    assert "data share 'often'" in capfd.readouterr().err
    assert main(command(Path(f"{root}=2"), tmp_path / "run")) == 0


def test_a_checkpoint_of_another_preset_is_refused(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, build_model(replace(micro, preset="tiny")))
    assert main(command(write_folder(), tmp_path / "run", "--init", str(path))) == 2
    assert "is of preset 'tiny', not 'micro'" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_and_exit_with_130(
    micro: ModelConfig,
    write_folder: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    from dedos_deploy.cli import train

    def interrupt(self: object, report: StepReport) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(train._Progress, "on_step", interrupt)
    assert main(command(write_folder(), tmp_path / "run")) == 130
    with safe_open(tmp_path / "run" / STATE, framework="pt") as file:
        assert json.loads(file.metadata()["record"])["step"] == 1


def test_help_needs_nothing_heavy() -> None:
    program = (
        "import sys\nfrom dedos_deploy.cli.train import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'cv2', 'tqdm', 'open_clip'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--minutes" in done.stdout and "examples:" in done.stdout
