"""Smoothing changes no bit of the float function, and makes int8 steps finer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from calib_model import copied
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from dedos_deploy.calib.smoothing import find_smoothable, smooth, smoothing_factors
from dedos_deploy.errors import BadInputError

Row = NDArray[np.float32]


def _maxima(graph: onnx.ModelProto, seed: int = 0) -> dict[str, Row]:
    """Return maxima with outliers of a hundred times the others, for every norm."""
    rng = np.random.default_rng(seed)
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    found = {}
    for item in find_smoothable(graph):
        width = constants[item.sites[0].weight].dims[0]
        row = rng.uniform(0.5, 2, width).astype(np.float32)
        row[rng.integers(0, width, 3)] *= 100
        found[item.norm] = row
    return found


def test_the_function_stays_the_same_to_the_bit(float_graph: onnx.ModelProto, run: Any) -> None:
    graph = copied(float_graph)
    factors = smooth(graph, _maxima(graph))
    onnx.checker.check_model(graph)
    assert np.array_equal(run(graph), run(float_graph))
    assert {"trunk.blocks.0.qkv", "trunk.blocks.1.fc"} <= set(factors)
    assert all(np.ptp(row) > 0 for row in factors.values())


def test_norms_with_shared_constants_are_smoothed_apart(
    float_graph: onnx.ModelProto, run: Any
) -> None:
    """Fresh LayerNorms are all ones, and an exporter stores equal constants once."""
    scales = [n.input[1] for n in float_graph.graph.node if n.op_type == "LayerNormalization"]
    assert len(set(scales)) < len(scales)
    items = find_smoothable(float_graph)
    graph = copied(float_graph)
    smooth(graph, {items[0].norm: _maxima(graph)[items[0].norm]})
    assert np.array_equal(run(graph), run(float_graph))


def test_half_graphs_take_the_same_norms(
    float_graph: onnx.ModelProto, half_graph: onnx.ModelProto
) -> None:
    names = [[item.norm for item in find_smoothable(g)] for g in (float_graph, half_graph)]
    assert names[0] == names[1] and len(names[0]) >= 5
    graph = copied(half_graph)
    smooth(graph, _maxima(float_graph))
    onnx.checker.check_model(graph)


@given(
    st.lists(st.floats(0, 1e4, width=32), min_size=4, max_size=4),
    st.lists(st.floats(0, 1e2, width=32), min_size=4, max_size=4),
)
def test_factors_are_powers_of_two_in_range(activation: list[float], weight: list[float]) -> None:
    a, w = np.array(activation, np.float32), np.array(weight, np.float32)
    factors = smoothing_factors(a, w)
    mantissa, _ = np.frexp(factors)
    assert (mantissa == 0.5).all() and (factors >= 1 / 64).all() and (factors <= 64).all()
    assert (factors[(a == 0) | (w == 0)] == 1).all()


def test_factors_by_hand() -> None:
    # sqrt(a/w): 16, 1, 1, 1; geometric mean 2; so 8, 1/2, 1/2, 1/2.
    a = np.array([256, 1, 1, 1], np.float32)
    assert smoothing_factors(a, np.ones(4, np.float32)).tolist() == [8, 0.5, 0.5, 0.5]


def test_smoothing_makes_the_product_more_exact() -> None:
    """With an outlier channel, the quantized product is closer after smoothing: float64."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 32))
    x[:, 5] *= 100
    w = rng.normal(size=(32, 16))
    f = smoothing_factors(
        np.abs(x).max(0).astype(np.float32), np.abs(w).max(1).astype(np.float32)
    ).astype(np.float64)

    def error(x: NDArray[np.float64], w: NDArray[np.float64]) -> float:
        step, steps = np.abs(x).max() / 127, np.abs(w).max(0) / 127
        return float(
            np.square((np.rint(x / step) * step) @ (np.rint(w / steps) * steps) - x @ w).mean()
        )

    assert error(x / f, w * f[:, None]) < 0.5 * error(x, w)


def test_a_norm_read_by_anything_else_is_left_alone(float_graph: onnx.ModelProto) -> None:
    norms = {item.norm for item in find_smoothable(float_graph)}
    assert "trunk.ln_post" not in norms  # The class head reads it, too.
    assert "refinement" not in norms  # It has no scale of its own.


def test_maxima_of_something_else_are_refused(float_graph: onnx.ModelProto) -> None:
    with pytest.raises(BadInputError, match="no LayerNorm 'trunk.none' to smooth"):
        smooth(copied(float_graph), {"trunk.none": np.ones(3, np.float32)})
    name = find_smoothable(float_graph)[0].norm
    with pytest.raises(BadInputError, match=r"has 32 channels, maxima of shape \(3,\)"):
        smooth(copied(float_graph), {name: np.ones(3, np.float32)})


def test_only_what_is_smoothed_gets_new_constants(float_graph: onnx.ModelProto) -> None:
    graph = copied(float_graph)
    name = find_smoothable(graph)[0].norm
    smooth(graph, {name: _maxima(graph)[name]})
    before = {t.name: numpy_helper.to_array(t) for t in float_graph.graph.initializer}
    changed = [
        t.name
        for t in graph.graph.initializer
        if t.name not in before or not np.array_equal(before[t.name], numpy_helper.to_array(t))
    ]
    assert sorted(changed) == sorted(
        [f"{name}.1.smoothed", f"{name}.2.smoothed", "model.trunk.blocks.0.qkv.weight"]
    )
