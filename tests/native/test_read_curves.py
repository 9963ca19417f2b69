"""Confidences read off curves by the native module against numpy, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy import _native


def arrays(dtype: type[np.generic], names: int) -> tuple[NDArray[Any], ...]:
    rng = np.random.default_rng(names)
    ids = rng.integers(0, names, (17, 23)).astype(dtype)
    ids[rng.random(ids.shape) < 0.3] = np.iinfo(dtype).max
    curves = np.sort(rng.integers(0, 256, (names + 1, 256)), axis=1).astype(np.uint8)
    return ids, curves, rng.integers(0, 256, ids.shape).astype(np.uint8)


@pytest.mark.parametrize(("dtype", "names"), [(np.uint8, 1), (np.uint8, 254), (np.uint16, 700)])
def test_each_class_has_its_curve_and_others_the_last(dtype: type[np.generic], names: int) -> None:
    ids, curves, confidence = arrays(dtype, names)
    found = confidence.copy()
    _native.read_curves(ids, curves, found)
    wanted = curves[np.minimum(ids.astype(int), names), confidence]
    assert np.array_equal(found, wanted) and not np.array_equal(found, confidence)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"curves": np.zeros((2, 255), np.uint8)},
            r"curves has shape \[2, 255\], but a confidence needs 256",
        ),
        ({"curves": np.zeros((2, 256), np.float32)}, "curves has dtype float32"),
        ({"confidence": np.zeros((17, 22), np.uint8)}, "confidence has shape"),
        ({"ids": np.zeros((17, 23), np.int64)}, "ids has dtype int64"),
    ],
)
def test_other_arrays_are_refused(changed: dict[str, Any], message: str) -> None:
    names = ("ids", "curves", "confidence")
    given = dict(zip(names, arrays(np.uint8, 3), strict=True)) | changed
    before = given["confidence"].copy()
    with pytest.raises(ValueError, match=message):
        _native.read_curves(**given)
    assert np.array_equal(given["confidence"], before)
