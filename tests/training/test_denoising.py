"""The chain of Eq. 6-9, the running mean, and the file that keeps all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from denoiser import CHANNELS, TinyDenoiser
from micro import micro_config
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import Dedos, build_model
from dedos_deploy.training.denoising import (
    FORMAT,
    DenoisingLearning,
    LearningSource,
    clip_pair,
    load_learning,
    save_learning,
)

Array = NDArray[np.float64]

SOURCE = LearningSource({"model": "tiny", "timesteps": [200, 100, 50]}, "tiny")


def f64(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


@pytest.fixture
def model() -> Dedos:
    """Every parameter of the model counts, the refinement's too, which starts as the identity."""
    model = build_model(micro_config(), seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture
def learning() -> DenoisingLearning:
    torch.manual_seed(0)
    return DenoisingLearning(micro_config(), CHANNELS, steps=3)


def images(seed: int = 0, size_hw: tuple[int, int] = (32, 40), batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, *size_hw, 3), generator=generator, dtype=torch.uint8)


def features(x: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    denoiser = TinyDenoiser()
    return denoiser.denoise(denoiser.encode(x)).features


def test_eq6_to_8_around_the_reader(model: Dedos, learning: DenoisingLearning) -> None:
    x = images()
    learned = learning(model, features(x))
    proxy = model.proxy_queries
    basic, kernels = f64(proxy.basic_kernel), f64(proxy.diffusion_kernels)
    (n1, c1), (n2, c2) = basic.shape, kernels.shape[1:]
    stages = np.zeros((3, n1 * n2, c1 * c2))
    for t, a, b, c, d in np.ndindex(3, n1, c1, n2, c2):
        stages[t, a * n2 + c, b * c2 + d] = basic[a, b] * kernels[t, c, d]
    read = learning.reader(torch.from_numpy(stages).float(), features(x))
    torch.testing.assert_close(learned.stages, read)
    weight, bias = f64(proxy.aggregate.weight), f64(proxy.aggregate.bias)
    for image, query in np.ndindex(2, n1 * n2):
        steps = [f64(read[image, t, query]) for t in range(3)]
        largest = [max(s[i] for s in steps) for i in range(len(steps[0]))]
        mean = sum(steps) / 3
        expected = weight @ np.concatenate([largest, mean, *steps]) + bias
        np.testing.assert_allclose(f64(learned.queries[image, query]), expected, atol=1e-4)
    assert learned.consistency is None


def test_eq9_is_clip_without_refinement(model: Dedos) -> None:
    x_b, x_a = images(0), images(1)
    before, after, grid_hw = clip_pair(model, x_b, x_a, (1, 3))
    plain = build_model(replace(model.config, refine_blocks=()))
    plain.load_state_dict(model.state_dict())
    assert grid_hw == (4, 5)
    assert not any(tokens.requires_grad for tokens in before + after)
    for x, found in ((x_b, before), (x_a, after)):
        expected = plain.trunk(
            x, plain.refinement, plain.refinement.q_hat(plain.proxy_queries()), (1, 3)
        )
        for layer, tokens in zip(found, expected, strict=True):
            torch.testing.assert_close(layer, tokens)
    refined = model.trunk(
        x_b, model.refinement, model.refinement.q_hat(model.proxy_queries()), (1, 3)
    )
    assert not torch.allclose(before[1], refined[1], atol=1e-2)


def test_images_of_any_size_meet_the_patch_of_clip(model: Dedos) -> None:
    x_b, x_a = images(0, (37, 51)), images(0, (64, 64))
    before, after, grid_hw = clip_pair(model, x_b, x_a, (0,))
    assert grid_hw == (5, 6) and before[0].shape == after[0].shape == (2, 30, 16)


def test_consistency_teaches_everything_but_clip(model: Dedos, learning: DenoisingLearning) -> None:
    model.requires_grad_(True)
    x = images()
    learned = learning(model, features(x), x, images(7))
    assert learned.consistency is not None and learned.consistency.shape == (2,)
    learned.consistency.mean().backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None}
    assert taught == {
        f"proxy_queries.{name}"
        for name in ("basic_kernel", "diffusion_kernels", "aggregate.weight", "aggregate.bias")
    }
    for name, parameter in learning.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_separation_can_be_left_out(model: Dedos) -> None:
    learning = DenoisingLearning(micro_config(), CHANNELS, steps=3, separation=False)
    x = images()
    assert learning(model, features(x), x, x).consistency is None
    assert not any("texture" in name for name in learning.state_dict())


