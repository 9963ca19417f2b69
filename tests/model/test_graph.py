"""Properties of the whole graph: folding, permutation, padding, batch, size, precision."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import Dedos, build_model, freeze
from dedos_deploy.model.blocks import LayerNorm, QuickGelu
from dedos_deploy.presets import PRESETS

from .conftest import frames, lively, micro_config, unit_rows

SIZE = (32, 48)

CANCELLED = ("cross.k.bias", "self_attention.k.bias", "evidence.bias")
"""A constant added to all logits of a softmax changes nothing but rounding."""

LAYOUTS = {
    "paper-l": "7eeee03c9e7ff516",
    "paper-b": "f66abbcd67a9a70b",
    "edge-l": "3c4f62ef1df4268a",
    "edge-b": "a9ca6a4fb8cea5cd",
    "nano": "06cce44d1006b27c",
    "miniature": "95a32256a356532e",
}
"""Start of the SHA-256 of every preset's state dict: keys, shapes and dtypes in their order."""

DRAWN = {
    "trunk": 90351.011,
    "text_tower": 125907.36,
    "proxy_queries": 1943.406,
    "refinement": 2013.368,
    "pixel_decoder": 10557.796,
    "cost_aggregation": 4803.137,
    "mask_features": 2122.653,
    "mask_decoder": 28699.404,
    "text_aggregation": 9032.281,
}
"""Sum of the absolute weights that seed 5 draws for each part of nano."""


def run(
    module: torch.nn.Module, image: Tensor, text: Tensor, valid: Tensor | None = None
) -> Tensor:
    with torch.no_grad():
        scores: Tensor = module(image, text, torch.ones(len(text)) if valid is None else valid)
    return scores


def spread(scores: Tensor) -> float:
    """How much the scores vary: a constant output would satisfy every equality below."""
    return float(scores.std())


@pytest.mark.parametrize("deformable", ["grid_sample", "gather"])
@pytest.mark.parametrize("size_hw", [SIZE, (40, 24)])
def test_frozen_graph_equals_the_model(
    model: Dedos, deformable: str, size_hw: tuple[int, int]
) -> None:
    image, text = frames(1, size_hw), unit_rows(5, 20)
    expected = run(model, image, text)
    frozen = freeze(model, size_hw=size_hw, deformable=deformable)  # type: ignore[arg-type]
    assert expected.shape == (1, 5, size_hw[0] // 4, size_hw[1] // 4)
    assert spread(expected) > 1e-3
    torch.testing.assert_close(run(frozen, image, text), expected, atol=2e-5, rtol=1e-4)


def test_freezing_leaves_the_model_alone(model: Dedos) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze(model, size_hw=SIZE, precision="fp16")
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name


def test_permuting_classes_permutes_scores(model: Dedos) -> None:
    image, text = frames(1, SIZE), unit_rows(7, 20)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    expected = run(model, image, text)[:, order]
    assert spread(expected) > 1e-3
    torch.testing.assert_close(run(model, image, text[order]), expected, atol=2e-5, rtol=1e-4)


def test_padding_slots_change_nothing_and_never_win(model: Dedos) -> None:
    image, text = frames(1, SIZE), unit_rows(5, 20)
    padded = torch.cat([text, unit_rows(11, 20, seed=9) * 3])
    valid = torch.cat([torch.ones(5), torch.zeros(11)])
    scores = run(model, image, padded, valid)
    torch.testing.assert_close(scores[:, :5], run(model, image, text), atol=2e-5, rtol=1e-4)
    assert torch.equal(scores[:, 5:], torch.zeros_like(scores[:, 5:]))


def test_batch_of_two_equals_two_of_one(model: Dedos) -> None:
    image, text = frames(2, SIZE), unit_rows(5, 20)
    both = run(model, image, text)
    assert float((both[0] - both[1]).abs().max()) > 1e-3
    for row in range(2):
        alone = run(model, image[row : row + 1], text)[0]
        torch.testing.assert_close(both[row], alone, atol=2e-5, rtol=1e-4)


def test_every_part_matters(model: Dedos) -> None:
    """Perturbing any shipped parameter moves the scores: nothing in the graph is decoration."""
    image, text = frames(1, SIZE), unit_rows(5, 20)
    frozen = freeze(model, size_hw=SIZE)
    reference = run(frozen, image, text)
    for name, parameter in frozen.named_parameters():
        if name.endswith(("position.cls", "k.bias")):  # a bias on keys shifts every logit alike
            continue
        kept = parameter.detach().clone()
        noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(1))
        parameter.data += 0.5 * noise
        assert not torch.equal(run(frozen, image, text), reference), name
        parameter.data.copy_(kept)


