"""Every equation against an independent float64 reference in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dedos_deploy.model import blocks
from dedos_deploy.model.blocks import attend, linear_attend, sine_position
from dedos_deploy.model.cost_aggregation import CostAggregation
from dedos_deploy.model.mask_decoder import MaskDecoder, mask_bias
from dedos_deploy.model.msdeform import DeformableAttention, Sampling, sample_gather, sample_grid
from dedos_deploy.model.proxy_queries import ProxyQueries
from dedos_deploy.model.refinement import Refinement
from dedos_deploy.model.text_aggregation import TextAggregation, scores_from_logits

Array = NDArray[np.float64]


def f64(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax_np(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid_np(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def layer_norm_np(x: Array, weight: Array | float = 1.0, bias: Array | float = 0.0) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def linear_np(layer: torch.nn.Linear, x: Array) -> Array:
    out = x @ f64(layer.weight).T
    return out if layer.bias is None else out + f64(layer.bias)


def gelu_np(x: Array) -> Array:
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def close(actual: Tensor, expected: Array, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(f64(actual), expected, atol=atol, rtol=1e-4)


def test_eq6_kronecker_product_by_hand() -> None:
    queries = ProxyQueries((2, 1), (1, 2), steps=1)
    with torch.no_grad():
        queries.basic_kernel.copy_(torch.tensor([[2.0], [3.0]]))
        queries.diffusion_kernels.copy_(torch.tensor([[[1.0, 10.0]]]))
    assert queries.stage_queries().tolist() == [[[2.0, 20.0], [3.0, 30.0]]]


def test_eq7_and_8_maximum_average_and_every_stage() -> None:
    queries = ProxyQueries((3, 4), (2, 2), steps=3)
    stages = randn(3, 6, 8)
    q = f64(stages)
    parts = [q.max(0), q.mean(0), q[0], q[1], q[2]]
    close(queries.global_queries(stages), linear_np(queries.aggregate, np.concatenate(parts, -1)))
    batched = torch.stack([stages, stages + 1])
    torch.testing.assert_close(queries.global_queries(batched)[0], queries.global_queries(stages))


def test_bank_is_the_static_kernels_until_it_is_filled() -> None:
    queries = ProxyQueries((3, 4), (2, 2), steps=2)
    torch.testing.assert_close(queries(), queries.global_queries(queries.stage_queries()))
    queries.fill = "calibrated"
    queries.bank.copy_(randn(6, 8))
    assert torch.equal(queries(), queries.bank)


@pytest.mark.parametrize("norm", [True, False])
def test_eq13_and_14_refinement(norm: bool) -> None:
    torch.manual_seed(0)
    refine = Refinement(5, 7, norm=norm)
    torch.nn.init.normal_(refine.fuse.weight)
    torch.nn.init.normal_(refine.fuse.bias)
    proxy, features = randn(4, 5), randn(2, 9, 7, seed=1)
    q_hat = refine.q_hat(proxy)
    hidden = gelu_np(linear_np(refine.mlp[0], f64(proxy)))  # type: ignore[arg-type]
    q = linear_np(refine.mlp[2], hidden)  # type: ignore[arg-type]
    close(q_hat, q)
    f = f64(features)
    logits = layer_norm_np(f) @ q.T / np.sqrt(7) if norm else f @ q.T
    mixed = softmax_np(logits) @ q
    expected = linear_np(refine.fuse, np.concatenate([mixed, f], -1))
    close(refine(features, q_hat), expected)
    close(refine.folded(q_hat)(features, None), expected)


def test_refinement_starts_as_plain_clip() -> None:
    refine, features = Refinement(5, 7, norm=True), randn(1, 3, 7)
    assert torch.equal(refine(features, refine.q_hat(randn(4, 5))), features)


def test_attention_with_bias() -> None:
    q, k, v = randn(1, 3, 8), randn(1, 5, 8, seed=1), randn(1, 5, 8, seed=2)
    bias = torch.tensor([0.0, -1e4, 0.0, 0.0, -1e4])
    expected = np.zeros((3, 8))
    for head in range(2):
        cut = slice(4 * head, 4 * head + 4)
        logits = f64(q)[0, :, cut] @ f64(k)[0, :, cut].T / 2 + f64(bias)
        expected[:, cut] = softmax_np(logits) @ f64(v)[0, :, cut]
    close(attend(q, k, v, 2, bias)[0], expected)


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_of_training_equals_the_exported_form(
    monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    bias = (randn(2, 1, 3, 5) > 0).float() * -1e4 if masked else None
    results = []
    for least in (1, 10**9):
        monkeypatch.setattr(blocks, "FUSED_FROM", least)
        q, k, v = (randn(2, n, 8, seed=n).requires_grad_() for n in (3, 5, 5))
        out = attend(q, k, v, 2, bias)
        out.square().sum().backward()
        results.append((out, q.grad, k.grad, v.grad))
    for fused, plain in zip(*results, strict=True):
        close(fused.detach(), f64(plain.detach()), 1e-5)


def test_linear_attention_drops_invalid_keys_exactly() -> None:
    q, k, v = randn(3, 4), randn(6, 4, seed=1), randn(6, 5, seed=2)
    valid = torch.tensor([1.0, 1, 0, 1, 0, 1])
    phi_q = np.where(f64(q) > 0, f64(q) + 1, np.exp(f64(q)))
    phi_k = np.where(f64(k) > 0, f64(k) + 1, np.exp(f64(k)))
    kept = f64(valid) > 0
    weights = phi_q @ phi_k[kept].T
    expected = weights @ f64(v)[kept] / weights.sum(-1, keepdims=True)
    close(linear_attend(q, k, v, valid), expected)


def test_mask_bias_unmasks_empty_queries() -> None:
    logits = torch.tensor([[[1.0, -1.0, 0.0], [-1.0, -2.0, -3.0]]])
    assert mask_bias(logits).tolist() == [[[[0.0, -1e4, 0.0], [0.0, 0.0, 0.0]]]]


def test_resized_features_equal_resized_predictions() -> None:
    """The shortcut of the mask decoder: mask logits are linear in the features."""
    decoder = MaskDecoder(8, queries=3, layers=0, heads=2, ffn=8)
    features, objects = randn(1, 8, 8, 12), randn(1, 3, 8, seed=1)
    small = torch.nn.functional.interpolate(
        decoder.mask_logits(objects, features), size=(4, 6), mode="bilinear", align_corners=False
    )
    shrunk = torch.nn.functional.interpolate(
        features, size=(4, 6), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(decoder.mask_logits(objects, shrunk), small, atol=1e-5, rtol=1e-4)


def bilinear_np(plane: Array, x: float, y: float) -> float:
    """Value at (x, y) in pixels with centres at integers, zero outside."""
    height, width = plane.shape
    total = 0.0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for col in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < height and 0 <= col < width:
                total += plane[row, col] * (1 - abs(y - row)) * (1 - abs(x - col))
    return total


@pytest.mark.parametrize("sample", [sample_grid, sample_gather])
def test_deformable_sampling(sample: Callable[..., Tensor]) -> None:
    """One point per token, anywhere within and beyond a map, of two pictures and three heads."""
    value = randn(2, 20, 3, 4)
    points = torch.rand(2, 6, 3, 1, 1, 2, generator=torch.Generator().manual_seed(4)) * 9 - 2
    actual = sample(value, points, torch.ones(2, 6, 3, 1, 1), [(4, 5)])
    expected = np.zeros((2, 6, 3, 4))
    for b, n, h, d in np.ndindex(expected.shape):
        x, y = f64(points)[b, n, h, 0, 0]
        expected[b, n, h, d] = bilinear_np(f64(value)[b, :, h, d].reshape(4, 5), x, y)
    close(actual, expected)


def test_deformable_sampling_of_large_values_in_half() -> None:
    """Values at the end of float16's range, one in a hundred of them, come out of sums as they are."""
    generator = torch.Generator().manual_seed(11)
    sizes = [(6, 6), (12, 12), (24, 24)]
    value = torch.randn(1, 756, 2, 8, generator=generator)
    large = torch.rand(value.shape, generator=generator) < 0.01
    value = torch.where(large, 65000 * value.sign(), value).half()
    value[0, :36] = 65504  # A whole level, so that sums have no room above them.
    points = torch.rand(1, 756, 2, 3, 4, 2, generator=generator) * 30 - 3
    points[0, :50, :, 0] = points[0, :50, :, 0].clamp(0, 5)
    share = (torch.randn(1, 756, 2, 12, generator=generator) * 4).softmax(-1)
    share[0, :50] = torch.cat([torch.full((4,), 0.25), torch.zeros(8)])
    share = share.reshape(1, 756, 2, 3, 4)
    actual = sample_gather(value, points, share, sizes)
    expected = sample_gather(value.double(), points, share, sizes)
    assert actual.dtype == torch.float16 and actual.isfinite().all()
    assert (actual[0, :50] == 65504).float().mean() > 0.5
    assert (actual - expected).abs().max() < 2**-9 * 65504


