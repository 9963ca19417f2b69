"""Orthogonal steps: against the singular value decomposition, and AdamW left as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import Recorder

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import build_model
from dedos_deploy.model.tuned_clip import choose_trained
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training import muon
from dedos_deploy.training.loop import Trainer
from dedos_deploy.training.muon import MuonAdamW, orthogonal
from dedos_deploy.training.optimizer import build_optimizer
from dedos_deploy.training.settings import settings_for


@pytest.mark.parametrize("shape", [(12, 12), (8, 40), (40, 8)])
def test_steps_have_the_singular_vectors_of_the_gradient(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    inner = left.T @ orthogonal(matrix).double().numpy() @ right.T
    assert inner == pytest.approx(np.diag(inner.diagonal()), abs=1e-5)
    assert inner.diagonal().min() > 0.6 and inner.diagonal().max() < 1.3


def test_the_scale_of_a_gradient_does_not_matter() -> None:
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(orthogonal(1e4 * matrix), orthogonal(1e-4 * matrix), atol=1e-5)
    assert torch.equal(orthogonal(torch.zeros(3, 4)), torch.zeros(3, 4))


def step_once(values: list[torch.Tensor], muon: bool, decay: float = 0.0) -> list[torch.Tensor]:
    parameters = [torch.nn.Parameter(value.clone()) for value in values]
    group = {"params": parameters, "lr": 0.1, "weight_decay": decay, "muon": muon}
    optimizer = MuonAdamW([group])
    for index, parameter in enumerate(parameters):
        parameter.grad = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(index)
        )
    optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_a_step_is_as_large_as_adamws() -> None:
    start = [torch.zeros(24, 24)]
    sizes = [float(step_once(start, muon)[0].square().mean().sqrt()) for muon in (False, True)]
    assert sizes[0] == pytest.approx(0.1, rel=0.01)  # Adam's first step has size lr everywhere
    assert 0.1 * 0.2 * 0.7 < sizes[1] < 0.1 * 0.2 * 1.2


def test_query_key_and_value_are_stepped_apart() -> None:
    fused = torch.zeros(12, 4)
    together = step_once([fused], True)[0]
    gradient = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    for index in range(3):
        rows = slice(4 * index, 4 * index + 4)
        expected = -0.1 * 0.2 * 2 * orthogonal(gradient[rows])
        assert torch.allclose(together[rows], expected, atol=1e-6)


def test_steps_are_torchs_own() -> None:
    """torch.optim.Muon (2.9 and later) takes matrices alone, whole, with bfloat16 products."""
    own = vars(torch.optim).get("Muon")
    if own is None:
        pytest.skip("torch before 2.9 has no Muon")
    start = torch.randn(12, 20, generator=torch.Generator().manual_seed(3))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    group = {"params": [ours], "lr": 0.1, "weight_decay": 0.0, "muon": True, "betas": (0.9, 0.999)}
    pair = (
        MuonAdamW([group], half=True),
        own([theirs], lr=0.1, momentum=0.9, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(3):
        gradient = torch.randn(12, 20, generator=torch.Generator().manual_seed(step))
        for parameter, optimizer in zip((ours, theirs), pair, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = float((theirs - start).norm().detach())
    assert float((ours - theirs).norm().detach()) < 0.03 * moved


def test_decay_shrinks_and_other_groups_take_adamws_step() -> None:
    start = [torch.ones(5, 5)]
    plain, decayed = step_once(start, True)[0], step_once(start, True, decay=0.5)[0]
    assert torch.allclose(plain - decayed, torch.full((5, 5), 0.05), atol=1e-6)
    parameter = torch.nn.Parameter(torch.ones(5, 5))
    adamw = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5)
    parameter.grad = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    adamw.step()
    assert torch.allclose(step_once(start, False, decay=0.5)[0], parameter.detach(), atol=1e-6)


def test_a_convolution_is_a_matrix_of_kernels_whatever_its_memory_order() -> None:
    start = torch.zeros(6, 4, 3, 3)
    gradient = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    move = orthogonal(gradient.flatten(1)).view(6, 4, 3, 3)
    expected = -0.1 * 0.2 * 36**0.5 * move
    for layout in (torch.contiguous_format, torch.channels_last):
        found = step_once([start.contiguous(memory_format=layout)], True)[0]
        assert torch.allclose(found, expected, atol=1e-6)


def test_token_maps_alone_take_orthogonal_steps(micro: ModelConfig) -> None:
    model = build_model(micro)
    settings = settings_for("micro", ("x",), lr=1e-3, backbone_lr=1e-4, muon=0.01)
    choose_trained(model, tune_text=False)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {
        names[id(p)]: group["lr"]
        for group in build_optimizer(model, settings).param_groups
        for p in group["params"]
        if group["muon"]
    }
    assert rates["trunk.blocks.0.qkv.weight"] == pytest.approx(
        1e-3
    )  # a tenth, as backbone_lr of lr
    decoder = {rate for name, rate in rates.items() if not name.startswith("trunk.")}
    assert decoder == {0.01}
    kept = [name for name in rates if name.rpartition(".")[2] in ("place", "table", "bias", "cls")]
    assert not kept and not [
        n for n in rates if n.startswith(("proxy", "refine", "trunk.position"))
    ]
    assert "trunk.patch_embedding.conv.weight" not in rates
    plain = build_optimizer(model, settings_for("micro", ("x",), muon=0.0))
    assert not any(group["muon"] for group in plain.param_groups)


def test_a_run_with_orthogonal_steps_resumes_exactly(
    micro: ModelConfig, write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    settings = settings_for(
        "micro",
        (str(write_folder()),),
        steps=5,
        batch=2,
        workers=0,
        threads=1,
        warmup=2,
        eval_minutes=0.0,
        device="cpu",
        muon=0.01,
    )
    whole, first, second = Recorder(), Recorder(stop_after=2), Recorder()
    Trainer(settings, tmp_path / "whole").train(whole)
    with pytest.raises(KeyboardInterrupt):
        Trainer(settings, tmp_path / "parts").train(first)
    Trainer(settings, tmp_path / "parts", resume=True).train(second)
    assert first.losses + second.losses == whole.losses
    with pytest.raises(BadInputError, match="muon is -1, but must not be negative"):
        settings_for("micro", ("x",), muon=-1)


def test_a_rate_of_zero_keeps_moments_and_spares_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for rate in (0.0, 0.1):
        torch.manual_seed(0)
        matrix = torch.nn.Parameter(torch.randn(8, 8))
        before = matrix.detach().clone()
        group = {"params": [matrix], "lr": rate, "peak_lr": rate, "weight_decay": 0.1, "muon": True}
        optimizer = MuonAdamW([{**group, "betas": (0.95, 0.999)}])
        if not rate:
            monkeypatch.setattr(muon, "orthogonal", lambda *_, **__: pytest.fail("it was made"))
        for seed in (1, 2):
            torch.manual_seed(seed)
            matrix.grad = torch.randn(8, 8)
            optimizer.step()
        monkeypatch.undo()
        assert torch.equal(matrix, before) == (not rate)
        found.append(optimizer.moments([("m", matrix)]))
    assert found[0].keys() == found[1].keys() >= {"m/step", "m/exp_avg"}
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
