"""Other uses of the diffusion: what each loss is, what it teaches, what is refused, and the regimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro import Recorder, Write, micro_config
from safetensors.torch import load_file
from tiny_diffusion import write_tiny_diffusion
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import build_model, freeze, load_checkpoint
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.components import (
    COMPONENTS,
    TABLE3,
    USES,
    Component,
    config_for,
)
from dedos_deploy.training.data import Batch
from dedos_deploy.training.denoising import DenoisingLearning
from dedos_deploy.training.distillation import distillation_loss
from dedos_deploy.training.loop import CHECKPOINT, LEARNING, STATE, Trainer
from dedos_deploy.training.prediction import FeaturePrediction
from dedos_deploy.training.settings import TrainSettings, settings_for

SETS = 3


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diffusion(tmp_path_factory.mktemp("sd") / "tiny")


def settings(
    root: Path, diffusion: Path | None, component: Component, **changes: object
) -> TrainSettings:
    values: dict[str, object] = {
        "steps": 4,
        "batch": 2,
        "workers": 0,
        "device": "cpu",
        "eval_minutes": 0.0,
        "amp": False,
        "ema": 0.9,
        "component": component,
        "diffusion": str(diffusion) if diffusion else None,
        "diffusion_hw": (32, 32) if diffusion else None,
        "view": "crop" if COMPONENTS[component].use == "predict" else None,
    }
    return settings_for("micro", (str(root),), **{**values, **changes})


def f64(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def test_every_use_has_a_control_with_its_parameters_and_no_diffusion() -> None:
    for use, control in USES.items():
        mine, other = COMPONENTS[use], COMPONENTS[control]
        assert mine.reads == "features" and other.reads in ("nothing", "random")
        assert mine.use == other.use != "read" and mine.text and other.text
        assert config_for(micro_config(), use, 3) == config_for(micro_config(), control, 3)
    assert all(COMPONENTS[row].use == "read" for row in TABLE3)


@pytest.mark.parametrize(("use", "control"), USES.items())
def test_a_control_differs_from_its_use_by_the_diffusion_alone(
    micro: ModelConfig,
    write_folder: Write,
    tmp_path: Path,
    diffusion: Path,
    use: Component,
    control: Component,
) -> None:
    """Under one seed: weights, also of what only training has, batches, and what of both (V0) has."""
    root, found = write_folder(), {}
    for row in (use, control, "V0"):
        reads = diffusion if COMPONENTS[row].walks else None
        found[row] = Trainer(settings(root, reads, row, seed=7), tmp_path / row)
    mine, other, plain = (found[row].training.model.state_dict() for row in (use, control, "V0"))
    assert mine.keys() == other.keys() >= plain.keys()
    assert all(torch.equal(value, other[name]) for name, value in mine.items())
    own = {"proxy_queries.basic_kernel", "proxy_queries.bank"} if use == "V-mixed" else set()
    assert own == {name for name, value in plain.items() if not torch.equal(value, mine[name])}
    heads = [found[row].training.learning for row in (use, control)]
    if heads[1] is not None:
        assert isinstance(heads[0], FeaturePrediction) and isinstance(heads[1], FeaturePrediction)
        both = zip(heads[0].parameters(), heads[1].parameters(), strict=True)
        assert all(torch.equal(one, another) for one, another in both)
    for step in range(3):
        seen = [found[row].stream[step] for row in (use, control, "V0")]
        for batch in seen:
            assert isinstance(batch, Batch)
            assert torch.equal(batch.images, seen[0].images) and batch.slots == seen[0].slots
            assert torch.equal(batch.labels, seen[0].labels)


# V-predict


def normed(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ f64(layer.weight).T + f64(layer.bias)


def test_the_loss_of_prediction_by_its_definition() -> None:
    from math import erf

    torch.manual_seed(1)
    head = FeaturePrediction(micro_config(), (6, 10))
    tokens = torch.randn(2, 8, 16)
    # Layer 0 has the grid of CLIP, 2 x 4; layer 1 half of it, to which the prediction is pooled.
    features = [(torch.randn(2, 6, 2, 4), torch.randn(2, 10, 1, 2)) for _ in range(3)]
    found = head(tokens, (2, 4), features)
    for picture in range(2):
        h = linear(head.hidden, normed(f64(tokens[picture])))
        h = (h * 0.5 * (1 + np.vectorize(erf)(h / np.sqrt(2)))).reshape(2, 4, -1)
        expected = 0.0
        for index, layer in enumerate(head.layers):
            maps = [f64(step[index][picture]).transpose(1, 2, 0) for step in features]
            wanted = np.mean([normed(one) for one in maps], 0)
            pooled = h if index == 0 else h.reshape(2, 2, 2, -1).mean((0, 2))[None]
            expected += ((linear(layer, pooled) - wanted) ** 2).mean() / 2
        assert float(found[picture].detach()) == pytest.approx(expected, rel=1e-5)


def trained(trainer: Trainer, *, denoise: bool) -> tuple[set[str], dict[str, Tensor]]:
    """Names of what gets a gradient, and the terms of the loss."""
    batch, objective, training = trainer.stream[0], trainer.objective, trainer.training
    assert isinstance(batch, Batch)
    loss = objective(batch, objective.totals(batch), denoise=denoise, seed=0)
    loss.total.backward()
    named = dict(training.model.named_parameters())
    if training.learning is not None:
        named |= dict(training.learning.named_parameters(prefix="learning"))
    moved = {n for n, p in named.items() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    return moved, loss.terms


def test_prediction_teaches_the_refinement_and_its_head_but_not_the_diffusion(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    root = write_folder()
    chosen = settings(root, diffusion, "V-predict", predict_weight=0.5)
    trainer = Trainer(chosen, tmp_path / "run")
    batch, model = trainer.stream[0], trainer.training.model
    assert isinstance(batch, Batch) and batch.whole is None
    head, walker = trainer.training.learning, trainer.objective.walker
    assert isinstance(head, FeaturePrediction) and walker is not None
    # The loss alone, without L_seg: f̂ reaches P^F, and the diffusion gets nothing.
    tokens = model.predict(batch.images, trainer.embeddings((0, 1)), torch.ones(2)).tokens
    walked = walker(batch, 0)
    head(tokens, (4, 4), walked.features).sum().backward()
    assert model.refinement.fuse.weight.grad is not None
    assert model.text_aggregation.class_embedding.weight.grad is None
    assert all(p.grad is None for p in walker.diffusion.parameters())
    model.zero_grad(set_to_none=True)
    moved, terms = trained(trainer, denoise=True)
    assert {"learning.hidden.weight", "learning.layers.4.bias", "refinement.fuse.weight"} <= moved
    objective = trainer.objective
    plain = objective(batch, objective.totals(batch), denoise=False, seed=0)
    assert "predict" not in plain.terms and set(plain.terms) < set(terms)
    whole = objective(batch, objective.totals(batch), denoise=True, seed=0)
    added = float(whole.total.detach()) - float(plain.total.detach())
    assert added == pytest.approx(0.5 * float(terms["predict"]), rel=1e-3)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what runs: operations by name, with the shapes that enter."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ran: list[tuple[str, tuple[tuple[int, ...], ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = tuple(tuple(arg.shape) for arg in args if isinstance(arg, Tensor))
        self.ran.append((str(func), shapes))
        return func(*args, **(kwargs or {}))


def test_prediction_leaves_nothing_in_the_graph(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    """What export traces is V0's frozen module: the same operations on the same shapes, no number more."""
    chosen = settings(write_folder(), diffusion, "V-predict", steps=1, bank_drop=0.0)
    Trainer(chosen, tmp_path / "run").train(Recorder())
    assert not (tmp_path / "run" / LEARNING).exists()
    model, _ = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    plain = build_model(config_for(micro, "V0", 3))
    inputs = (
        torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8),
        torch.nn.functional.normalize(torch.randn(4, 16), dim=-1),
        torch.ones(4),
    )
    ran, held = [], []
    for one in (model, plain):
        frozen = freeze(one, size_hw=(32, 32))
        held.append({name: tuple(value.shape) for name, value in frozen.state_dict().items()})
        with torch.no_grad(), Operations() as operations:
            frozen(*inputs)
        ran.append(operations.ran)
    assert ran[0] == ran[1] and len(ran[0]) > 100
    assert held[0] == held[1]