@pytest.mark.parametrize("sampling", ["grid_sample", "gather"])
def test_deformable_attention_with_two_levels(sampling: Sampling) -> None:
    torch.manual_seed(1)
    attention = DeformableAttention(8, 2, levels=2, points=3)
    attention.sampling = sampling
    for layer in (attention.offsets, attention.weights):
        torch.nn.init.normal_(layer.weight, std=0.5)
    sizes = [(2, 3), (4, 6)]
    tokens = randn(1, 30, 8)
    reference = torch.rand(30, 2, generator=torch.Generator().manual_seed(7))
    x = f64(tokens)[0]
    value = linear_np(attention.value, x)
    offsets = linear_np(attention.offsets, x).reshape(30, 2, 2, 3, 2)
    weights = softmax_np(linear_np(attention.weights, x).reshape(30, 2, 6)).reshape(30, 2, 2, 3)
    mixed = np.zeros((30, 8))
    for token, head, level, point in np.ndindex(30, 2, 2, 3):
        height, width = sizes[level]
        start = 0 if level == 0 else 6
        plane = value[start : start + height * width].reshape(height, width, 2, 4)[:, :, head]
        # An offset of 1 is one cell of its level.
        x_px = f64(reference)[token, 0] * width + offsets[token, head, level, point, 0] - 0.5
        y_px = f64(reference)[token, 1] * height + offsets[token, head, level, point, 1] - 0.5
        for depth in range(4):
            got = bilinear_np(plane[:, :, depth], x_px, y_px)
            mixed[token, head * 4 + depth] += weights[token, head, level, point] * got
    actual = attention(tokens, tokens, reference, sizes)
    close(actual[0], linear_np(attention.out, mixed))


