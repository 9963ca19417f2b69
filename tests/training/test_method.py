"""The method inside the trainer: Eq. 16, what a step reads, Table 3's switches, dry run."""

from __future__ import annotations

import itertools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import Write
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_diffusion import write_tiny_diffusion

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.model import build_model, load_checkpoint, save_checkpoint
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.components import (
    COMPONENTS,
    CONTROLS,
    TABLE3,
    Component,
    config_for,
    timesteps_for,
)
from dedos_deploy.training.data import Batch
from dedos_deploy.training.diffusion.walk import DiffusionSettings, load_diffusion
from dedos_deploy.training.failure import FAILED, DivergedError
from dedos_deploy.training.loop import CHECKPOINT, LEARNING, STATE, Trainer
from dedos_deploy.training.losses import Outputs, segmentation_loss
from dedos_deploy.training.settings import TrainSettings, settings_for


class Quiet:
    def on_step(self, report: object) -> None: ...

    def on_evaluation(self, result: object) -> None: ...


class StopAfter(Quiet):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step(self, report: object) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diffusion(tmp_path_factory.mktemp("sd") / "tiny")


def settings(root: Path, diffusion: Path | None, **changes: object) -> TrainSettings:
    values: dict[str, object] = {
        "steps": 4,
        "batch": 2,
        "workers": 0,
        "device": "cpu",
        "eval_minutes": 0.0,
        "amp": False,
        "ema": 0.0,
        "diffusion": str(diffusion) if diffusion else None,
        "diffusion_hw": (32, 32) if diffusion else None,
    }
    return settings_for("micro", (str(root),), **{**values, **changes})


def first(trainer: Trainer) -> Batch:
    batch = trainer.stream[0]
    assert isinstance(batch, Batch)
    return batch


