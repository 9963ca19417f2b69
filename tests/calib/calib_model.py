"""A small whole model for the tests of quantization."""

from __future__ import annotations

from dataclasses import replace

import onnx

from dedos_deploy.presets import PRESETS, ModelConfig, TextTowerConfig

SLOTS = 7


def small_config() -> ModelConfig:
    """Return `miniature`, detail branch included, cut down to a few channels."""
    preset = PRESETS["miniature"]
    clip = replace(
        preset.clip,
        width=32,
        layers=2,
        heads=2,
        grid=3,
        text_width=16,
        text=TextTowerConfig(32, 1, 2, context_length=24),
    )
    return replace(
        preset,
        clip=clip,
        size_hw=(32, 48),
        refine_blocks=(0, 1),
        pixel_ffn=32,
        decoder_layers=1,
        decoder_heads=2,
        decoder_ffn=32,
        queries=6,
        query_width=16,
        basic_kernel=(3, 4),
        diffusion_kernel=(2, 4),
        detail_width=8,
        aggregation_width=4,
    )


def copied(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that a test may change."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy
