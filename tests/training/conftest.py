"""A micro model and a tiny label folder, so that whole training runs take about a second."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from micro import Write, micro_config

from dedos_deploy import presets
from dedos_deploy.presets import ModelConfig

WORDS = ("sky", "road", "car")


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """The micro configuration, known as the preset `micro` during one test."""
    config = micro_config()
    monkeypatch.setitem(presets.PRESETS, "micro", config)
    return config


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
