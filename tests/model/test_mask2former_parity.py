"""Mask decoder and deformable encoder against Mask2Former as transformers has it.

Weights are copied name by name, sizes are small, and all that is compared with is the library's own code.
In float32, whose rounding is all that may differ: our norms and softmaxes are float32 by design.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.blocks import sine_position
from dedos_deploy.model.mask_decoder import MaskDecoder
from dedos_deploy.model.msdeform import DeformableAttention, DeformableEncoder, Sampling

from .conftest import lively_weights, randn

pytest.importorskip("transformers")
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as theirs

WIDTH, HEADS, FFN, QUERIES, LAYERS = 32, 4, 48, 9, 7
SIZES = [(3, 5), (6, 9), (12, 18)]
ATOL = 2e-5
"""Of numbers of about 1, after all layers."""


pytestmark = pytest.mark.usefixtures("one_thread")


def reference_config(**changes: Any) -> Any:
    return Mask2FormerConfig(
        feature_size=WIDTH,
        mask_feature_size=WIDTH,
        hidden_dim=WIDTH,
        num_attention_heads=HEADS,
        encoder_feedforward_dim=FFN,
        dim_feedforward=FFN,
        num_queries=QUERIES,
        dropout=0.0,
        **changes,
    )


class CellCentres(theirs.Mask2FormerSinePositionEmbedding):  # type: ignore[misc]
    """Their embedding at the centres of cells and in our order of channels, by their own code.

    They count cells from 1, so that (i + 0.5) / h is what they have at cell 2 i of a map of 2 h.
    """

    def forward(self, shape: Any, *rest: Any, **named: Any) -> Tensor:
        double = torch.Size([*shape[:2], 2 * shape[2], 2 * shape[3]])
        found = super().forward(double, *rest, **named)[:, :, ::2, ::2]
        rows, columns = found.chunk(2, dim=1)
        parts = [half[:, start::2] for half in (rows, columns) for start in (0, 1)]
        return torch.cat(parts, dim=1)


def test_positions_are_sines_at_the_centres_of_cells() -> None:
    like = torch.zeros(1)
    reference = CellCentres(WIDTH // 2, normalize=True)
    expected = reference(torch.Size([1, WIDTH, 5, 7]), like.device, like.dtype)
    found = sine_position((5, 7), WIDTH, like=like)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=0)


# The mask decoder


def copied_decoder(decoder: MaskDecoder, content: Tensor) -> Any:
    """Return their decoder with the weights of ours and `content` as its query features."""
    module = theirs.Mask2FormerTransformerModule(WIDTH, reference_config(decoder_layers=LAYERS + 1))
    ours = decoder.state_dict()
    state = {
        "queries_embedder.weight": ours["place"],
        "queries_features.weight": content,
        "level_embed.weight": ours["level_embedding"],
    }
    renamed = {"decoder.layernorm": "norm"}
    for index in range(3):
        renamed[f"decoder.mask_predictor.mask_embedder.{index}.0"] = f"mask_embedding.{2 * index}"
    for index in range(LAYERS):
        prefix, layer = f"decoder.layers.{index}.", f"layers.{index}."
        renamed |= {
            f"{prefix}cross_attn.out_proj": f"{layer}cross.out",
            f"{prefix}cross_attn_layer_norm": f"{layer}norm_1",
            f"{prefix}self_attn_layer_norm": f"{layer}norm_2",
            f"{prefix}final_layer_norm": f"{layer}norm_3",
            f"{prefix}fc1": f"{layer}fc",
            f"{prefix}fc2": f"{layer}proj",
        }
        renamed |= {
            f"{prefix}self_attn.{part}_proj": f"{layer}self_attention.{part}"
            for part in ("q", "k", "v", "out")
        }
        for kind in ("weight", "bias"):
            parts = [ours[f"{layer}cross.{part}.{kind}"] for part in "qkv"]
            state[f"{prefix}cross_attn.in_proj_{kind}"] = torch.cat(parts)
    state |= {
        f"{their}.{kind}": ours[f"{our}.{kind}"]
        for their, our in renamed.items()
        for kind in ("weight", "bias")
    }
    module.load_state_dict(state, strict=True)
    module.position_embedder = CellCentres(WIDTH // 2, normalize=True)
    return module.eval()


def test_the_loop_of_the_mask_decoder_with_empty_masks() -> None:
    """Every layer's queries and masks, where some queries see nothing, some all and some a part."""
    decoder = MaskDecoder(WIDTH, queries=QUERIES, layers=LAYERS, heads=HEADS, ffn=FFN).eval()
    lively_weights(decoder, 1)
    with torch.no_grad():
        decoder.mask_embedding[-1].weight[0] *= 4
    proxy = randn(QUERIES, WIDTH, seed=2)
    levels = [randn(2, WIDTH, *size, seed=3 + i) for i, size in enumerate(SIZES)]
    features = randn(2, WIDTH, 24, 36, seed=6) * 0.5
    features[:, 0] += 1.5  # A channel that can make a query's whole mask empty.
    norm = decoder.content_norm
    with torch.no_grad():
        content = F.layer_norm(proxy, (WIDTH,), norm.weight, norm.bias)
        expected = copied_decoder(decoder, content)(levels, features)
        found = decoder(proxy, levels, features)
        masks = [decoder.mask_logits(objects, features) for objects in found]
    assert len(found) == len(expected.intermediate_hidden_states) == LAYERS + 1
    kept = [
        (F.interpolate(logits, size=SIZES[i % 3], mode="bilinear") >= 0).flatten(2).float().mean(2)
        for i, logits in enumerate(expected.masks_queries_logits[:-1])
    ]
    parts = torch.stack(kept)
    assert int((parts == 0).sum()) >= 10 and int(((parts > 0) & (parts < 1)).sum()) >= 30
    for ours, reference in zip(found, expected.intermediate_hidden_states, strict=True):
        torch.testing.assert_close(ours, reference.transpose(0, 1), atol=ATOL, rtol=0)
    for ours, reference in zip(masks, expected.masks_queries_logits, strict=True):
        torch.testing.assert_close(ours, reference, atol=10 * ATOL, rtol=ATOL)