def test_the_total_is_the_segmentation_loss_plus_gamma_times_consistency(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    trainer = Trainer(settings(write_folder(), diffusion, gamma=0.3), tmp_path / "run")
    batch, objective = first(trainer), trainer.objective
    totals = objective.totals(batch)
    loss = objective(batch, totals, denoise=True, seed=0)
    learning, walker = objective.learning, objective.walker
    assert learning is not None and walker is not None
    walked = walker(batch, 0)
    learned = learning(trainer.training.model, walked.features, walked.before, walked.after)
    text = trainer.embeddings(batch.slots)
    found = trainer.training.model.predict(
        batch.images, text, torch.ones(len(text)), learned.queries
    )
    outputs = Outputs(
        (*found.auxiliary, (found.class_logits, found.mask_logits)), found.dense_logits
    )
    seg, _ = segmentation_loss(outputs, batch.labels, batch.annotated, trainer.settings.loss)
    assert learned.consistency is not None
    expected = float(seg.detach()) + 0.3 * float(learned.consistency.detach().mean())
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(loss.terms["consist"]) == pytest.approx(float(learned.consistency.detach().mean()))


def gradients(trainer: Trainer, *, denoise: bool) -> set[str]:
    batch = first(trainer)
    objective = trainer.objective
    objective(batch, objective.totals(batch), denoise=denoise, seed=0).total.backward()
    training = trainer.training
    named = dict(training.model.named_parameters())
    if training.learning is not None:
        named |= dict(training.learning.named_parameters(prefix="learning"))
    return {n for n, p in named.items() if p.grad is not None and bool(p.grad.abs().sum() > 0)}


def test_a_denoising_step_teaches_kernels_reader_and_heads_but_not_the_diffusion(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    trainer = Trainer(settings(write_folder(), diffusion), tmp_path / "run")
    # P^F starts as plain CLIP, so the MLP before it gets its first gradient in the second step.
    moved = gradients(trainer, denoise=True)
    wanted = {
        "proxy_queries.basic_kernel",
        "proxy_queries.diffusion_kernels",
        "proxy_queries.aggregate.weight",
        "refinement.fuse.weight",
        "learning.reader.layers.0.query.weight",
        "learning.reader.layers.4.move.weight",
        "learning.reader.layers.0.gate.weight",
        "learning.texture.project_queries.weight",
        "learning.texture.project_features.weight",
        "text_aggregation.class_embedding.weight",
    }
    assert wanted <= moved
    walker = trainer.objective.walker
    assert walker is not None
    frozen = {id(p) for p in walker.diffusion.parameters()}
    groups = trainer.training.optimizer.param_groups
    assert not frozen & {id(p) for group in groups for p in group["params"]}


def test_a_bank_step_leaves_the_reader_alone(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    trainer = Trainer(settings(write_folder(), diffusion, bank="static"), tmp_path / "run")
    moved = gradients(trainer, denoise=False)
    assert "proxy_queries.basic_kernel" in moved
    assert not any(name.startswith("learning.") for name in moved)


def test_bank_drop_decides_how_often_the_diffusion_is_read(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    root = write_folder()
    for drop, low, high in ((0.0, 400, 400), (0.5, 160, 240), (1.0, 0, 0)):
        trainer = Trainer(settings(root, diffusion, bank_drop=drop), tmp_path / f"run{drop}")
        reads = [trainer.objective.reads_diffusion(step) for step in range(400)]
        assert low <= sum(reads) <= high
        assert reads == [trainer.objective.reads_diffusion(step) for step in range(400)]


def test_a_run_with_diffusion_writes_all_and_resumes_exactly(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    root = write_folder()
    cache = str(tmp_path / "cache")
    chosen = settings(root, diffusion, ema=0.9, diffusion_cache=cache, steps=6)
    Trainer(chosen, tmp_path / "whole").train(Quiet())
    with pytest.raises(KeyboardInterrupt):
        Trainer(chosen, tmp_path / "parts").train(StopAfter(3))
    Trainer(chosen, tmp_path / "parts", resume=True).train(Quiet())
    for name in (STATE, LEARNING, CHECKPOINT):
        expected = load_file(tmp_path / "whole" / name)
        found = load_file(tmp_path / "parts" / name)
        assert expected.keys() == found.keys()
        assert not any("vae." in key or "unet." in key for key in found)
        for key, value in expected.items():
            assert torch.equal(value, found[key]), key
    model, record = load_checkpoint(tmp_path / "whole" / CHECKPOINT)
    assert model.proxy_queries.fill == "ema" and record["settings"]["component"] == "V"
    assert list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_run_goes_on_with_the_same_diffusion_wherever_it_lies(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    root = write_folder()
    Trainer(settings(root, diffusion, steps=1), tmp_path / "run").train(Quiet())
    moved = write_tiny_diffusion(tmp_path / "moved")
    trainer = Trainer(settings(root, moved, steps=2), tmp_path / "run", resume=True)
    assert trainer.training.step == 1
    other = write_tiny_diffusion(tmp_path / "other", seed=1)
    for teacher, name in ((other, "the diffusion model"), (None, "no diffusion model")):
        with pytest.raises(BadInputError, match=rf"reads the diffusion model \w{{12}}, not {name}"):
            Trainer(settings(root, teacher, steps=2), tmp_path / "run", resume=True)


def test_a_failed_step_keeps_every_micro_batch(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    trainer = Trainer(settings(write_folder(), diffusion, micro_batch=1), tmp_path / "run")
    with torch.no_grad():
        trainer.training.model.mask_features.out.bias.fill_(float("nan"))
    with pytest.raises(DivergedError, match="step 0 has loss nan"):
        trainer.train(Quiet())
    kept = load_file(tmp_path / "run" / FAILED)
    for number in range(2):
        batch = trainer.stream[number]
        assert isinstance(batch, Batch) and batch.whole is not None
        assert torch.equal(kept[f"{number}.images"], batch.images)
        assert torch.equal(kept[f"{number}.whole"], batch.whole)
    with safe_open(tmp_path / "run" / FAILED, framework="pt") as file:
        assert len(json.loads(file.metadata()["words"])) == 2


# The two left out have (V)'s graph; what they read, or that they read nothing, is tested elsewhere, as
# are other uses of the diffusion.
@pytest.mark.parametrize("component", sorted({*TABLE3, *CONTROLS} - {"V0", "V-shuffled"}))
def test_each_component_trains_and_exports_its_own_graph(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path, component: Component
) -> None:
    teacher = diffusion if COMPONENTS[component].walks else None
    drop = 0.0 if COMPONENTS[component].learns else None
    chosen = settings(write_folder(), teacher, component=component, bank_drop=drop, steps=1)
    trainer = Trainer(chosen, tmp_path / "run")
    terms: dict[str, float] = {}

    class Keep(Quiet):
        def on_step(self, report: object) -> None:
            terms.update(report.terms)  # type: ignore[attr-defined]

    trainer.train(Keep())
    model, _ = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert ("consist" in terms) == COMPONENTS[component].separation
    assert bool(model.config.refine_blocks) == COMPONENTS[component].queries
    assert (model.config.text_blocks > 0) == COMPONENTS[component].text
    assert model.config.steps == (3 if COMPONENTS[component].progressive else 1)
    scores = model(first(trainer).images, trainer.embeddings((0, 1)), torch.ones(2))
    assert scores.isfinite().all() and scores.shape[1] == 2


def test_components_differ_by_one_part_each() -> None:
    rows = [COMPONENTS[component] for component in TABLE3]
    for earlier, later in itertools.pairwise(rows):
        changed = [name for name in vars(earlier) if getattr(earlier, name) != getattr(later, name)]
        assert len(changed) == 1 and getattr(later, changed[0])
    for control in CONTROLS:
        assert COMPONENTS[control].reads != "features" and COMPONENTS[control].text
    assert timesteps_for("II", (50, 100, 200)) == (100,)


def test_undecomposed_queries_are_one_free_matrix(micro: ModelConfig) -> None:
    config = config_for(micro, "II", 3)
    stages = build_model(config).proxy_queries.stage_queries()
    assert stages.shape == (1, micro.queries, micro.query_width)
    assert torch.linalg.matrix_rank(stages[0]) == min(stages.shape[1:])


def test_clip_alone_is_taken_from_a_checkpoint(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    path = tmp_path / "clip.safetensors"
    source = build_model(micro, seed=7)
    save_checkpoint(path, source)
    chosen = settings(write_folder(), None, component="III", clip_weights=str(path))
    model = Trainer(chosen, tmp_path / "run").training.model
    for name, value in model.state_dict().items():
        same = torch.equal(value, source.state_dict().get(name, torch.zeros(0)))
        assert same or not name.startswith(("trunk.", "text_tower."))
    fresh = build_model(config_for(micro, "III", 3), seed=0)
    assert torch.equal(model.mask_decoder.place, fresh.mask_decoder.place)
    with pytest.raises(BadInputError, match="take only its CLIP with --clip-weights"):
        Trainer(replace(chosen, clip_weights=None, init=str(path)), tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"component": "I"}, "component I is the baseline without proxy queries"),
        ({"timesteps": (50, 100)}, r"2 timesteps"),
        ({"view": "crop", "diffusion_cache": "c"}, "a diffusion cache needs"),
        ({"bank_drop": 1.5}, r"bank_drop is 1.5, but a probability lies in \[0, 1\]"),
        ({"micro_batch": 3}, "micro_batch 3 does not divide batch 2"),
        ({"gamma": -1.0}, "gamma is -1.0, but must not be negative"),
    ],
)
def test_settings_that_contradict_are_named(
    micro: ModelConfig,
    write_folder: Write,
    tmp_path: Path,
    diffusion: Path,
    change: dict[str, object],
    message: str,
) -> None:
    if "timesteps" in change:
        trainer = Trainer(settings(write_folder(), diffusion, **change), tmp_path / "run")
        assert trainer.training.model.config.steps == 2
        return
    with pytest.raises(BadInputError, match=message):
        settings(write_folder(), diffusion, **change)


def test_the_crop_view_reads_the_crop(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    root = write_folder()
    whole = Trainer(settings(root, diffusion), tmp_path / "whole")
    crop = Trainer(settings(root, diffusion, view="crop"), tmp_path / "crop")
    assert first(whole).whole is not None and len(first(whole).keys) == 2
    assert first(crop).whole is None
    walked = crop.objective.walker
    assert walked is not None
    assert torch.equal(walked(first(crop), 0).before, first(crop).images)  # type: ignore[arg-type]


def test_dry_run_counts_parameters_and_paints_the_first_batch(
    micro: ModelConfig,
    write_folder: Write,
    tmp_path: Path,
    diffusion: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import cv2

    root = write_folder()
    command = [
        "--preset",
        "micro",
        "--data",
        str(root),
        "--output",
        str(tmp_path / "run"),
        "--batch",
        "2",
        "--steps",
        "2",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--diffusion",
        str(diffusion),
        "--diffusion-size",
        "32x32",
        "--dry-run",
    ]
    assert main(command) == 0
    shown = capfd.readouterr().out
    model = build_model(micro)
    trained = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("text_tower."))
    assert f"{trained / 1e6:.2f} M parameters" in shown
    picture = cv2.imread(str(tmp_path / "run" / "first_batch.png"))
    assert picture.shape[0] == 2 * 32 and not (tmp_path / "run" / STATE).exists()
    assert "activations" in shown


def test_samples_and_tensorboard_files_are_written(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    root = write_folder()
    for kind in ("images", "labels"):
        (root / kind / "val").symlink_to(root / kind / "train")
    chosen = settings(root, None, steps=10, tensorboard=True, samples=2)
    Trainer(chosen, tmp_path / "run").train(Quiet())
    assert (tmp_path / "run/samples/step_000010.png").is_file()
    events = list((tmp_path / "run/tensorboard").iterdir())
    assert len(events) == 1 and b"terms/dice" in events[0].read_bytes()
    line = json.loads((tmp_path / "run/log.jsonl").read_text())
    assert line["step"] == 10


def test_shuffled_features_are_those_of_the_picture_before(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    root = write_folder()
    plain = Trainer(settings(root, diffusion), tmp_path / "plain")
    mixed = Trainer(settings(root, diffusion, component="V-shuffled"), tmp_path / "mixed")
    batch = first(plain)
    assert plain.objective.walker is not None and mixed.objective.walker is not None
    own, other = plain.objective.walker(batch, 0), mixed.objective.walker(batch, 0)
    for mine, swapped in zip(own.features[0], other.features[0], strict=True):
        assert torch.equal(mine.flip(0), swapped) and not torch.equal(mine, swapped)
    assert own.after is not None and other.after is not None
    assert torch.equal(own.after, other.after)


def test_a_random_noise_predictor_keeps_the_autoencoder(diffusion: Path) -> None:
    chosen = DiffusionSettings(str(diffusion), size_hw=(32, 32))
    known, random, again = (
        load_diffusion(replace(chosen, random=value)) for value in (False, True, True)
    )
    images = torch.randint(0, 255, (1, 32, 32, 3), dtype=torch.uint8)
    code = known.encode(images)
    assert torch.equal(code, random.encode(images))
    features = [m.denoise(code).features[0][0] for m in (known, random, again)]
    assert torch.equal(features[1], features[2]) and not torch.allclose(features[0], features[1])
    assert known.fingerprint != random.fingerprint == again.fingerprint


def test_the_oracle_reads_the_labels(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    root = write_folder(words=("sky", "road", "car"))
    trainer = Trainer(settings(root, None, component="oracle", drop_words=0.0), tmp_path / "run")
    batch, walker = first(trainer), trainer.objective.walker
    assert walker is not None and trainer.training.learning is not None
    (maps,) = walker(batch, 0).features[0]
    assert maps.shape == (2, 3, 8, 8) and len(walker(batch, 0).features) == 3
    for slot, word in enumerate(batch.slots):
        expected = (batch.labels == slot).float().reshape(2, 8, 4, 8, 4).mean((2, 4))
        assert torch.allclose(maps[:, word], expected)
    assert {name.split(".")[1] for name in gradients(trainer, denoise=True) if "reader" in name}


@pytest.mark.parametrize(
    ("component", "changes", "told"),
    [
        ("V0", {}, "V0 is a control that reads no diffusion"),
        ("oracle", {}, "oracle is a control that reads no diffusion"),
        ("V-random", {}, "V-random is a control for what --diffusion tells"),
        ("V-shuffled", {"micro_batch": 1}, "another picture of the micro-batch, which has 1"),
    ],
)
def test_controls_refuse_what_they_cannot_be(
    micro: ModelConfig,
    write_folder: Write,
    diffusion: Path,
    component: str,
    changes: dict[str, object],
    told: str,
) -> None:
    teacher = None if component == "V-random" else diffusion
    with pytest.raises(BadInputError, match=told):
        settings(write_folder(), teacher, component=component, **changes)
