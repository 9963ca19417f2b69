"""Scores steadied natively, against the rules written out in float64, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy import _native

Array = NDArray[Any]
LANES = _native.SCORE_LANES


def past_of(scores: Array) -> NDArray[np.float32]:
    slots, height, width = scores.shape
    past = np.full((height, width, -(-slots // LANES) * LANES), np.nan, np.float32)
    _native.remember(scores, past)
    return past


def stabilised(
    scores: Array, grey: Array, before: Array, flow: Array, past: Array
) -> tuple[NDArray[np.float32], float]:
    """Return the scores and the part that the motion explains, after a check of the next past."""
    smoothed, following = np.full_like(scores, np.nan), np.full_like(past, np.nan)
    explained = _native.stabilise(scores, grey, before, flow, past, smoothed, following)
    np.testing.assert_array_equal(following, past_of(smoothed))
    return smoothed, explained


def ramp(value: Array, same: float, other: float) -> Array:
    return np.clip((other - value) / (other - same), 0.0, 1.0)


def window_means(values: Array, cells: int, axis: int) -> Array:
    """Return means over every cell's pixels and one more on each side, along an axis."""
    pixels = values.shape[axis]
    means = []
    for cell in range(cells):
        first = cell * pixels // cells
        last = max((cell + 1) * pixels // cells - 1, first)
        window = range(max(first - 1, 0), min(last + 2, pixels))
        means.append(values.take(window, axis).mean(axis))
    return np.stack(means, axis)


def bilinear(picture: Array, y: Array, x: Array) -> Array:
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    value = 0.0
    for i, down in ((0, 1 - (y - top)), (1, y - top)):
        for j, across in ((0, 1 - (x - left)), (1, x - left)):
            rows = np.clip(top + i, 0, picture.shape[0] - 1)
            value = (
                value + down * across * picture[rows, np.clip(left + j, 0, picture.shape[1] - 1)]
            )
    return np.asarray(value)


def cubic(distance: Array) -> Array:
    d = np.abs(distance)
    near = 1.25 * d**3 - 2.25 * d**2 + 1
    far = -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def moved_past(scores: Array, y: Array, x: Array) -> Array:
    """Return scores [K, h, w] at positions [h, w], by bicubic interpolation."""
    _, height, width = scores.shape
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    value = np.zeros(scores.shape)
    for i in range(-1, 3):
        for j in range(-1, 3):
            weight = cubic(y - (top + i)) * cubic(x - (left + j))
            rows, columns = np.clip(top + i, 0, height - 1), np.clip(left + j, 0, width - 1)
            value += weight * scores[:, rows, columns]
    return np.clip(value, 0.0, 1.0)


def reference(
    scores: Array, grey: Array, before: Array, flow: Array, past: Array
) -> tuple[Array, float]:
    """Return what `stabilise` promises, in float64; past: scores [K, h, w]."""
    height, width = scores.shape[1:]
    rows, columns = grey.shape
    x = np.arange(columns) + flow[..., 0].astype(float)
    y = np.arange(rows)[:, None] + flow[..., 1].astype(float)
    lost = (x < -1) | (x > columns) | (y < -1) | (y > rows)
    error = np.abs(bilinear(before.astype(float), y, x) - grey)
    planes = np.stack([error, flow[..., 0], flow[..., 1]]).astype(float)
    planes[:, lost] = np.array([[255.0], [0.0], [0.0]])
    error, across, down = window_means(window_means(planes, width, 2), height, 1)
    trust = ramp(error, 6.0, 18.0)
    if trust.mean() < 0.45:
        return scores, float(trust.mean())
    from_x = np.arange(width) + across * width / columns
    from_y = np.arange(height)[:, None] + down * height / rows
    inside = (np.abs(from_x - (width - 1) / 2) <= width / 2) & (
        np.abs(from_y - (height - 1) / 2) <= height / 2
    )
    old = moved_past(past.astype(float), from_y, from_x)
    part = 0.85 * trust * ramp(np.abs(old - scores).max(0), 0.6, 0.9) * inside
    return scores + part * (old - scores), float(trust.mean())


def blurred(values: Array, times: int = 3) -> Array:
    for _ in range(times):
        for axis in (-1, -2):
            values = (np.roll(values, 1, axis) + values + np.roll(values, -1, axis)) / 3
    return values


def case(slots: int, cells: tuple[int, int], pixels: tuple[int, int]) -> tuple[Array, ...]:
    """Return scores, two pictures, a flow and scores before: parts of which agree and parts not."""
    rng = np.random.default_rng(slots)
    past = rng.random((slots, *cells)).astype(np.float32)
    scores = np.clip(past + rng.normal(0, 0.25, past.shape), 0, 1).astype(np.float32)
    before = blurred(rng.integers(0, 256, pixels).astype(float)).astype(np.uint8)
    flow = (6 * blurred(rng.normal(0, 1, (2, *pixels)))).transpose(1, 2, 0).astype(np.float32)
    rows, columns = np.mgrid[: pixels[0], : pixels[1]]
    moved = bilinear(before.astype(float), rows + flow[..., 1], columns + flow[..., 0])
    strength = np.clip(np.linspace(-25, 25, pixels[1]), 0, None)
    grey = np.clip(moved + strength * rng.choice([-1, 1], pixels), 0, 255).astype(np.uint8)
    return scores, grey, before, np.ascontiguousarray(flow), past


@pytest.mark.parametrize(
    ("slots", "cells", "pixels"),
    [
        (1, (1, 1), (1, 1)),
        (3, (7, 5), (19, 15)),
        (8, (13, 17), (31, 29)),
        (9, (18, 24), (30, 40)),
        (17, (24, 31), (11, 13)),
    ],
)
def test_scores_are_those_of_the_rules(
    slots: int, cells: tuple[int, int], pixels: tuple[int, int]
) -> None:
    scores, grey, before, flow, past = case(slots, cells, pixels)
    smoothed, explained = stabilised(scores, grey, before, flow, past_of(past))
    wanted, part = reference(scores, grey, before, flow, past)
    np.testing.assert_allclose(smoothed, wanted, atol=2e-5)
    assert explained == pytest.approx(part, abs=1e-5)
    if cells != (1, 1):  # else a case would not show whether anything is blended
        changed = np.abs(smoothed - scores).max(0) > 1e-3
        assert 0.2 < changed.mean() < 0.999


def moving(
    shift_xy: tuple[float, float], hw: tuple[int, int] = (24, 32)
) -> tuple[Array, Array, Array, Array, Array]:
    """Return a smooth scene as it was, scores and picture, as it is, and its flow: exact, not looked for."""

    def scene(dx: float, dy: float) -> tuple[Array, Array]:
        y, x = np.mgrid[: hw[0], : hw[1]].astype(float)
        x, y = x + dx, y + dy
        waves = [0.5 + 0.4 * np.sin(0.5 * x + k) * np.cos(0.4 * y - k) for k in range(5)]
        grey = 128 + 60 * np.sin(0.4 * x) * np.cos(0.5 * y)
        return np.stack(waves).astype(np.float32), np.round(grey).astype(np.uint8)

    past, before = scene(0.0, 0.0)
    scores, grey = scene(*shift_xy)
    flow = np.broadcast_to(np.float32(shift_xy), (*hw, 2))
    return scores, grey, before, np.ascontiguousarray(flow), past


@pytest.mark.parametrize("shift_xy", [(0.0, 0.0), (3.0, -2.0), (1.5, 0.75)])
def test_scores_follow_a_camera_that_moves(shift_xy: tuple[float, float]) -> None:
    """Noise of this frame goes by what the past takes over, wherever that lies in the moved picture."""
    scores, grey, before, flow, past = moving(shift_xy)
    noise = np.random.default_rng(1).normal(0, 0.05, scores.shape).astype(np.float32)
    smoothed, explained = stabilised(np.asarray(scores + noise), grey, before, flow, past_of(past))
    middle = (slice(None), slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(
        (smoothed - scores)[middle], 0.15 * noise[middle], atol=0.01 if shift_xy[0] else 1e-6
    )
    assert explained > 0.75


def test_what_came_from_outside_has_no_past() -> None:
    scores, grey, before, flow, past = moving((8.0, 0.0))
    noisy = np.asarray(scores + np.float32(0.1))
    smoothed, _ = stabilised(noisy, grey, before, flow, past_of(past))
    np.testing.assert_array_equal(smoothed[:, :, -7:], noisy[:, :, -7:])
    assert (smoothed[:, 4:-4, 4:-12] < noisy[:, 4:-4, 4:-12] - 0.05).all()


def test_what_moves_in_the_picture_is_not_smeared() -> None:
    scores, grey, before, flow, past = moving((0.0, 0.0))
    grey[8:16, 10:20] = 255 - grey[8:16, 10:20] // 4  # something came in between
    scores = np.asarray(scores + np.float32(0.1))
    smoothed, _ = stabilised(scores, grey, before, flow, past_of(past))
    np.testing.assert_array_equal(smoothed[:, 9:15, 11:19], scores[:, 9:15, 11:19])
    assert (smoothed[:, :6] < scores[:, :6]).all()


def test_scores_that_say_another_thing_are_believed() -> None:
    scores, grey, before, flow, past = moving((0.0, 0.0))
    scores[2, 3:9, 4:12] = np.where(past[2, 3:9, 4:12] < 0.5, 1.0, 0.0)
    past[2, 3:9, 4:12] = 1.0 - scores[2, 3:9, 4:12]
    smoothed, _ = stabilised(scores, grey, before, flow, past_of(past))
    np.testing.assert_array_equal(smoothed[:, 3:9, 4:12], scores[:, 3:9, 4:12])


def test_a_cut_begins_anew() -> None:
    scores, grey, before, flow, past = moving((0.0, 0.0))
    other = np.ascontiguousarray(255 - grey[::-1])
    # A few cells are alike by chance, and are not believed either.
    other[:2] = before[:2]
    noisy = np.asarray(scores + np.float32(0.1))
    smoothed, explained = stabilised(noisy, other, before, flow, past_of(past))
    np.testing.assert_array_equal(smoothed, noisy)
    assert 0.0 < explained < 0.45


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_stay_for_the_label_map_to_refuse(value: float) -> None:
    scores, grey, before, flow, past = moving((0.0, 0.0))
    scores[3, 7, 11] = value
    smoothed, _ = stabilised(scores, grey, before, flow, past_of(past))
    np.testing.assert_array_equal(smoothed[:, 7, 11], scores[:, 7, 11])
    assert np.isfinite(np.delete(smoothed.reshape(5, -1), 7 * 32 + 11, axis=1)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30, 1e9])
def test_a_flow_that_leads_nowhere_brings_no_past(value: float) -> None:
    scores, grey, before, flow, past = moving((0.0, 0.0))
    flow[:8] = value
    noisy = np.asarray(scores + np.float32(0.1))
    smoothed, explained = stabilised(noisy, grey, before, flow, past_of(past))
    np.testing.assert_array_equal(smoothed[:, :7], noisy[:, :7])
    assert (smoothed[:, 10:] < noisy[:, 10:]).all() and 0.6 < explained < 0.7


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scores", np.zeros((5, 24, 32)), "scores has dtype float64, but float32"),
        ("grey", np.zeros((24, 32, 3), np.uint8), "grey has shape .*, but 2 dimensions"),
        ("past_grey", np.zeros((24, 31), np.uint8), "past_grey has shape .*, but grey needs 32"),
        ("flow", np.zeros((24, 32, 3), np.float32), "flow has shape .*, but x and y needs 2"),
        ("flow", np.zeros((23, 32, 2), np.float32), "flow has shape .*, but grey needs 24"),
        (
            "past",
            np.zeros((24, 32, 5), np.float32),
            "past has shape .*, but whole lanes .* needs 8",
        ),
        ("following", np.zeros((25, 32, 8), np.float32), "next has shape .*, but scores needs 24"),
        ("smoothed", np.zeros((4, 24, 32), np.float32), "smoothed has .*, but scores needs 5"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Array, message: str) -> None:
    scores, grey, before, flow, past = moving((0.0, 0.0))
    given = {
        "scores": scores,
        "grey": grey,
        "past_grey": before,
        "flow": flow,
        "past": past_of(past),
        "smoothed": np.zeros_like(scores),
        "following": past_of(past),
    }
    with pytest.raises(ValueError, match=message):
        _native.stabilise(*(given | {name: value}).values())


def test_nothing_is_smoothed_in_place() -> None:
    scores, grey, before, flow, past = moving((0.0, 0.0))
    kept = past_of(past)
    with pytest.raises(ValueError, match="smoothed shares memory with scores"):
        _native.stabilise(scores, grey, before, flow, kept, scores, kept.copy())
    with pytest.raises(ValueError, match="next shares memory with past"):
        _native.stabilise(scores, grey, before, flow, kept, scores.copy(), kept)
