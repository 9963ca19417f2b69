"""Frames of the parity gate travel in the bundle: few, small, like those that were compared."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from dedos_deploy.bundle import MOST_PARITY_FRAMES, PARITY_FRAME_SIDE, Bundle
from dedos_deploy.export.parity_frames import packed_frames
from dedos_deploy.scenes import render_image


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_they_come_back_as_they_were(count: int, tmp_path: Path) -> None:
    frames = [np.full((24, 32, 3), 20 * number, np.uint8) for number in range(count)]
    path = write_tiny_bundle(tmp_path / "b", files=packed_frames(frames))
    with Bundle.open(path) as bundle:
        found = [int(frame.mean().round()) for frame in bundle.parity_frames()]
    kept = min(count, MOST_PARITY_FRAMES)
    assert found == [20 * (number * count // kept) for number in range(kept)]


def test_large_ones_are_made_small_and_keep_what_they_show() -> None:
    scene, _ = render_image("street", seed=3, size_hw=(960, 1280))
    (content,) = packed_frames([scene]).values()
    small = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (PARITY_FRAME_SIDE * 3 // 4, PARITY_FRAME_SIDE, 3)
    wanted = cv2.resize(scene, (640, 480), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - wanted).mean() < 4


def test_they_stay_below_a_megabyte_whatever_they_show() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 700, 700, 3), np.uint8)
    sizes = [len(content) for content in packed_frames(list(noise)).values()]
    assert len(sizes) == 4 and sum(sizes) < 1_000_000


@pytest.mark.parametrize("size_hw", [(3000, 2), (1, 5000)])
def test_strips_keep_a_pixel(size_hw: tuple[int, int], tmp_path: Path) -> None:
    files = packed_frames([np.zeros((*size_hw, 3), np.uint8)])
    with Bundle.open(write_tiny_bundle(tmp_path / "b", files=files)) as bundle:
        (frame,) = bundle.parity_frames()
    assert max(frame.shape[:2]) == PARITY_FRAME_SIDE and min(frame.shape[:2]) == 1