def test_sine_position_by_hand() -> None:
    row = f64(sine_position((1, 2), 8, like=torch.zeros(1)))[0, 1]
    y, x = 2 * np.pi * 0.5, 2 * np.pi * 0.75
    expected = [
        np.sin(y),
        np.sin(y / 100),
        np.cos(y),
        np.cos(y / 100),
        np.sin(x),
        np.sin(x / 100),
        np.cos(x),
        np.cos(x / 100),
    ]
    np.testing.assert_allclose(row, expected, atol=1e-6)


def test_text_aggregation_and_class_logits() -> None:
    torch.manual_seed(2)
    head = TextAggregation(8, 6, blocks=1, heads=2)
    objects, text = randn(1, 4, 8), torch.nn.functional.normalize(randn(5, 6, seed=1), dim=-1)
    valid = torch.tensor([1.0, 1, 1, 0, 1])
    block = head.blocks[0]
    x, words = f64(objects)[0], f64(text)
    q = linear_np(block.q, layer_norm_np(x))  # type: ignore[arg-type]
    k, v = linear_np(block.k, words), linear_np(block.v, words)  # type: ignore[arg-type]
    kept = [0, 1, 2, 4]
    mixed = np.zeros((4, 8))
    for h in range(2):
        cut = slice(4 * h, 4 * h + 4)
        phi_q = np.where(q[:, cut] > 0, q[:, cut] + 1, np.exp(q[:, cut]))
        phi_k = np.where(k[kept, cut] > 0, k[kept, cut] + 1, np.exp(k[kept, cut]))
        weights = phi_q @ phi_k.T
        mixed[:, cut] = weights @ v[kept, cut] / weights.sum(-1, keepdims=True)
    x = x + linear_np(block.out, mixed)  # type: ignore[arg-type]
    hidden = gelu_np(linear_np(block.fc, layer_norm_np(x)))  # type: ignore[arg-type]
    x = x + linear_np(block.proj, hidden)  # type: ignore[arg-type]
    embedding = linear_np(head.class_embedding, layer_norm_np(x))
    embedding /= np.linalg.norm(embedding, axis=-1, keepdims=True)
    expected = 10 * embedding @ words.T + f64(head.bias)
    close(head(objects, text, valid)[0], expected)