def test_autocast_changes_little(model: Dedos, learning: DenoisingLearning) -> None:
    x, y = images(), images(7)
    exact = learning(model, features(x), x, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = learning(model, features(x), x, y)
    assert found.stages.dtype == found.consistency.dtype == torch.float32
    torch.testing.assert_close(found.stages, exact.stages, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(found.consistency, exact.consistency, atol=5e-3, rtol=5e-2)


def test_running_mean_equals_its_closed_form(learning: DenoisingLearning) -> None:
    learning.ema = 0.6
    series = [torch.randn(4, *learning.stage_mean.shape) for _ in range(30)]
    for stages in series:
        learning.update_mean(stages)
    keeps = [min(0.6, update / (update + 9)) for update in range(30)]
    weights = [(1 - keep) * np.prod(keeps[update + 1 :]) for update, keep in enumerate(keeps)]
    assert sum(weights) == pytest.approx(1.0) and 0.6 in keeps
    expected = sum(w * f64(s).mean(0) for w, s in zip(weights, series, strict=True))
    np.testing.assert_allclose(f64(learning.stage_mean), expected, atol=1e-5)
    assert int(learning.count) == 30


def test_running_mean_takes_a_batch_or_its_mean(learning: DenoisingLearning) -> None:
    stages = torch.randn(4, *learning.stage_mean.shape, requires_grad=True)
    learning.update_mean(stages)
    torch.testing.assert_close(learning.stage_mean, stages.mean(0))
    assert not learning.stage_mean.requires_grad
    other = DenoisingLearning(micro_config(), CHANNELS, steps=3)
    other.update_mean(stages.mean(0))
    torch.testing.assert_close(other.stage_mean, learning.stage_mean)


def test_live_bank_and_its_gradients(model: Dedos, learning: DenoisingLearning) -> None:
    model.requires_grad_(True)
    proxy = model.proxy_queries
    torch.testing.assert_close(learning.bank_queries(model, "static"), proxy())
    # Nothing was denoised yet, so the mean of the denoised queries is that of the kernels.
    torch.testing.assert_close(learning.bank_queries(model, "ema"), proxy())
    learning.update_mean(torch.randn(3, 6, 16))
    live = learning.bank_queries(model, "ema")
    torch.testing.assert_close(live, proxy.global_queries(learning.stage_mean))
    live.sum().backward()
    assert proxy.aggregate.weight.grad is not None and proxy.basic_kernel.grad is None
    learning.bank_queries(model, "static").sum().backward()
    assert proxy.basic_kernel.grad is not None


def test_steps_must_be_those_of_the_model() -> None:
    with pytest.raises(BadInputError, match="2 timesteps .* micro has 3 .* give 3 timesteps"):
        DenoisingLearning(micro_config(), CHANNELS, steps=2)


def test_learning_comes_back_as_it_was(
    tmp_path: Path, model: Dedos, learning: DenoisingLearning
) -> None:
    learning.update_mean(torch.randn(3, 6, 16))
    save_learning(tmp_path / "learning.safetensors", learning, SOURCE)
    loaded, source = load_learning(tmp_path / "learning.safetensors")
    assert source == SOURCE and loaded.config == learning.config and not loaded.training
    assert int(loaded.count) == 1 and loaded.ema == learning.ema
    x = images()
    torch.testing.assert_close(
        loaded(model, features(x)).queries, learning(model, features(x)).queries
    )
    assert [path.name for path in tmp_path.iterdir()] == ["learning.safetensors"]


@pytest.mark.parametrize("mask_map", ["gate", "random", "none"])
def test_variants_come_back(tmp_path: Path, mask_map: str) -> None:
    learning = DenoisingLearning(
        micro_config(),
        CHANNELS,
        steps=3,
        mask_map=mask_map,
        separation=False,
        ema=0.9,  # type: ignore[arg-type]
    )
    save_learning(tmp_path / "l.safetensors", learning, SOURCE)
    loaded, _ = load_learning(tmp_path / "l.safetensors")
    assert (loaded.reader.mask_map, loaded.texture, loaded.ema) == (mask_map, None, 0.9)


def rewritten(path: Path, learning: DenoisingLearning, change: dict[str, object]) -> None:
    """Save, then change keys of the header's record."""
    save_learning(path, learning, SOURCE)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["learning"])
    record.update(change)
    save_file(load_file(path), path, metadata={"format": FORMAT, "learning": json.dumps(record)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_map": "gated"}, "damaged header .field 'mask_map' must be .*, not 'gated'"),
        ({"more": 1}, "damaged header .unknown key 'more'"),
        ({"config": {}}, "damaged header"),
        ({"source": {"model": "x"}}, "damaged header"),
        ({"channels": [6, 10, "7"]}, "damaged header .field 'channels.2.' must be a whole number"),
        ({"channels": [6, 10, 0]}, "damaged header .channels must be positive"),
        ({"channels": [2**30] * 3}, "it needs .* numbers at least, the file holds"),
        ({"more": "x" * 70_000, "x" * 70_000: 1}, "damaged header .{1,300}$"),
        ({"channels": [6, 10, 7]}, "does not fit its own header .*reader.layers.2"),
    ],
)
def test_a_changed_header_is_refused(
    tmp_path: Path, learning: DenoisingLearning, change: dict[str, object], message: str
) -> None:
    rewritten(tmp_path / "l.safetensors", learning, change)
    with pytest.raises(BadInputError, match=message):
        load_learning(tmp_path / "l.safetensors")


def test_other_files_are_refused(tmp_path: Path, learning: DenoisingLearning) -> None:
    path = tmp_path / "l.safetensors"
    with pytest.raises(BadInputError, match="does not exist; a run with --diffusion writes it"):
        load_learning(path)
    path.write_bytes(b"not a tensor file")
    with pytest.raises(BadInputError, match="not a readable safetensors file"):
        load_learning(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"format": "other"})
    with pytest.raises(BadInputError, match="format 'other', expected 'dedos-learning-1'"):
        load_learning(path)
    with pytest.raises(BadInputError, match="cannot write .* make room or choose another folder"):
        save_learning(path / "below", learning, SOURCE)


def test_the_deployed_model_knows_nothing_of_it(model: Dedos, learning: DenoisingLearning) -> None:
    """Reader and separation never enter what is shipped, nor a checkpoint made for it."""
    before = set(model.state_dict())
    learning(model, features(images()), images(), images(7))
    assert set(model.state_dict()) == before
