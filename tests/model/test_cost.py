"""Costs against hand-computed values and the paper's Table 7."""

from __future__ import annotations

import torch

from dedos_deploy.head_numbers import HEADS, WindowConfig
from dedos_deploy.model.cost import model_cost
from dedos_deploy.presets import PRESETS, DenseConfig, with_cost

from .conftest import MICRO_CLIP, micro_config


def test_trunk_macs_by_hand() -> None:
    cost = model_cost(micro_config(), size_hw=(32, 48), slots=5)
    tokens, width, layers = 4 * 6 + 1, MICRO_CLIP.width, MICRO_CLIP.layers
    gemms = layers * 12 * width * width * tokens + 24 * (8 * 8 * 3) * width
    attention = layers * 2 * tokens * tokens * width
    projection = 24 * width * MICRO_CLIP.text_width
    assert cost.macs_by_part["trunk"] == gemms + attention + projection
    assert cost.macs - cost.macs_table7 == attention
    refinement = 2 * 24 * (2 * 6 * width + width * width)
    assert cost.macs_by_part["refinement"] == refinement
    assert sum(cost.macs_by_part.values()) <= cost.macs
    assert sum(cost.macs_by_part.values()) >= 0.95 * cost.macs


def test_a_dense_clip_by_hand_and_by_windows() -> None:
    """maskclip takes keys, values and the output product of its last block, for patches alone."""
    config = DenseConfig("micro", MICRO_CLIP, (32, 32), HEADS["maskclip"](MICRO_CLIP.layers))
    cost = model_cost(config, size_hw=(32, 32), slots=5)
    patches, width, layers = 16, MICRO_CLIP.width, MICRO_CLIP.layers - 1
    tokens = patches + 1
    attention = layers * 2 * tokens * tokens * width
    blocks = layers * 12 * width * width * tokens + attention
    ends = patches * (8 * 8 * 3 + MICRO_CLIP.text_width) * width
    head, words = 4 * width * width * patches, 5 * MICRO_CLIP.text_width * patches
    assert cost.macs_by_part == {"trunk": blocks + ends, "head": head, "word_logits": words}
    assert cost.macs == blocks + ends + head + words and cost.macs_table7 == cost.macs - attention
    assert (cost.parameters_trained, cost.parameters_shipped) == (0, 0)
    windowed = DenseConfig("micro", MICRO_CLIP, (32, 48), config.head, windows=WindowConfig(32, 16))
    two = model_cost(windowed, size_hw=(32, 48), slots=5)
    assert (two.macs, two.macs_table7) == (2 * cost.macs, 2 * cost.macs_table7)


def test_clip_trunk_at_644_is_the_known_number() -> None:
    """open_clip's ViT-L/14 at 644x644 needs 860.9 G in all, 647.2 G in Table 7's convention."""
    cost = model_cost(PRESETS["paper-l"], size_hw=(644, 644), slots=171)
    trunk = cost.macs_by_part["trunk"] / 1e9
    assert abs(trunk - 860.9) < 0.01 * 860.9
    assert abs(trunk - (cost.macs - cost.macs_table7) / 1e9 - 647.2) < 0.01 * 647.2


def test_paper_l_keeps_inside_the_papers_budget() -> None:
    cost = model_cost(PRESETS["paper-l"], size_hw=(644, 644), slots=171)
    assert cost.macs_table7 <= 900e9
    assert cost.parameters_shipped <= 23.57e6


def test_cat_segs_aggregation_by_hand_and_beside_table_7() -> None:
    """Two layers of two window blocks and a word block at the coarse level, 23 x 23 cells of 644."""
    config = with_cost(PRESETS["paper-l"], "catseg")
    cost, light = (
        model_cost(c, size_hw=(644, 644), slots=171) for c in (config, PRESETS["paper-l"])
    )
    slots, cells, inside, width, pooled, text, inner = 171, 529, 24 * 24, 128, 144, 768, 256
    windows = 12 * width**2 * slots * inside + 2 * 144 * width * slots * inside
    guide = 2 * width**2 * inside
    words = (12 * width**2 + 2 * width * width // 4) * slots * pooled + 2 * width**2 * slots
    pooling = 2 * pooled * cells * width * slots
    lift = 49 * width * slots * cells + 9 * inner * width * cells + text * width * slots
    layers = 2 * (2 * (windows + guide) + words + pooling)
    read = width * slots * cells + 2116 * (text * (inner + slots) + inner * (width + slots + inner))
    expected = layers + lift + read + text * inner * slots
    assert abs(cost.macs_by_part["cost_aggregation"] / expected - 1) < 0.02
    assert cost.macs - light.macs == cost.macs_table7 - light.macs_table7 > 100e9
    assert cost.macs_table7 < 1030.47e9
    assert 1.7e6 < cost.parameters_shipped - light.parameters_shipped < 1.9e6


def test_activation_peak_counts_live_tensors_only() -> None:
    from dedos_deploy.model.cost import LiveBytes

    with torch.device("meta"), LiveBytes() as live:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.reshape(10, 100) + 1
        del b, c
    assert live.peak == 8000


def test_fused_attention_holds_no_matrix_and_changes_no_result() -> None:
    from dedos_deploy.model.blocks import attend, fused_attention
    from dedos_deploy.model.cost import LiveBytes

    q, k, v = torch.randn(3, 1, 1024, 8)
    with torch.no_grad():
        with LiveBytes() as plain:
            expected = attend(q, k, v, 2)
        with fused_attention(), LiveBytes() as fused:
            found = attend(q, k, v, 2)
    assert torch.allclose(found, expected, atol=1e-6)
    assert plain.peak >= 2 * 1024 * 1024 * 4 > 8 * fused.peak