def test_cost_aggregation() -> None:
    torch.manual_seed(3)
    layer = CostAggregation(8, 6, 4)
    levels = [randn(1, 8, 1, 2), randn(1, 8, 2, 3, seed=1), randn(1, 8, 4, 6, seed=2)]
    clip_embedding = randn(1, 6, 6, seed=3)
    text = torch.nn.functional.normalize(randn(3, 6, seed=4), dim=-1)
    valid = torch.tensor([1.0, 0, 1])
    centre = f64(levels[1])[0].reshape(8, 6).T
    pixels = linear_np(layer.embed, centre) + f64(clip_embedding)[0]
    pixels /= np.linalg.norm(pixels, axis=-1, keepdims=True)
    cost = pixels @ f64(text).T  # [N, K]
    kernel, kernel_bias = f64(layer.spatial.weight)[:, 0], f64(layer.spatial.bias)  # type: ignore[arg-type]
    volume = np.zeros((6, 3, 4))
    for k in range(3):
        padded = np.pad(cost[:, k].reshape(2, 3), 3)
        for n in range(6):
            window = padded[n // 3 : n // 3 + 7, n % 3 : n % 3 + 7]
            volume[n, k] = (kernel * window).sum((1, 2)) + kernel_bias
    volume = gelu_np(volume)
    q, k_, v = np.split(linear_np(layer.qkv, layer_norm_np(volume)), 3, axis=-1)
    phi = lambda z: np.where(z > 0, z + 1, np.exp(z))  # noqa: E731
    weights = (phi(q) @ phi(k_).swapaxes(-1, -2)) * f64(valid)
    mixed = weights @ v / weights.sum(-1, keepdims=True)
    volume = volume + linear_np(layer.mix, mixed)
    logits = 10 * cost + linear_np(layer.evidence, volume)[..., 0]
    share = softmax_np(np.where(f64(valid) > 0, logits, -1e9))
    words = share @ linear_np(layer.text, f64(text))
    mean = volume[:, [0, 2]].mean(1)
    update = words + linear_np(layer.summary, mean)
    update = linear_np(layer.out, layer_norm_np(update)).T.reshape(8, 2, 3)
    enriched, dense = layer(levels, clip_embedding, text, valid)
    close(enriched[1][0], f64(levels[1])[0] + update)
    close(dense[0].flatten(1).t(), logits)
    assert [x.shape for x in enriched] == [x.shape for x in levels]


def test_scores_by_hand() -> None:
    classes = torch.tensor([[[0.0, 100.0], [-100.0, 100.0]]])
    masks = torch.tensor([[[[0.0]], [[100.0]]]])
    scores = scores_from_logits(classes, masks, torch.tensor([1.0, 1.0]))
    # class 0: 0.5 * 0.5 + 0 * 1; class 1: 1 * 0.5 + 1 * 1, clipped
    assert scores.flatten().tolist() == pytest.approx([0.25, 1.0])
    off = scores_from_logits(classes, masks, torch.tensor([1.0, 0.0]))
    assert off.flatten().tolist() == pytest.approx([0.25, 0.0])
    expected = sigmoid_np(np.array([0.3]))[0] * sigmoid_np(np.array([-0.2]))[0]
    one = scores_from_logits(torch.tensor([[[0.3]]]), torch.tensor([[[[-0.2]]]]), torch.ones(1))
    assert one.item() == pytest.approx(expected)
