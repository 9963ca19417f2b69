"""What a CUDA thread computes, run on the CPU: the same labels as the native label map, to the bit,
and OpenCV's resized levels to within one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pixel_host import PixelHost, compile_host

from dedos_deploy import _native

NONE16 = 65535


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> PixelHost:
    return compile_host(tmp_path_factory.mktemp("pixel_host"))


def _native_labels(
    scores: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    slot_ids: NDArray[np.uint16],
    size_hw: tuple[int, int],
    cells: int,
    wide: bool,
) -> tuple[NDArray[np.uint16], NDArray[np.uint8], NDArray[np.uint64]]:
    ids = np.empty(size_hw, np.uint16 if wide else np.uint8)
    confidence = np.empty(size_hw, np.uint8)
    counts = np.zeros(cells, np.uint64)
    _native.label_map(scores, thresholds, slot_ids, ids, confidence, counts, 2)
    return ids, confidence, counts


def _smooth(rng: np.random.Generator, slots: int, size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Score maps with regions, so that some pixels have one clear leader and some do not."""
    coarse = rng.random((slots, 3, 4), np.float32)
    planes = [cv2.resize(plane, size_hw[::-1], interpolation=cv2.INTER_LINEAR) for plane in coarse]
    return np.ascontiguousarray(np.clip(np.stack(planes), 0, 1), np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_labels_are_those_of_the_native_label_map(
    host: PixelHost,
    seed: int,
    slots: int,
    score_hw: tuple[int, int],
    size_hw: tuple[int, int],
    half: bool,
    wide: bool,
    ties: bool,
) -> None:
    rng = np.random.default_rng(seed)
    scores = _smooth(rng, slots, score_hw)
    if ties:
        scores = np.round(scores * 4) / np.float32(4)
    if half:
        scores = scores.astype(np.float16).astype(np.float32)
    thresholds = rng.random(slots).astype(np.float32)
    slot_ids = rng.integers(0, 5, slots).astype(np.uint16)
    slot_ids[rng.random(slots) < 0.2] = NONE16
    wanted = _native_labels(scores, thresholds, slot_ids, size_hw, 6, wide)
    given_scores = scores.astype(np.float16) if half else scores
    ids, confidence, counts, broken = host.label(
        given_scores, thresholds, slot_ids, size_hw, cells=6, wide=wide
    )
    assert broken == -1
    np.testing.assert_array_equal(ids, wanted[0])
    np.testing.assert_array_equal(confidence, wanted[1])
    np.testing.assert_array_equal(counts, wanted[2])


def _same_as_native(
    host: PixelHost, scores: NDArray[np.float32], size_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """Check the labels of every slot's own id, and return the numbers of rivals, uint8 [h, w]."""
    slots = len(scores)
    table = np.zeros(slots, np.float32), np.arange(slots, dtype=np.uint16)
    wanted = _native_labels(scores, *table, size_hw, slots + 1, True)
    ids, confidence, counts, broken = host.label(
        scores, *table, size_hw, cells=slots + 1, wide=True
    )
    assert broken == -1
    for found, right in zip((ids, confidence, counts), wanted, strict=True):
        np.testing.assert_array_equal(found, right)
    return host.rivals[..., 0]


def test_a_pixel_on_a_border_looks_at_few_slots(host: PixelHost) -> None:
    scores = _smooth(np.random.default_rng(0), 171, (40, 60))
    rivals = _same_as_native(host, scores, (160, 240))
    on_borders = rivals[rivals > 0]
    assert 0.1 < on_borders.size / rivals.size < 0.9 and on_borders.mean() < 4


@pytest.mark.parametrize("slots", [14, 15, 16, 17, 256])
@pytest.mark.parametrize("scale", [0.0, 1e-7, 1e-6, 1.0])
def test_where_many_slots_compete_all_are_looked_at(
    host: PixelHost, slots: int, scale: float
) -> None:
    """Up to 15 rivals have room; a tie goes to the lowest slot, which needs none."""
    noise = np.random.default_rng(slots).random((slots, 7, 9), np.float32)
    scores = np.float32(0.5) + np.float32(scale) * (noise - np.float32(0.5))
    rivals = _same_as_native(host, scores.astype(np.float32), (31, 44))
    assert (rivals == 255).any() == (slots > 15 and scale > 0.0)
    assert (rivals[rivals != 255] <= min(slots, 15)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_first_broken_score_is_found(
    host: PixelHost, value: float, dtype: type[np.floating]
) -> None:
    scores = np.full((4, 3, 5), 0.5, dtype)
    scores[3, 0, 1] = value
    scores[2, 1, 4] = value
    scores[2, 2, 0] = value
    table = np.zeros(4, np.float32), np.zeros(4, np.uint16)
    *_, broken = host.label(scores, *table, (6, 6), cells=2)
    assert broken == 2 * 15 + 1 * 5 + 4


def test_every_half_is_read_as_numpy_reads_it(host: PixelHost) -> None:
    halves = np.arange(2**16, dtype=np.uint16)
    np.testing.assert_array_equal(host.floats(halves), halves.view(np.float16).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_resized_levels_are_opencv_s_within_one(
    host: PixelHost, seed: int, source_hw: tuple[int, int], size_hw: tuple[int, int]
) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (*source_hw, 3), np.uint8)
    shrinks = size_hw[0] <= source_hw[0] and size_hw[1] <= source_hw[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    wanted = cv2.resize(frame, size_hw[::-1], interpolation=method).astype(int)
    found = host.resize(frame, size_hw).astype(int)
    assert np.abs(found - wanted).max() <= 1


def test_area_means_are_exact(host: PixelHost) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (12, 20, 3), np.uint8)
    means = frame.reshape(4, 3, 5, 4, 3).astype(np.float64).mean(axis=(1, 3))
    np.testing.assert_allclose(host.resize(frame, (4, 5)), means, atol=0.5)
    np.testing.assert_array_equal(host.resize(frame, (12, 20)), frame)
    flat = np.full((37, 53, 3), 201, np.uint8)
    assert (host.resize(flat, (16, 31)) == 201).all()


def test_a_frame_of_camera_size_is_resized_as_opencv_does(host: PixelHost) -> None:
    frame = np.random.default_rng(2).integers(0, 256, (720, 1280, 3), np.uint8)
    wanted = cv2.resize(frame, (448, 448), interpolation=cv2.INTER_AREA).astype(int)
    differs = np.abs(host.resize(frame, (448, 448)).astype(int) - wanted)
    assert differs.max() <= 1 and (differs > 0).mean() < 0.001
