"""Eq. 10-12 against loops in float64, and where their gradients may go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dedos_deploy.training.texture import TextureSeparation, cosine_matrix

Array = NDArray[np.float64]

CLIP, WIDTH, QUERIES, GRID = 7, 5, 4, (4, 6)


def f64(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def tokens(seed: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, GRID[0] * GRID[1], CLIP, generator=generator) * 30 + 5


def separation(side: int = 16, layers: tuple[int, ...] = (1, 3)) -> TextureSeparation:
    torch.manual_seed(2)
    return TextureSeparation(CLIP, WIDTH, layers, side=side)


def queries(seed: int = 9, batch: int = 2) -> Tensor:
    return torch.randn(batch, QUERIES, WIDTH, generator=torch.Generator().manual_seed(seed))


def cosine_np(a: Array, b: Array) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def pooled_np(features: Array, side: int) -> list[Array]:
    """Mean of equal cells, where `side` divides the grid or is at least as large."""
    rows, cols = min(side, GRID[0]), min(side, GRID[1])
    cells = features.reshape(*GRID, CLIP)
    high, wide = GRID[0] // rows, GRID[1] // cols
    return [
        cells[y * high : (y + 1) * high, x * wide : (x + 1) * wide].mean((0, 1))
        for y, x in np.ndindex(rows, cols)
    ]


def consistency_np(
    module: TextureSeparation, q: Array, before: list[Array], after: list[Array]
) -> float:
    """Eq. 10-12 of one image, one pair of positions at a time."""
    w_l, b_l = f64(module.project_queries.weight), f64(module.project_queries.bias)
    w_c, b_c = f64(module.project_features.weight)[:, :, 0, 0], f64(module.project_features.bias)  # type: ignore[arg-type]
    projected = [w_l @ row + b_l for row in q]
    layers = []
    for layer_b, layer_a in zip(before, after, strict=True):
        cells_b, cells_a = pooled_np(layer_b, module.side), pooled_np(layer_a, module.side)
        terms = []
        for i in cells_b:
            for j in cells_a:
                hat_i = np.array([row @ (w_c @ i + b_c) for row in projected])
                hat_j = np.array([row @ (w_c @ j + b_c) for row in projected])
                distance = abs(cosine_np(hat_i, hat_j) - cosine_np(i, j))
                terms.append(0.5 * distance**2 if distance < 1 else distance - 0.5)
        layers.append(np.mean(terms))
    return float(np.mean(layers))


@pytest.mark.parametrize("side", [16, 2])
def test_eq10_to_12_per_image(side: int) -> None:
    module, q = separation(side), queries()
    before, after = [tokens(0), tokens(1)], [tokens(2), tokens(3)]
    actual = module(q, before, after, GRID)
    expected = [
        consistency_np(module, f64(q[i]), [f64(b[i]) for b in before], [f64(a[i]) for a in after])
        for i in range(2)
    ]
    np.testing.assert_allclose(f64(actual), expected, rtol=1e-4)


def test_eq12_by_hand() -> None:
    module = TextureSeparation(2, 2, (0,))
    with torch.no_grad():
        for layer in (module.project_queries, module.project_features):
            layer.weight.copy_(torch.eye(2).reshape(layer.weight.shape))
            torch.nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    # One query (1, -1) sees the two positions as +1 and -1: M_query is [[1, -1], [-1, 1]] where
    # M_clip is the identity. Two of four entries differ by 1, and SmoothL1(1) is a half.
    loss = module(torch.tensor([[[1.0, -1.0]]]), [features], [features], (1, 2))
    assert loss.tolist() == pytest.approx([0.25])


def test_identical_images_have_ones_on_the_diagonal() -> None:
    features = tokens(0)
    with torch.autocast("cpu", torch.bfloat16):
        matrix = cosine_matrix(features, features)
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix.diagonal(dim1=-2, dim2=-1), torch.ones(2, 24))


def test_queries_that_keep_all_of_clip_are_consistent() -> None:
    """An orthogonal map of the features preserves every angle, so there is nothing to learn."""
    module = TextureSeparation(WIDTH, WIDTH, (0,))
    with torch.no_grad():
        module.project_features.weight.copy_(torch.eye(WIDTH)[..., None, None])
        module.project_queries.weight.copy_(torch.eye(WIDTH))
        for layer in (module.project_queries, module.project_features):
            torch.nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    q = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q[None]
    before, after = torch.randn(1, 24, WIDTH), torch.randn(1, 24, WIDTH)
    assert module(q, [before], [after], GRID).item() < 1e-10


def test_gradients_reach_queries_and_projections_but_never_features() -> None:
    module, q = separation(), queries().requires_grad_()
    before = [tokens(0).requires_grad_(), tokens(1).requires_grad_()]
    after = [tokens(2).requires_grad_(), tokens(3).requires_grad_()]
    module(q, before, after, GRID).sum().backward()
    assert all(feature.grad is None for feature in (*before, *after))
    assert q.grad is not None and q.grad.abs().sum() > 0
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_descent_on_the_loss_lowers_it() -> None:
    module, q = separation(), queries()
    before, after = [tokens(0), tokens(1)], [tokens(2), tokens(3)]
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = module(q, before, after, GRID).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_autocast_gives_the_same_loss_in_float32() -> None:
    module, q = separation(), queries()
    before, after = [tokens(0), tokens(1)], [tokens(2), tokens(3)]
    exact = module(q, before, after, GRID)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(q.bfloat16(), [b.bfloat16() for b in before], after, GRID)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=2e-3, rtol=2e-2)
