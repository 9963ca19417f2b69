"""Confusion against matrices counted by hand and a pixel-by-pixel oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation import Confusion


def ids(*rows: list[int], dtype: type = np.uint8) -> np.ndarray:
    return np.array(rows, dtype=dtype)


def test_counted_by_hand() -> None:
    confusion = Confusion(3)
    confusion.add(ids([0, 0, 1], [1, 2, 255]), ids([0, 1, 1], [255, 2, 0]))
    np.testing.assert_array_equal(confusion.matrix, [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]])
    # Class 0: 1 right, 2 labelled, 1 predicted. Class 1: 1 right, 2 labelled, 2 predicted.
    np.testing.assert_allclose(confusion.iou, [1 / 2, 1 / 3, 1])
    assert confusion.miou_present == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert confusion.accuracy == pytest.approx(3 / 5)


def test_an_unlabelled_pixel_is_wrong_but_blames_no_class() -> None:
    confusion = Confusion(2)
    confusion.add(ids([0, 0, 1, 1]), ids([0, 255, 1, 1]))
    np.testing.assert_allclose(confusion.iou, [1 / 2, 1])
    assert confusion.accuracy == pytest.approx(3 / 4)


def test_the_two_denominators() -> None:
    confusion = Confusion(4)
    confusion.add(ids([0, 0, 0, 0]), ids([0, 0, 1, 1]))
    np.testing.assert_allclose(confusion.iou, [1 / 2, 0, np.nan, np.nan])
    assert confusion.miou_present == pytest.approx(1 / 2)  # class 0 alone is in the labels
    assert confusion.miou_union == pytest.approx(1 / 4)  # class 1 was predicted, with 0


def test_nothing_counted_is_not_a_number() -> None:
    confusion = Confusion(2)
    confusion.add(ids([255, 255]), ids([0, 1]))
    assert not confusion.matrix.any()
    for measure in (confusion.miou_present, confusion.miou_union, confusion.accuracy):
        assert math.isnan(measure)


@pytest.mark.parametrize(
    ("classes", "dtype", "none"), [(5, np.uint8, 255), (300, np.uint16, 65535)]
)
def test_equals_counting_pixel_by_pixel(classes: int, dtype: type, none: int) -> None:
    rng = np.random.default_rng(classes)
    ignore = 255 if classes < 255 else 65535
    confusion = Confusion(classes, ignore=ignore)
    right = np.zeros(classes)
    either = np.zeros(classes)
    for _ in range(3):
        labels = rng.integers(0, classes, (13, 17)).astype(dtype)
        predictions = np.where(
            rng.random((13, 17)) < 0.6, labels, rng.integers(0, classes, (13, 17))
        )
        predictions = predictions.astype(dtype)
        predictions[rng.random((13, 17)) < 0.1] = none
        labels[rng.random((13, 17)) < 0.1] = ignore
        confusion.add(labels, predictions)
        for label, prediction in zip(labels.flat, predictions.flat, strict=True):
            if label == ignore:
                continue
            either[label] += 1
            if label == prediction:
                right[label] += 1
            elif prediction != none:
                either[prediction] += 1
    expected = np.where(either > 0, right / np.maximum(either, 1), np.nan)
    np.testing.assert_allclose(confusion.iou, expected)


def test_adding_images_is_adding_pixels() -> None:
    rng = np.random.default_rng(3)
    labels, predictions = rng.integers(0, 4, (2, 8, 6)).astype(np.uint8)
    whole, halves = Confusion(4), Confusion(4)
    whole.add(labels, predictions)
    halves.add(labels[:3], predictions[:3])
    halves.add(labels[3:], predictions[3:])
    np.testing.assert_array_equal(whole.matrix, halves.matrix)


def test_refuses_what_does_not_fit() -> None:
    confusion = Confusion(2)
    with pytest.raises(BadInputError, match=r"labels \[1, 2\] and predictions \[1, 1\] must be"):
        confusion.add(ids([0, 1]), ids([0]))
    with pytest.raises(BadInputError, match="label id 2 is out of range, the last one is 1"):
        confusion.add(ids([2]), ids([0]))
    with pytest.raises(BadInputError, match="prediction id 7 is out of range"):
        confusion.add(ids([1]), ids([7]))
    assert not confusion.matrix.any()
