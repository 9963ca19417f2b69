"""Dense embeddings: their product with a word is what the scores are made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dedos_deploy.errors import BadInputError
from dedos_deploy.head_numbers import NaclipHead, WindowConfig
from dedos_deploy.model import build_model, freeze
from dedos_deploy.model.dense_embedding import check_has_embedding, dense_embedding
from dedos_deploy.model.heads import build_dense
from dedos_deploy.presets import PRESETS, ClipConfig, DenseConfig, TextTowerConfig


def words(count: int, width: int) -> torch.Tensor:
    return F.normalize(
        torch.randn(count, width, generator=torch.Generator().manual_seed(1)), dim=-1
    )


def picture(height: int, width: int) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=drawn)


@pytest.mark.parametrize("windows", [None, WindowConfig(32, 16)])
def test_of_a_dense_clip_it_is_what_words_are_compared_with(windows: WindowConfig | None) -> None:
    text = TextTowerConfig(16, 1, 2, context_length=24)
    clip = ClipConfig("tiny", 8, 24, 2, 3, grid=4, text_width=12, text=text, activation="gelu")
    model = build_dense(DenseConfig("tiny", clip, (32, 48), NaclipHead(), windows=windows))
    image, rows = picture(32, 48), words(2, 12)
    frozen = freeze(model, size_hw=(32, 48))
    with torch.no_grad():
        embedding = dense_embedding(frozen, rows)(image)
        one, two = frozen(image, rows, torch.ones(2))[0]
    cosines = torch.einsum("kd,bdhw->bkhw", rows, embedding)
    small = F.interpolate(cosines, size=(8, 12), mode="bilinear", align_corners=False)[0]
    # A softmax over two words is their difference.
    wanted = (one.log() - two.log()) / model.config.tau
    torch.testing.assert_close(small[0] - small[1], wanted, atol=1e-5, rtol=1e-4)


def test_of_dedos_it_is_spread_over_the_masks_of_the_queries() -> None:
    nano = PRESETS["nano"]
    text = TextTowerConfig(32, 1, 2, context_length=24)
    clip = replace(nano.clip, width=32, layers=2, heads=2, grid=3, text_width=16, text=text)
    config = replace(
        nano,
        clip=clip,
        size_hw=(32, 48),
        refine_blocks=(1,),
        decoder_layers=1,
        decoder_heads=2,
        queries=6,
        query_width=16,
        basic_kernel=(3, 4),
        diffusion_kernel=(2, 4),
        detail="conv",
        aggregation_width=4,
    )
    model = build_model(config, seed=3)
    image, rows = picture(32, 48), words(5, 16)
    with torch.no_grad():
        embedding = dense_embedding(freeze(model, size_hw=(32, 48)), rows)(image)
        found = model.predict(image, rows, torch.ones(5))
        aggregation = model.text_aggregation
        cosines = (found.class_logits - aggregation.bias) / aggregation.log_scale.exp()
        wanted = torch.einsum("bqk,bqhw->bkhw", cosines, found.mask_logits.sigmoid())
    assert embedding.shape == (1, 16, 8, 12)
    torch.testing.assert_close(
        torch.einsum("kd,bdhw->bkhw", rows, embedding), wanted, atol=1e-4, rtol=1e-3
    )


def test_another_model_is_refused() -> None:
    with pytest.raises(BadInputError, match="need a DEDOS model or a dense CLIP, not a Linear"):
        check_has_embedding(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
