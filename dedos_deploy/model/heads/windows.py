"""Overlapping windows inside the graph: cut from the picture, and averaged on its score map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dedos_deploy.head_numbers import WindowConfig
from dedos_deploy.spec import SCORE_STRIDE


def cut_windows(image: Tensor, windows: WindowConfig) -> Tensor:
    """Return the windows of uint8 [B, H, W, 3] as float32 [n * B, size, size, 3], row by row."""
    # The cast comes first: TensorRT takes uint8 for little but casts.
    pixels, size = image.float(), windows.size
    return torch.cat(
        [
            pixels[:, top : top + size, left : left + size]
            for top in windows.offsets(image.shape[1])
            for left in windows.offsets(image.shape[2])
        ]
    )


def averaged(maps: Tensor, windows: WindowConfig, size_hw: tuple[int, int]) -> Tensor:
    """Return the mean of overlapping maps, [B, K, H / 4, W / 4].

    maps: [n * B, K, size / 4, size / 4] of the windows that `cut_windows` gives for a picture of
    `size_hw` pixels.
    """
    tops, lefts = ([offset // SCORE_STRIDE for offset in windows.offsets(side)] for side in size_hw)
    height, width = (side // SCORE_STRIDE for side in size_hw)
    size = windows.size // SCORE_STRIDE
    places = [(top, left) for top in tops for left in lefts]
    total: Tensor | None = None
    for part, (top, left) in zip(maps.chunk(len(places)), places, strict=True):
        padded = F.pad(part, (left, width - left - size, top, height - top - size))
        total = padded if total is None else total + padded
    assert total is not None
    return total * (
        _one_over_count(tops, size, height)[:, None] * _one_over_count(lefts, size, width)
    )


def _one_over_count(offsets: list[int], size: int, length: int) -> Tensor:
    counts = [sum(start <= at < start + size for start in offsets) for at in range(length)]
    return 1 / torch.tensor(counts, dtype=torch.float32)
