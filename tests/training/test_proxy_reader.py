"""Eq. 3-5 against loops in float64, and what the mask map and the start must be."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.model.proxy_queries import ProxyQueries
from dedos_deploy.training.proxy_reader import (
    GATE_START,
    LayerReader,
    MaskMap,
    ProxyReader,
    normalized_tokens,
)

Array = NDArray[np.float64]
Maps = list[list[Tensor]]

CHANNELS, WIDTH, QUERIES, STEPS = (6, 10), 8, 5, 2
SIZES = ((4, 3), (2, 2))


def f64(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def random_maps(batch: int = 2, seed: int = 0, scale: float = 40.0) -> Maps:
    """[N][L] features with an offset and a scale per layer, as a UNet's."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            torch.randn(batch, c, *size, generator=generator) * scale * (i + 1) + 3.0
            for i, (c, size) in enumerate(zip(CHANNELS, SIZES, strict=True))
        ]
        for _ in range(STEPS)
    ]


def random_queries(seed: int = 1) -> Tensor:
    return torch.randn(STEPS, QUERIES, WIDTH, generator=torch.Generator().manual_seed(seed))


def lively_reader(mask_map: MaskMap = "gate") -> ProxyReader:
    """A reader in which every parameter matters."""
    torch.manual_seed(3)
    reader = ProxyReader(CHANNELS, WIDTH, mask_map=mask_map)
    for parameter in reader.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return reader.eval()


def layer_of(reader: ProxyReader, index: int) -> LayerReader:
    return cast(LayerReader, reader.layers[index])


def layer_np(layer: LayerReader, queries: Array, feature: Array) -> Array:
    """Eq. 3-5 of one layer for one image and step, one query and one position at a time.

    queries: [n, c]; feature: [C, h, w].
    """
    positions = []
    for y, x in np.ndindex(*feature.shape[1:]):
        vector = feature[:, y, x]
        spread = np.sqrt(np.mean((vector - vector.mean()) ** 2) + 1e-5)
        positions.append((vector - vector.mean()) / spread)
    w_q, w_k, w_v = (f64(part.weight).T for part in (layer.query, layer.key, layer.value))
    w = f64(layer.move.weight).T + np.eye(len(w_q))
    out = np.zeros_like(queries)
    for row, query in enumerate(queries):
        logits, masks, values = [], [], []
        for position in positions:
            mask = 1.0
            if layer.gate is not None:
                logit = position @ f64(layer.gate.weight)[0] + f64(layer.gate.bias)[0]
                mask = 1 / (1 + np.exp(-logit))
            key = position @ w_k
            logits.append((query @ w_q) @ key / np.sqrt(len(query)) + np.log(mask))
            masks.append(mask)
            values.append(position @ w_v)
        weights = np.exp(np.array(logits) - max(logits))
        weights /= weights.sum()
        attended = sum(a * m * v for a, m, v in zip(weights, masks, values, strict=True))
        out[row] = (attended + query) @ w + f64(layer.move.bias)
    return out


@pytest.mark.parametrize("mask_map", ["gate", "none"])
def test_eq3_to_5_over_layers_steps_and_images(mask_map: MaskMap) -> None:
    reader, queries, maps = lively_reader(mask_map), random_queries(), random_maps()
    actual = reader(queries, maps)
    assert actual.shape == (2, STEPS, QUERIES, WIDTH)
    for image, step in np.ndindex(2, STEPS):
        q = f64(queries[step])
        for index in range(len(CHANNELS)):
            q = layer_np(layer_of(reader, index), q, f64(maps[step][index][image]))
        np.testing.assert_allclose(f64(actual[image, step]), q, atol=2e-4, rtol=1e-4)


def test_gate_starts_at_its_constant() -> None:
    layer = LayerReader(6, WIDTH, "gate")
    mask, log_mask = layer.mask(torch.randn(2, STEPS, 12, 6))
    torch.testing.assert_close(mask, torch.full((2, STEPS, 1, 12), GATE_START))
    torch.testing.assert_close(log_mask, mask.log())


def test_without_mask_map_it_is_plain_attention() -> None:
    layer = layer_of(lively_reader("none"), 0)
    tokens, queries = torch.randn(2, STEPS, 12, 6), torch.randn(2, STEPS, QUERIES, WIDTH)
    attended = F.scaled_dot_product_attention(
        layer.query(queries), layer.key(tokens), layer.value(tokens)
    )
    mixed = attended + queries
    torch.testing.assert_close(
        layer(queries, tokens), mixed + layer.move(mixed), atol=1e-5, rtol=1e-4
    )


def test_a_closed_position_has_no_influence() -> None:
    layer = layer_of(lively_reader(), 0)
    assert layer.gate is not None
    with torch.no_grad():
        layer.gate.weight.zero_()[0, 0] = 100.0
        layer.gate.bias.zero_()
    tokens, queries = torch.randn(1, 1, 5, 6), torch.randn(1, 1, QUERIES, WIDTH)
    tokens[..., 0] = 1.0
    tokens[0, 0, 2, 0] = -2.0
    other = tokens.clone()
    other[0, 0, 2, 1:] = 3.0  # as large as normalised features get
    without = torch.cat([tokens[:, :, :2], tokens[:, :, 3:]], dim=2)
    torch.testing.assert_close(layer(queries, other), layer(queries, tokens))
    torch.testing.assert_close(layer(queries, without), layer(queries, tokens))


