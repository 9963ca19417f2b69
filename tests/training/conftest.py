"""A micro model and a tiny label folder, so that whole training runs take about a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy import presets
from dedos_deploy.presets import ModelConfig, TextTowerConfig

WORDS = ("sky", "road", "car")


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


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """The micro configuration, known as the preset `micro` during one test."""
    config = micro_config()
    monkeypatch.setitem(presets.PRESETS, "micro", config)
    return config


Write = Callable[..., Path]


@pytest.fixture
def write_folder(tmp_path: Path) -> Write:
    """Return a function that writes a label folder of coloured rectangles."""

    def write(
        name: str = "street", words: tuple[str, ...] = WORDS, items: int = 6, split: str = "train"
    ) -> Path:
        random = np.random.default_rng(sum(map(ord, name + split)))
        root = tmp_path / name
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        (root / "classes.txt").write_text("\n".join(words) + "\n")
        colours = np.random.default_rng(5).integers(40, 215, (len(words), 3))
        for item in range(items):
            label = np.full((36, 48), 0, np.uint8)
            label[18:] = 1 % len(words)
            x, y = random.integers(0, 30, 2)
            label[y : y + 10, x : x + 14] = 2 % len(words)
            image = colours[label] + random.integers(-9, 10, (36, 48, 3))
            label[:2] = 255
            cv2.imwrite(str(root / "images" / split / f"{item:03}.png"), image.astype(np.uint8))
            cv2.imwrite(str(root / "labels" / split / f"{item:03}.png"), label)
        return root

    return write