# V-clip


def test_the_loss_of_distillation_by_hand() -> None:
    wanted = torch.tensor([[[1.0, 2.0]], [[0.0, 4.0]]])
    start = torch.tensor([[0.0, 0.0]])
    read = [wanted / 2, wanted.clone(), torch.zeros(2, 1, 2)]
    # A quarter, nothing and all of the squared distance that the bank has.
    found = distillation_loss(read, wanted, start)
    torch.testing.assert_close(found, torch.full((2,), (0.25 + 0 + 1) / 3))
    # Where the bank is the denoised Q itself there is nothing to learn, and nothing infinite.
    assert torch.equal(distillation_loss([start[None]], start[None], start), torch.zeros(1))


def test_distillation_teaches_the_reader_of_clip_alone(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    trainer = Trainer(settings(write_folder(), diffusion, "V-clip"), tmp_path / "run")
    model, learning = trainer.training.model, trainer.training.learning
    batch, walker = trainer.stream[0], trainer.objective.walker
    assert isinstance(batch, Batch) and walker is not None
    assert isinstance(learning, DenoisingLearning)
    learning.update_mean(torch.randn_like(learning.stage_mean))
    bank = learning.bank_queries(model, "ema")
    denoised = learning(model, walker(batch, 0).features).queries
    text = trainer.embeddings((0, 1))
    found = model.predict(batch.images, text, torch.ones(2), denoised, bank)
    distillation_loss(found.read, denoised, bank).sum().backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None}
    assert moved == {n for n, _ in model.named_parameters() if n.startswith("picture_queries.")}
    assert all(p.grad is None for p in learning.parameters())
    model.zero_grad(set_to_none=True)
    # A step that reads: L_seg by the denoised queries; one that does not: by those that read CLIP.
    reading, terms = trained(trainer, denoise=True)
    assert 0 < float(terms["distil"]) < 3 and "learning.reader.layers.0.query.weight" in reading
    model.zero_grad(set_to_none=True)
    learning.zero_grad(set_to_none=True)
    banked, terms = trained(trainer, denoise=False)
    assert "distil" not in terms and "picture_queries.value.weight" in banked
    assert not any(name.startswith("learning.") for name in banked)