def test_all_positions_closed_leave_the_queries_to_eq5() -> None:
    layer = layer_of(lively_reader(), 0)
    assert layer.gate is not None
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.bias.fill_(-300.0)
    queries = torch.randn(1, 1, QUERIES, WIDTH)
    found = layer(queries, torch.randn(1, 1, 5, 6))
    torch.testing.assert_close(found, queries + layer.move(queries))


def test_order_of_positions_does_not_matter() -> None:
    reader, queries, maps = lively_reader(), random_queries(), random_maps()
    order = [torch.randperm(h * w) for h, w in SIZES]
    shuffled = [
        [m.flatten(2)[:, :, o].reshape(m.shape) for m, o in zip(step, order, strict=True)]
        for step in maps
    ]
    torch.testing.assert_close(reader(queries, shuffled), reader(queries, maps))


def test_steps_share_parameters_and_images_are_alone() -> None:
    reader, queries, maps = lively_reader(), random_queries(), random_maps()
    both = reader(queries, maps)
    turned = reader(queries.flip(0), maps[::-1])
    torch.testing.assert_close(turned.flip(1), both)
    second = reader(queries, [[m[1:] for m in step] for step in maps])
    torch.testing.assert_close(second, both[1:])


def test_the_scale_of_a_diffusion_layer_does_not_matter() -> None:
    reader, queries, maps = lively_reader(), random_queries(), random_maps()
    scaled = [[m * 250 for m in step] for step in maps]
    torch.testing.assert_close(reader(queries, scaled), reader(queries, maps), atol=1e-4, rtol=1e-4)


def test_random_map_hides_positions_in_training_only() -> None:
    reader = lively_reader("random")
    layer = layer_of(reader, 0)
    tokens = torch.randn(4, STEPS, 500, 6, requires_grad=True)
    queries = torch.randn(4, STEPS, QUERIES, WIDTH)
    layer.train()
    torch.manual_seed(0)
    layer(queries, tokens).square().sum().backward()
    assert tokens.grad is not None
    hidden = (tokens.grad == 0).all(-1).float().mean().item()
    assert hidden == pytest.approx(0.25, abs=0.03)
    plain = lively_reader("none")
    plain.load_state_dict(reader.state_dict())
    maps = random_maps()
    torch.testing.assert_close(reader.eval()(random_queries(), maps), plain(random_queries(), maps))


def test_random_map_that_hides_everything_changes_nothing() -> None:
    layer = layer_of(lively_reader("random"), 0).train()
    torch.manual_seed(0)
    tokens, queries = torch.randn(2, 64, 1, 6), torch.randn(2, 64, QUERIES, WIDTH)
    found, alone = layer(queries, tokens), queries + layer.move(queries)
    same = torch.isclose(found, alone, atol=1e-5).flatten(2).all(2)
    assert 0 < int(same[0].sum()) < 40 and found.isfinite().all()
    # One map for all pictures of a step, so that it does not matter how the step is cut.
    assert torch.equal(same[0], same[1])


def test_start_is_near_the_stage_queries_and_everything_learns() -> None:
    torch.manual_seed(0)
    queries = ProxyQueries((5, 16), (2, 4), steps=STEPS).stage_queries()
    reader = ProxyReader((48,) * 9, queries.shape[-1])
    maps = [[torch.randn(2, 48, 6, 6) * 20 + torch.randn(2, 48, 1, 1) * 20] * 9] * STEPS
    found = reader(queries, maps)
    change = (found - queries).square().mean().sqrt() / queries.square().mean().sqrt()
    assert 0.02 < change.item() < 0.4
    found.square().sum().backward()
    for name, parameter in reader.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_attention_at_the_start_is_neither_uniform_nor_one_hot() -> None:
    torch.manual_seed(0)
    queries = ProxyQueries((25, 64), (4, 4), steps=1).stage_queries()
    layer = LayerReader(320, 256, "gate")
    tokens = normalized_tokens(torch.randn(1, 320, 16, 16) * 7 + 2)
    logits = layer.query(queries) @ layer.key(tokens).transpose(-1, -2) / 16
    assert 0.5 < logits.std(-1).mean().item() < 2.0


def test_bfloat16_autocast_and_half_features() -> None:
    reader, queries, maps = lively_reader(), random_queries(), random_maps()
    exact = reader(queries, maps)
    half = [[m.half() for m in step] for step in maps]
    with torch.autocast("cpu", torch.bfloat16):
        found = reader(queries, half)
    assert found.dtype == torch.float32
    error = (found - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error.item() < 0.03
    found.sum().backward()
    for name, parameter in reader.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
