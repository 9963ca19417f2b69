"""Range estimators against references in float64 that know the values, not their histogram."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dedos_deploy.calib.histogram import MagnitudeHistogram
from dedos_deploy.calib.options import ESTIMATORS
from dedos_deploy.calib.ranges import (
    LEVELS,
    Estimator,
    RangeOptions,
    amax_of_entropy,
    amax_of_max,
    amax_of_mse,
    amax_of_percentile,
    expected_squared_error,
    tensor_ranges,
)
from dedos_deploy.errors import BadInputError


def _histogram(values: NDArray[Any]) -> MagnitudeHistogram:
    return MagnitudeHistogram.of(values.astype(np.float32), name="x")


def _squared_error(values: NDArray[Any], amax: float) -> float:
    """Quantize every value and look."""
    step = amax / LEVELS
    quantized = np.clip(np.rint(values / step), -LEVELS, LEVELS) * step
    return float(np.mean((values - quantized) ** 2))


def _drawn(kind: str) -> NDArray[np.float64]:
    rng = np.random.default_rng(7)
    values = {
        "normal": lambda: rng.normal(size=200_000),
        "laplace": lambda: rng.laplace(size=200_000),
        "outliers": lambda: np.append(rng.normal(size=200_000), [60.0, -75.0, 90.0]),
        "gelu": lambda: np.maximum(rng.normal(size=200_000), 0.0),
    }[kind]()
    return np.asarray(values.astype(np.float32), np.float64)


KINDS = ("normal", "laplace", "outliers", "gelu")


def test_by_hand() -> None:
    """Four values: 1, 2, 3 and 4."""
    histogram = _histogram(np.array([1.0, -2.0, 3.0, -4.0]))
    assert amax_of_max(histogram) == 4.0
    assert amax_of_percentile(histogram, 100.0) == 4.0
    # Three of four do not exceed the upper edge of the bin that holds 3.
    assert amax_of_percentile(histogram, 75.0) == 3.0 * (1 + 1 / 192)
    assert amax_of_percentile(histogram, 50.0) == 2.0 * (1 + 1 / 128)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [50.1, 90.0, 99.9, 99.99])
def test_percentile_is_that_of_the_sorted_values(kind: str, percentile: float) -> None:
    values = _drawn(kind)
    expected = np.percentile(np.abs(values), percentile)
    got = amax_of_percentile(_histogram(values), percentile)
    assert got == pytest.approx(expected, rel=1 / 128, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.02, 0.1, 0.5, 1.0])
def test_expected_error_is_that_of_quantizing(kind: str, part: float) -> None:
    values = _drawn(kind)
    amax = part * float(np.abs(values).max())
    got = expected_squared_error(_histogram(values), amax)
    assert got == pytest.approx(_squared_error(values, amax), rel=0.02)


def test_expected_error_of_one_bin_by_hand() -> None:
    """|x| uniform in [1, 1 + 1/128), step 1: everything is rounded to 1."""
    histogram = _histogram(np.array([1.0]))
    width = 1 / 128
    assert expected_squared_error(histogram, 127.0) == pytest.approx(width**2 / 3)
    # Clipped at one half: the error is x - 1/2.
    expected = ((0.5 + width) ** 3 - 0.5**3) / 3 / width
    assert expected_squared_error(histogram, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_mse_finds_what_a_search_over_the_values_finds(kind: str) -> None:
    values = _drawn(kind)
    largest = float(np.abs(values).max())
    search = min(_squared_error(values, amax) for amax in largest * 2.0 ** -np.arange(0, 8, 1 / 64))
    got = amax_of_mse(_histogram(values))
    assert _squared_error(values, got) <= 1.01 * search
    for estimator in ESTIMATORS:
        other = tensor_ranges({"x": _histogram(values)}, RangeOptions(estimator))["x"]
        assert _squared_error(values, got) <= 1.01 * _squared_error(values, other)


def test_mse_keeps_everything_where_nothing_sticks_out() -> None:
    values = np.linspace(-3.0, 3.0, 100_001)
    assert amax_of_mse(_histogram(values)) == pytest.approx(3.0, rel=0.03)


def _entropy_reference(values: NDArray[np.float64]) -> float:
    """The slides' pseudo code in loops, on 2048 equal bins of the values themselves."""
    largest = np.abs(values).max()
    bins, edges = np.histogram(np.abs(values), bins=2048, range=(0.0, largest))
    bins = bins.astype(np.float64)
    bins[0] = bins[1]
    best, best_cut = np.inf, 0
    for cut in range(128, 2049):
        p = bins[:cut].copy()
        p[-1] += bins[cut:].sum()
        q = np.zeros(cut)
        # Level l holds the bins from ceil(l cut / 128) on.
        level_of = np.arange(cut) * 128 // cut
        totals = np.bincount(level_of, weights=bins[:cut], minlength=128)
        filled = np.bincount(level_of, weights=bins[:cut] > 0, minlength=128)
        q[bins[:cut] > 0] = (totals / np.maximum(filled, 1))[level_of][bins[:cut] > 0]
        p, q = p / p.sum(), q / q.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            divergence = np.where(p > 0, p * np.log(p / q), 0.0).sum()
        if divergence <= best:
            best, best_cut = divergence, cut
    return float(edges[best_cut])