def test_half_graph_has_float32_islands_and_agrees(model: Dedos) -> None:
    image, text = frames(1, SIZE), unit_rows(5, 20)
    frozen = freeze(model, size_hw=SIZE, precision="fp16")
    for name, module in frozen.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            assert module.weight.dtype == torch.float16, name
        if isinstance(module, LayerNorm):
            assert module.weight.dtype == torch.float32, name
    scores = run(frozen, image, text)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, run(model, image, text), atol=2e-2, rtol=0)
    half = freeze(model, size_hw=SIZE, precision="fp16", score_dtype=torch.float16)
    # Half scores are what the graph computes: float32 ones are the same numbers in twice the bytes.
    assert model.half_scores and run(half, image, text).dtype == torch.float16
    assert torch.equal(run(half, image, text).float(), scores)


def test_quick_gelu_is_folded_into_the_products_around_it() -> None:
    """y σ(y) of y = 1.702 x, by weights that are rounded once, at the size of CLIP's outliers, too."""
    model = build_model(micro_config(refine_blocks=()), seed=3)
    block = model.trunk.blocks[0]
    x = torch.randn(1, 600, 24, generator=torch.Generator().manual_seed(4)) * 300
    folded = freeze(model, size_hw=SIZE).model.trunk.blocks[0]
    half = freeze(model, size_hw=SIZE, precision="fp16").model.trunk.blocks[0]
    assert not [one for one in folded.modules() if isinstance(one, QuickGelu)]
    with torch.no_grad():
        inner = block.fc(x)
        expected = block.proj(block.act(inner))
        assert inner.abs().max() > 300
        torch.testing.assert_close(
            folded.proj(folded.act(folded.fc(x))), expected, rtol=1e-5, atol=1e-3
        )
        found = half.proj(half.act(half.fc(x.half()))).float()
        plain = block.half()
        before = plain.proj(plain.act(plain.fc(x.half()))).float()
    # The largest error is chance; the mean square is not.
    errors = [(other - expected).square().mean() for other in (found, before)]
    assert errors[0] < 1.2 * errors[1], errors


def test_prediction_head_gives_the_deployed_scores(model: Dedos) -> None:
    image, text, valid = frames(2, SIZE), unit_rows(5, 20), torch.ones(5)
    with torch.no_grad():
        out = model.predict(image, text, valid)
    evidence = out.class_logits.sigmoid().transpose(1, 2) @ out.mask_logits.sigmoid().flatten(2)
    expected = evidence.clamp(max=1).reshape(2, 5, SIZE[0] // 4, SIZE[1] // 4)
    torch.testing.assert_close(run(model, image, text), expected, atol=2e-5, rtol=1e-4)
    assert len(out.auxiliary) == model.config.decoder_layers
    assert out.dense_logits is not None and out.dense_logits.shape == (2, 5, 4, 6)


def test_queries_given_per_image_are_used_per_image(model: Dedos) -> None:
    image, text, valid = frames(1, SIZE).expand(2, -1, -1, -1), unit_rows(5, 20), torch.ones(5)
    bank = model.proxy_queries()
    other = bank + torch.randn(bank.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mixed = model.predict(image, text, valid, torch.stack([bank, other]))
        plain = model.predict(image, text, valid)
    torch.testing.assert_close(mixed.mask_logits[0], plain.mask_logits[0], atol=2e-5, rtol=1e-4)
    assert float((mixed.mask_logits[1] - plain.mask_logits[1]).abs().max()) > 1e-3


def test_without_aggregation_or_detail() -> None:
    config = micro_config(aggregation="none", detail_width=0)
    bare = lively(build_model(config, seed=3))
    image, text = frames(1, SIZE), unit_rows(5, 20)
    frozen = freeze(bare, size_hw=SIZE)
    torch.testing.assert_close(
        run(frozen, image, text), run(bare, image, text), atol=2e-5, rtol=1e-4
    )


def test_a_size_off_the_patch_is_refused_with_the_nearest(model: Dedos) -> None:
    with pytest.raises(BadInputError, match=r"33x48.*multiples of its patch 8.*nearest is 32x48"):
        freeze(model, size_hw=(33, 48))
    freeze(model, size_hw=(32, 48))


def test_same_seed_same_weights_and_no_global_side_effect() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = build_model(micro_config(), seed=4)
    assert torch.equal(torch.rand(3), expected)
    second = build_model(micro_config(), seed=4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("preset", PRESETS)
def test_checkpoints_of_every_preset_still_fit(preset: str) -> None:
    with torch.device("meta"):
        state = build_model(PRESETS[preset]).state_dict()
    layout = [f"{name} {list(value.shape)} {value.dtype}" for name, value in state.items()]
    assert hashlib.sha256("\n".join(layout).encode()).hexdigest()[:16] == LAYOUTS[preset]


def test_a_seed_draws_the_weights_it_always_drew() -> None:
    model = build_model(PRESETS["nano"], seed=5)
    for name, known in DRAWN.items():
        total = sum(
            float(weight.detach().abs().double().sum())
            for weight in getattr(model, name).parameters()
        )
        assert total == pytest.approx(known, rel=1e-5), name
