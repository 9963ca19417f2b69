"""The model that whole training runs of a second need, for tests and the programs they start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dedos_deploy import presets
from dedos_deploy.presets import ModelConfig, TextTowerConfig

Write = Callable[..., Path]
"""What the fixture `write_folder` is."""


def micro_config() -> ModelConfig:
    """Return a model of a few channels at 32x32 with every part of the nano preset in it."""
    nano = presets.get_preset("nano")
    clip = replace(
        nano.clip, patch=8, width=16, layers=4, heads=2, grid=4, text_width=16,
        text=TextTowerConfig(16, 1, 2, context_length=16),
    )  # fmt: skip
    return replace(
        nano, preset="micro", clip=clip, size_hw=(32, 32), refine_blocks=(1,), decoder_layers=2,
        queries=6, query_width=16, basic_kernel=(3, 8), diffusion_kernel=(2, 2), decoder_heads=2,
        decoder_ffn=16, pixel_ffn=16, detail_width=4, aggregation_width=4,
    )  # fmt: skip
