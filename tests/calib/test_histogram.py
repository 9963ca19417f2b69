"""Histograms of magnitudes: exact counts, exact maxima, and no trace of the order."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dedos_deploy.calib.histogram import BINS, MagnitudeHistogram, bin_edges
from dedos_deploy.calib.options import ESTIMATORS
from dedos_deploy.calib.ranges import RangeOptions, tensor_ranges
from dedos_deploy.errors import BadInputError

finite = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def test_edges_grow_and_bins_are_narrow() -> None:
    edges = bin_edges()
    assert edges.shape == (BINS + 1,) and edges[0] == 0.0 and edges[-1] == 2.0**128
    assert (np.diff(edges) > 0).all()
    normal = edges >= 2.0**-126
    assert (np.diff(edges)[normal[:-1]] <= edges[:-1][normal[:-1]] / 128).all()


def test_every_value_falls_into_its_bin() -> None:
    values = np.float32([0.0, -0.0, 1.0, -1.0, 1.0078125, 1.0078124, 1e-44, 3.4028235e38, -2.5])
    histogram = MagnitudeHistogram.of(values, name="x")
    edges = bin_edges()
    expected = np.searchsorted(edges, np.abs(values.astype(np.float64)), side="right") - 1
    assert np.array_equal(histogram.counts, np.bincount(expected, minlength=BINS))
    assert histogram.counts[0] == 3  # both zeros, and what is smaller than the first edge
    assert histogram.max == float(np.float32(3.4028235e38))
    assert histogram.total == len(values)


@given(finite, st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_parts_in_any_order_are_the_whole(values: NDArray[np.float32], seed: int) -> None:
    whole = MagnitudeHistogram.of(values, name="x")
    assert whole.max == float(np.abs(values).max())
    shuffler = random.Random(seed)
    order = list(range(len(values)))
    shuffler.shuffle(order)
    parts = [part for part in np.array_split(values[order], shuffler.randint(1, 5)) if part.size]
    merged = MagnitudeHistogram.of(parts[0], name="x")
    for part in parts[1:]:
        merged = MagnitudeHistogram.of(part, name="x").merged(merged)
    assert merged == whole
    for estimator in ESTIMATORS:
        options = RangeOptions(estimator)
        # Equal as floats, not nearly.
        assert tensor_ranges({"x": merged}, options) == tensor_ranges({"x": whole}, options)


def test_large_and_strided_tensors_are_counted_whole() -> None:
    values = np.random.default_rng(0).normal(size=(3, 1200, 1000)).astype(np.float32)
    expected = MagnitudeHistogram.of(values[0], name="x")
    for row in values[1:]:
        expected = expected.merged(MagnitudeHistogram.of(row, name="x"))
    got = MagnitudeHistogram.of(values.transpose(2, 0, 1), name="x")
    assert got == expected and got.total == values.size


def test_half_precision_is_counted_by_value() -> None:
    values = np.float16([1.5, -65504.0, 0.1])
    expected = MagnitudeHistogram.of(values.astype(np.float32), name="x")
    assert MagnitudeHistogram.of(values, name="x") == expected
    assert expected != MagnitudeHistogram.of(np.float32([1.5]), name="x")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused_by_name(bad: float) -> None:
    values = np.ones(5_000_000 // 4, np.float32)
    values[-1] = bad
    with pytest.raises(BadInputError, match="'block.3' has a NaN or an infinity.*check the model"):
        MagnitudeHistogram.of(values, name="block.3")


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint8])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(BadInputError, match="'ids' is .*only float tensors"):
        MagnitudeHistogram.of(np.ones(3, dtype), name="ids")
    with pytest.raises(BadInputError, match="int64 counts"):
        MagnitudeHistogram(np.zeros(4, np.int64), 1.0)
