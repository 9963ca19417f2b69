"""Every step of every dense head against float64 numpy, at the shapes of ViT-B/16 and ViT-L/14."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.head_numbers import (
    HEADS,
    MaskclipHead,
    NaclipHead,
    ScClipHead,
    WindowConfig,
    sc_clip_head,
)
from dedos_deploy.model.blocks import TransformerBlock
from dedos_deploy.model.heads import sc_clip
from dedos_deploy.model.heads.dense_clip import ScaledPosition
from dedos_deploy.model.heads.maskclip import MaskClip
from dedos_deploy.model.heads.naclip import Naclip
from dedos_deploy.model.heads.sc_clip import ScClip
from dedos_deploy.presets import DENSE_PRESETS, PRESETS, any_preset, get_preset

from .head_references import (
    affinity_np,
    cosines_np,
    density_np,
    f64,
    maskclip_np,
    naclip_np,
    outliers_np,
    repaired_np,
    sc_clip_np,
    sharpened_np,
    softmax_np,
)

PLANTED = (0, 17, 18, 100)
"""A corner, two neighbours, and one alone."""


@dataclass(frozen=True)
class Tower:
    """The last block of a random tower, and what enters it: [1, 1 + N, C] per earlier block."""

    block: TransformerBlock
    tokens: list[Tensor]
    grid_hw: tuple[int, int]

    def by_number(self) -> dict[int, np.ndarray]:
        return {index + 1: f64(tokens)[0] for index, tokens in enumerate(self.tokens)}


def tower(width: int, heads: int, layers: int, side: int) -> Tower:
    """Patches of a few kinds of place, so that cosines lie on both sides of the cuts, and outliers."""
    generator = torch.Generator().manual_seed(width + side)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    block = TransformerBlock(width, heads, "quick_gelu").eval().requires_grad_(False)
    for name, parameter in block.named_parameters():
        parameter.copy_(draw(*parameter.shape) * 0.05 + (1 if name == "ln_1.weight" else 0))
    kinds, belongs = draw(5, width), torch.randint(5, (side * side,), generator=generator)
    tokens = []
    for _ in range(layers - 1):
        patches = kinds[belongs] + 0.9 * draw(side * side, width)
        planted = [place for place in PLANTED if place < len(patches)]
        patches[planted] += 4 * draw(len(planted), width)
        tokens.append(torch.cat([draw(1, width), patches])[None])
        kinds = kinds + 0.3 * draw(5, width)
    return Tower(block, tokens, (side, side))


@pytest.fixture(scope="module", params=[14, 21], ids=["B/16 at 224", "B/16 at 336"])
def b16(request: pytest.FixtureRequest) -> Tower:
    return tower(768, 12, 12, request.param)


def close(actual: Tensor, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(f64(actual), expected, atol=tolerance * scale, rtol=1e-4)


def test_outliers_of_the_local_density(b16: Tower) -> None:
    numbers, patches = sc_clip_head(12), b16.tokens[-1][:, 1:]
    density = sc_clip.local_density(patches, numbers.neighbours)
    close(density[0], density_np(f64(patches)[0], numbers.neighbours))
    odd = sc_clip.outliers(density, numbers.quantile)[0, :, 0]
    assert odd.tolist() == outliers_np(f64(patches)[0], numbers).tolist()
    assert all(odd[i] for i in PLANTED)
    assert int(odd.sum()) == pytest.approx(0.05 * len(odd), abs=1)


@pytest.mark.parametrize("count", [2, 3, 21, 41, 101, 196, 441])
def test_quantile_is_interpolated_and_strict(count: int) -> None:
    values = torch.rand(2, count, generator=torch.Generator().manual_seed(count))
    limit = np.quantile(f64(values), 0.95, axis=1, keepdims=True)
    found = sc_clip.outliers(values, 0.95)[..., 0].numpy()
    assert found.tolist() == (f64(values) > limit * (1 + 1e-9)).tolist()
    assert not sc_clip.outliers(torch.ones(1, count), 0.95).any()


def test_outliers_become_the_mean_of_their_sound_neighbours(b16: Tower) -> None:
    patches = b16.tokens[-1][:, 1:]
    odd = torch.zeros(patches.shape[:2], dtype=torch.bool)
    odd[0, list(PLANTED)] = True
    found = sc_clip.repaired(patches, odd[..., None], b16.grid_hw)
    close(found[0], repaired_np(f64(patches)[0], odd[0].numpy(), b16.grid_hw))
    # With no sound neighbour a patch stays as it is.
    everywhere = torch.ones_like(odd)[..., None]
    assert torch.equal(sc_clip.repaired(patches, everywhere, b16.grid_hw), patches)


def test_affinity_and_sharpened_cosines(b16: Tower) -> None:
    numbers, patches = sc_clip_head(12), b16.tokens[numbers_index()][:, 1:]
    similar, expected = sc_clip.cosines(patches), cosines_np(f64(patches)[0])
    close(similar[0], expected)
    assert 0.05 < (expected >= numbers.cut).mean() < 0.6
    close(sc_clip.affinity(similar, numbers.cut)[0], affinity_np(expected, numbers.cut))
    found = sc_clip.sharpened(similar, numbers.sharpness).softmax(-1)
    close(found[0], softmax_np(sharpened_np(expected, numbers.sharpness)))


def numbers_index() -> int:
    return sc_clip_head(12).similar - 1


def test_sc_clip(b16: Tower) -> None:
    numbers = sc_clip_head(12)
    found = ScClip(numbers)(b16.tokens, b16.block, b16.grid_hw)
    close(found[0], sc_clip_np(b16.by_number(), b16.block, numbers, b16.grid_hw))


def test_naclip(b16: Tower) -> None:
    found = Naclip(NaclipHead())(b16.tokens, b16.block, b16.grid_hw)
    close(found[0], naclip_np(f64(b16.tokens[-1])[0], b16.block, b16.grid_hw))


def test_naclip_on_a_picture_that_is_not_square(b16: Tower) -> None:
    tokens = b16.tokens[-1][:, : 1 + 7 * 11]
    found = Naclip(NaclipHead())([tokens], b16.block, (7, 11))
    close(found[0], naclip_np(f64(tokens)[0], b16.block, (7, 11)))


def test_maskclip(b16: Tower) -> None:
    found = MaskClip(MaskclipHead())(b16.tokens, b16.block, b16.grid_hw)
    close(found[0], maskclip_np(f64(b16.tokens[-1])[0], b16.block))


def test_sc_clip_of_the_large_tower() -> None:
    large, numbers = tower(1024, 16, 24, 16), sc_clip_head(24)
    found = ScClip(numbers)(large.tokens, large.block, large.grid_hw)
    close(found[0], sc_clip_np(large.by_number(), large.block, numbers, large.grid_hw))


def test_pictures_of_a_batch_do_not_mix() -> None:
    first, second = tower(96, 3, 12, 8), tower(96, 3, 12, 9)
    both = [torch.cat([a, b[:, :65]]) for a, b in zip(first.tokens, second.tokens, strict=True)]
    head = ScClip(sc_clip_head(12))
    found = head(both, first.block, first.grid_hw)
    alone = [head([x[i : i + 1] for x in both], first.block, first.grid_hw) for i in range(2)]
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_a_picture_of_one_colour_stays_finite() -> None:
    """All patches alike: no distance, no outlier, no cosine below the mean but by rounding."""
    flat = tower(96, 3, 12, 8)
    tokens = [x[:, 1:2].expand(-1, x.shape[1], -1) for x in flat.tokens]
    found = ScClip(sc_clip_head(12))(tokens, flat.block, flat.grid_hw)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, found[:, :1].expand_as(found), atol=1e-4, rtol=1e-4)


def test_published_numbers_and_their_scaling() -> None:
    assert sc_clip_head(12) == ScClipHead(9, 4, (4, 10), 0.3)
    assert sc_clip_head(24) == ScClipHead(17, 7, (9, 19), 0.1)
    for layers in (2, 3, 4, 6, 8, 16, 32):
        numbers = sc_clip_head(layers)
        used = (numbers.shallow, numbers.similar, *numbers.summed)
        assert all(1 <= block < layers for block in used) and numbers.summed[0] <= numbers.summed[1]


def test_presets_of_dense_heads() -> None:
    assert set(DENSE_PRESETS) == {"dense-b", "dense-l", "dense-b-gelu", "dense-l-gelu"}
    for name, config in DENSE_PRESETS.items():
        assert any_preset(name) is config
        gelu = name.endswith("-gelu")
        assert (config.clip.activation == "gelu") == gelu
        assert config.clip.architecture.endswith("-quickgelu") != gelu
    assert any_preset("edge-b") is PRESETS["edge-b"] is get_preset("edge-b")
    with pytest.raises(BadInputError, match=r"'dense-b' is a CLIP with a head .* presets: paper-l"):
        get_preset("dense-b")
    with pytest.raises(BadInputError, match="unknown preset 'dense-x', did you mean 'dense-"):
        any_preset("dense-x")


def test_dense_configurations_that_cannot_work_are_refused() -> None:
    config = DENSE_PRESETS["dense-b"]
    windows = WindowConfig(224, 112)
    with pytest.raises(BadInputError, match="side of 160 pixels does not take windows of 224"):
        replace(config, windows=windows, size_hw=(448, 160))
    with pytest.raises(BadInputError, match="side of 238 pixels .* multiples of 4"):
        replace(DENSE_PRESETS["dense-l"], windows=windows, size_hw=(224, 238))
    with pytest.raises(BadInputError, match="windows 224/226 must be SIZE/STRIDE"):
        WindowConfig(224, 226)
    with pytest.raises(BadInputError, match="size 220x220 does not fit dense-b"):
        replace(config, windows=WindowConfig(220, 112))
    with pytest.raises(BadInputError, match="with 30 others, and 64x96 has 24 in all"):
        config.check_size((64, 96))
    assert replace(config, head=HEADS["naclip"](12)).check_size((64, 96)) == (64, 96)
    with pytest.raises(BadInputError, match=r"sc-clip reads the blocks \(17, .*\[1, 12\)"):
        replace(config, head=sc_clip_head(24))


def cubic_np(table: np.ndarray, size: int, scale: float) -> np.ndarray:
    """Resize the first axis by the kernel of Keys with a = -0.75, edges repeated."""
    a, out = -0.75, np.zeros((size, *table.shape[1:]))

    def weight(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    for i in range(size):
        place = (i + 0.5) / scale - 0.5
        start = int(np.floor(place)) - 1
        for j in range(start, start + 4):
            out[i] += weight(place - j) * table[min(max(j, 0), len(table) - 1)]
    return out


def test_positions_are_resized_with_a_tenth_more() -> None:
    torch.manual_seed(0)
    position = ScaledPosition(14, 8)
    table = f64(position.table).reshape(14, 14, 8)
    rows = cubic_np(table, 21, 21.1 / 14)
    expected = cubic_np(rows.swapaxes(0, 1), 28, 28.1 / 14).swapaxes(0, 1)
    found = position((21, 28))
    close(found[0, 1:].reshape(21, 28, 8), expected)
    plain = cubic_np(cubic_np(table, 21, 21 / 14).swapaxes(0, 1), 28, 2).swapaxes(0, 1)
    assert np.abs(f64(found)[0, 1:].reshape(21, 28, 8) - plain).max() > 1e-3
    assert torch.equal(position((14, 14))[0, 1:], position.table)
    assert torch.equal(position.frozen((21, 28))((21, 28)), found)
