"""CAT-Seg's blocks over a cost volume, against Swin as torchvision has it and the authors' tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.cost_aggregation import CatSegAggregation
from dedos_deploy.model.peers import CatSeg, cost_volume, load_peer
from dedos_deploy.model.volume_blocks import WindowBlock, WordBlock, volume_grid

from .conftest import lively_weights, randn, unit_rows
from .test_peers import golden, saved

pytest.importorskip("torchvision")
from torchvision.models.swin_transformer import SwinTransformerBlock

WIDTH, HEADS = 16, 4
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def window_block(seed: int) -> WindowBlock:
    block = WindowBlock(WIDTH, 5).eval()
    lively_weights(block, seed)
    return block


def copied_swin(block: WindowBlock, shift: int) -> nn.Module:
    """Return their block with the weights of ours and no bias between places of a window."""
    theirs = SwinTransformerBlock(WIDTH, HEADS, [12, 12], [shift, shift]).eval()
    ours, known = block.state_dict(), theirs.state_dict()
    names = {
        "norm1": "norm_1",
        "attn.qkv": "qkv",
        "attn.proj": "out",
        "norm2": "norm_2",
        "mlp.0": "fc",
        "mlp.3": "proj",
    }
    state = {
        f"{their}.{kind}": ours[f"{our}.{kind}"]
        for their, our in names.items()
        for kind in ("weight", "bias")
    }
    state["attn.relative_position_bias_table"] = torch.zeros_like(
        known["attn.relative_position_bias_table"]
    )
    state["attn.relative_position_index"] = known["attn.relative_position_index"]
    theirs.load_state_dict(state, strict=True)
    return theirs


def test_windows_straight_and_moved_are_those_of_swin() -> None:
    """On 24 x 36 cells, where no word guides and no window stands over."""
    size_hw, cells = (24, 36), 24 * 36
    grid = volume_grid(size_hw, CPU)
    straight, moved = window_block(1), window_block(2)
    x = randn(1, 3, cells, WIDTH, seed=3)
    nothing = torch.zeros(1, 1, cells, 5)
    with torch.no_grad():
        found = straight(x.index_select(2, grid.straight.order), nothing, grid.straight)
        found = moved(found.index_select(2, grid.moved.order), nothing, grid.moved)
        expected = x.reshape(3, *size_hw, WIDTH)
        for block, shift in ((straight, 0), (moved, 6)):
            expected = copied_swin(block, shift)(expected)
    found = found.index_select(2, grid.back).reshape(expected.shape)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("size_hw", [(13, 9), (5, 23)])
def test_windows_that_stand_over_see_the_cells_of_the_grid_alone(size_hw: tuple[int, int]) -> None:
    """Against attention between all cells, masked by who shares a window; with the picture's guidance."""
    height, width = size_hw
    grid = volume_grid(size_hw, CPU)
    x, guidance = randn(1, 2, height * width, WIDTH, seed=4), randn(1, height * width, 5, seed=5)
    order = grid.straight.order
    blocks = window_block(6), window_block(7)
    with torch.no_grad():
        guide = guidance[:, None].index_select(2, order)
        found = blocks[0](x.index_select(2, order), guide, grid.straight)
        guide = guide.index_select(2, grid.moved.order)
        found = blocks[1](found.index_select(2, grid.moved.order), guide, grid.moved)
        expected = x
        for block, moved in zip(blocks, (False, True), strict=True):
            together = groups(height, moved)[:, None] * 100 + groups(width, moved)[None]
            expected = dense(block, expected, guidance, torch.from_numpy(together.reshape(-1)))
    torch.testing.assert_close(found.index_select(2, grid.back), expected, atol=2e-5, rtol=0)