# The pixel decoder


def copied_encoder(encoder: DeformableEncoder, layers: int) -> Any:
    """Return their pixel decoder with the weights of ours; what it makes of its inputs is left out."""
    config = reference_config(encoder_layers=layers, feature_strides=[4, 8, 16, 32])
    module = theirs.Mask2FormerPixelDecoder(config, [WIDTH] * 4)
    module.input_projections = nn.ModuleList(nn.Identity() for _ in range(3))
    module.position_embedding = CellCentres(WIDTH // 2, normalize=True)
    ours = encoder.state_dict()
    names = {
        "self_attn.sampling_offsets": "attention.offsets",
        "self_attn.attention_weights": "attention.weights",
        "self_attn.value_proj": "attention.value",
        "self_attn.output_proj": "attention.out",
        "self_attn_layer_norm": "norm_1",
        "fc1": "fc",
        "fc2": "proj",
        "final_layer_norm": "norm_2",
    }
    state = {
        f"layers.{index}.{their}.{kind}": ours[f"layers.{index}.{our}.{kind}"]
        for index in range(layers)
        for their, our in names.items()
        for kind in ("weight", "bias")
    }
    module.encoder.load_state_dict(state, strict=True)
    module.level_embed.data.copy_(ours["level_embedding"])
    return module.eval()


@pytest.mark.parametrize("sampling", ["grid_sample", "gather"])
def test_the_deformable_encoder_with_its_positions_and_reference_points(sampling: Sampling) -> None:
    encoder = DeformableEncoder(WIDTH, layers=3, ffn=FFN, heads=HEADS).eval()
    lively_weights(encoder, 7)
    for module in encoder.modules():
        if isinstance(module, DeformableAttention):
            module.sampling = sampling
    levels = [randn(2, WIDTH, *size, seed=8 + i) for i, size in enumerate(SIZES)]
    inputs = [
        F.layer_norm(x.movedim(1, -1), (WIDTH,), norm.weight, norm.bias).movedim(-1, 1)
        for x, norm in zip(levels, encoder.norms, strict=True)
    ]
    finest = torch.zeros(2, WIDTH, 24, 36)
    with torch.no_grad():
        expected = copied_encoder(encoder, 3)([finest, *inputs[::-1]]).multi_scale_features
        found = encoder(levels)
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, atol=ATOL, rtol=0)