@pytest.mark.parametrize("kind", ["normal", "laplace", "outliers"])
def test_entropy_follows_the_slides(kind: str) -> None:
    values = _drawn(kind)
    # The bins differ by the spreading of logarithmic ones: compare what is reached, loosely.
    assert amax_of_entropy(_histogram(values)) == pytest.approx(
        _entropy_reference(values), rel=0.15
    )


def test_outliers_are_clipped_by_all_but_max() -> None:
    ranges = {
        estimator: tensor_ranges({"x": _histogram(_drawn("outliers"))}, RangeOptions(estimator))[
            "x"
        ]
        for estimator in ESTIMATORS
    }
    assert ranges["max"] == 90.0
    assert 3.0 < ranges["percentile"] < 5.0
    # Three values of 200 000 at 15 times the rest weigh in: clipping them all costs more than it
    # gains. Entropy cannot cut where its last bin is empty, so it ends at the first of them.
    assert 5.0 < ranges["mse"] < 80.0
    assert ranges["entropy"] == pytest.approx(60.0, rel=0.01)


magnitudes = st.lists(st.floats(2.0**-10, 1000.0, width=32), min_size=1, max_size=40).map(np.array)


@given(magnitudes, st.integers(-20, 20), st.sampled_from(ESTIMATORS))
@settings(max_examples=80, deadline=None)
def test_ranges_scale_with_the_tensor(
    values: NDArray[Any], exponent: int, estimator: Estimator
) -> None:
    options = RangeOptions(estimator)
    scaled = tensor_ranges({"x": _histogram(values * 2.0**exponent)}, options)["x"]
    assert scaled == pytest.approx(
        tensor_ranges({"x": _histogram(values)}, options)["x"] * 2.0**exponent, rel=1e-12
    )


@given(magnitudes, st.sampled_from(ESTIMATORS))
@settings(max_examples=80, deadline=None)
def test_ranges_lie_within_the_tensor(values: NDArray[Any], estimator: Estimator) -> None:
    amax = tensor_ranges({"x": _histogram(values)}, RangeOptions(estimator))["x"]
    assert 0.0 < amax <= np.abs(values.astype(np.float32)).max()


@given(magnitudes, st.floats(0.5, 100.0), st.floats(0.5, 100.0))
@settings(max_examples=80, deadline=None)
def test_percentile_is_monotonic(values: NDArray[Any], one: float, other: float) -> None:
    histogram = _histogram(values)
    low, high = sorted((one, other))
    assert amax_of_percentile(histogram, low) <= amax_of_percentile(histogram, high)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_zero_and_nothing(estimator: Estimator) -> None:
    options = RangeOptions(estimator)
    assert tensor_ranges({"x": _histogram(np.zeros(9))}, options) == {"x": 0.0}
    with pytest.raises(BadInputError, match="nothing was counted of tensor 'y'"):
        tensor_ranges({"y": _histogram(np.zeros(0))}, options)


def test_options_are_checked() -> None:
    with pytest.raises(BadInputError, match="'kl' is unknown; choose one of max, percentile"):
        RangeOptions("kl")  # type: ignore[arg-type]
    for percentile in (0.0, 100.1, float("nan")):
        with pytest.raises(BadInputError, match=r"percentile must lie in \(0, 100\]"):
            RangeOptions("percentile", percentile=percentile)
    assert RangeOptions("percentile", percentile=99.9).parameters == {"percentile": 99.9}
    assert RangeOptions("mse").parameters == {}