def test_a_reader_of_clip_learns_the_denoised_queries(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    """What is left of the distance to Q falls on the pictures it is taught with."""
    chosen = settings(write_folder(), diffusion, "V-clip", bank_drop=0.0)
    trainer = Trainer(chosen, tmp_path / "run")
    model, learning = trainer.training.model, trainer.training.learning
    batch, walker = trainer.stream[0], trainer.objective.walker
    assert isinstance(batch, Batch) and walker is not None
    assert isinstance(learning, DenoisingLearning)
    for layer in learning.reader.layers:
        torch.nn.init.normal_(layer.value.weight, std=0.5)
    with torch.no_grad():
        denoised = learning(model, walker(batch, 0).features).queries
    bank, text = denoised.mean(0) + 0.05, trainer.embeddings((0, 1))
    optimizer = torch.optim.Adam(model.picture_queries.parameters(), lr=0.02)  # type: ignore[union-attr]
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        found = model.predict(batch.images, text, torch.ones(2), denoised, bank)
        loss = distillation_loss(found.read, denoised, bank).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(1.0, abs=0.2) and losses[-1] < 0.5 * losses[0]


# V-mixed


def test_a_step_of_micro_batches_moves_the_same_means(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path
) -> None:
    root, found = write_folder(), []
    for micro_batch in (2, 1):
        chosen = settings(
            root,
            diffusion,
            "V-mixed",
            micro_batch=micro_batch,
            bank_drop=0.0,
            query_sets=SETS,
            steps=2,
        )
        trainer = Trainer(chosen, tmp_path / f"run{micro_batch}")
        trainer.train(Recorder())
        learning = trainer.training.learning
        assert isinstance(learning, DenoisingLearning) and int(learning.count) == 2
        found.append(learning.stage_mean)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-3)


# All of them


@pytest.mark.parametrize("component", USES)
def test_a_run_of_another_use_resumes_exactly(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, diffusion: Path, component: Component
) -> None:
    root = write_folder()
    chosen = settings(root, diffusion, component)
    Trainer(chosen, tmp_path / "whole").train(Recorder())
    with pytest.raises(KeyboardInterrupt):
        Trainer(chosen, tmp_path / "parts").train(Recorder(stop_after=2))
    Trainer(chosen, tmp_path / "parts", resume=True).train(Recorder())
    expected, found = (load_file(tmp_path / run / STATE) for run in ("whole", "parts"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert any(key.startswith("learning.") for key in expected)


@pytest.mark.parametrize("component", ["V0-mixed", "V0-clip"])
def test_controls_learn_the_same_parameters_from_masks_alone(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, component: Component
) -> None:
    trainer = Trainer(settings(write_folder(), None, component), tmp_path / "run")
    moved, _ = trained(trainer, denoise=False)
    wanted = {
        "V0-mixed": "picture_queries.logits.weight",
        "V0-clip": "picture_queries.value.weight",
    }
    # Banks reach the loss through P^F and the decoder; P^F starts as plain CLIP.
    assert {wanted[component], "proxy_queries.basic_kernel"} <= moved
    assert trainer.training.learning is None


Change = tuple[Component, bool, dict[str, object], str]
REFUSED: list[Change] = [
    ("V-predict", False, {}, "V-predict predicts the features of a diffusion; name one"),
    ("V-predict", True, {"view": "whole"}, "compares positions.*add --view crop"),
    ("V-predict", True, {"predict_weight": 0.0}, "predict_weight is 0.0, but must be more"),
    ("V-predict", True, {"mask_map": "none"}, "mask_map none has no effect: the queries of"),
    ("V", True, {"predict_weight": 2.0}, "predict_weight 2.0 has no effect: no head predicts"),
    ("V", True, {"distil_weight": 2.0}, "distil_weight 2.0 has no effect: no denoised queries"),
    ("V0-clip", False, {"distil_weight": 2.0}, "choose component V-clip with --diffusion"),
    ("V-clip", True, {"query_sets": 3}, "query_sets 3 has no effect: component V-clip has one"),
    ("V-mixed", True, {"query_sets": 1}, "query_sets is 1, but 2 to 64 banks"),
    ("V0-mixed", True, {}, "V0-mixed is a control that reads no diffusion"),
    ("V-predict-random", False, {}, "predicts the features of a diffusion"),
]


@pytest.mark.parametrize(("component", "reads", "changes", "told"), REFUSED)
def test_options_without_effect_are_refused(
    micro: ModelConfig,
    diffusion: Path,
    component: Component,
    reads: bool,
    changes: dict[str, object],
    told: str,
) -> None:
    with pytest.raises(BadInputError, match=told):
        settings(Path("data"), diffusion if reads else None, component, **changes)