def groups(side: int, moved: bool) -> np.ndarray[Any, Any]:
    """Return which window each place of a side is in; moved by half, the first and last are apart."""
    count = -(-side // 12)
    window = -(-side // count)
    shift = window // 2 if moved and count > 1 else 0
    return (np.arange(side) + (window - shift) % window) // window


def dense(block: WindowBlock, x: Tensor, guidance: Tensor, together: Tensor) -> Tensor:
    mask = together[:, None] == together[None]
    normed = F.layer_norm(x, (WIDTH,), block.norm_1.weight, block.norm_1.bias)
    q, k, v = F.linear(normed, block.qkv.weight, block.qkv.bias).chunk(3, dim=-1)
    guide_q, guide_k = F.linear(guidance, block.guide.weight)[:, None].chunk(2, dim=-1)
    heads = [
        part.unflatten(-1, (HEADS, -1)).transpose(-2, -3) for part in (q + guide_q, k + guide_k, v)
    ]
    mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(-2, -3).flatten(-2)
    x = x + F.linear(mixed, block.out.weight, block.out.bias)
    normed = F.layer_norm(x, (WIDTH,), block.norm_2.weight, block.norm_2.bias)
    hidden = F.gelu(F.linear(normed, block.fc.weight, block.fc.bias))
    return x + F.linear(hidden, block.proj.weight, block.proj.bias)


@pytest.mark.parametrize("size_hw", [(24, 24), (7, 12), (1, 3)])
def test_pooling_is_the_average_and_its_bilinear_inverse(size_hw: tuple[int, int]) -> None:
    grid = volume_grid(size_hw, CPU)
    x = randn(1, 3, *size_hw, seed=8)
    pooled = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    fine = F.interpolate(pooled, size=size_hw, mode="bilinear", align_corners=True)
    found = grid.pool @ x.flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, pooled.flatten(2).transpose(1, 2), atol=1e-6, rtol=0)
    found = grid.unpool @ found
    torch.testing.assert_close(found, fine.flatten(2).transpose(1, 2), atol=2e-6, rtol=0)


def test_the_volume_is_that_of_the_published_cat_seg(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the authors' tensors, on costs and guidance as theirs are, of as many words as it pads to."""
    peer = load_peer(saved(golden("catseg")[0], tmp_path / "c.pth"), "catseg")
    assert isinstance(peer, CatSeg)
    monkeypatch.setattr(cost_volume, "SLOTS", 5)
    width, text_width = peer.config.width, peer.config.clip.text_width
    ours = CatSegAggregation(text_width, text_width, width).eval()
    state = ours.state_dict()
    named = {name.replace("embed.", "spatial."): v for name, v in peer.state_dict().items()}
    taken = {
        name: value
        for name, value in named.items()
        if name.startswith(("spatial.", "guide.", "guide_words.", "layers."))
        and "padding" not in name
    }
    assert taken.keys() <= state.keys() and len(taken) > 60
    ours.load_state_dict(state | taken)
    text, valid = unit_rows(5, text_width), torch.ones(5)
    tokens = randn(1, 576, text_width, seed=9)
    with torch.no_grad():
        cost = peer.word_cosines(tokens, text)  # [1, K, 576]
        fine = F.interpolate(cost.reshape(1, 5, 24, 24), scale_factor=2.0)
        coarse = tokens.transpose(1, 2).reshape(1, text_width, 24, 24)
        levels = [coarse, torch.zeros(1, text_width, 48, 48)]
        evidence, mean = ours._aggregated(fine.flatten(2).transpose(1, 2), levels, text, valid)
        x = peer._volume(tokens, text)
        guidance = F.relu(peer.guide(coarse)).flatten(2).transpose(1, 2)
        words = F.relu(peer.guide_words(text))
        grid = volume_grid((24, 24), CPU)
        for layer in peer.layers:
            x = layer(x, guidance, words, valid, grid)
        read = F.linear(x, ours.evidence.weight, ours.evidence.bias)[..., 0]
    for found, expected in ((evidence, read), (mean, x.mean(1).transpose(1, 2))):
        assert float(expected.std()) > 1e-2, "nothing to compare"
        planes = F.interpolate(
            expected.reshape(1, -1, 24, 24), size=(48, 48), mode="bilinear", align_corners=False
        )
        torch.testing.assert_close(found, planes.flatten(2).transpose(1, 2), atol=2e-5, rtol=1e-4)


def test_words_are_alike_but_for_their_guidance_and_padding_has_no_weight() -> None:
    block = WordBlock(WIDTH, 5).eval()
    lively_weights(block, 10)
    grid = volume_grid((4, 6), CPU)
    x, words = randn(1, 4, 24, WIDTH, seed=11), randn(4, 5, seed=12)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        found = block(x, words, torch.ones(4), grid)
        permuted = block(x[:, order], words[order], torch.ones(4), grid)
        torch.testing.assert_close(permuted, found[:, order], atol=1e-5, rtol=0)
        fewer = block(x, words, torch.tensor([1.0, 1, 0, 1]), grid)
        alone = block(x[:, [0, 1, 3]], words[[0, 1, 3]], torch.ones(3), grid)
    torch.testing.assert_close(fewer[:, [0, 1, 3]], alone, atol=1e-5, rtol=0)
    assert float((fewer - found).abs().max()) > 1e-3
