"""A model small enough to be attacked many times in a second."""

from __future__ import annotations

from dataclasses import replace

from dedos_deploy.presets import PRESETS, ModelConfig, TextTowerConfig


def micro() -> ModelConfig:
    """Return the configuration of a model that is built in a moment."""
    nano = PRESETS["miniature"]
    text = TextTowerConfig(16, 1, 2, context_length=8, tokens=100)
    clip = replace(nano.clip, width=32, layers=2, heads=2, text_width=16, text=text)
    return replace(
        nano,
        clip=clip,
        refine_blocks=(1,),
        size_hw=(64, 64),
        queries=4,
        query_width=16,
        basic_kernel=(2, 4),
        diffusion_kernel=(2, 4),
        decoder_layers=1,
        decoder_heads=2,
        decoder_ffn=16,
        pixel_ffn=16,
        detail_width=8,
    )
