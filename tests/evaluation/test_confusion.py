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
    with pytest.raises(
        BadInputError, match="label id 2 at row 0, column 1 is out of range, the last one is 1"
    ):
        confusion.add(ids([0, 2]), ids([0, 0]))
    with pytest.raises(BadInputError, match="prediction id 7 at row 1, column 0 is out of range"):
        confusion.add(ids([1], [1]), ids([0], [7]))
    with pytest.raises(
        BadInputError, match="labels has dtype int64, but uint8, uint16 or int32 is"
    ):
        confusion.add(np.zeros((1, 1), np.int64), ids([0]))
    with pytest.raises(BadInputError, match=r"has shape \[0, 3\], but every dimension"):
        confusion.add(ids([0, 0, 0])[:0], ids([0, 0, 0])[:0])
    assert not confusion.matrix.any()


def test_following_the_advice_helps() -> None:
    confusion = Confusion(2)
    labels, predictions = ids([0, 2]), ids([0, 7])
    with pytest.raises(BadInputError, match="label such pixels as a class or as 255, which is not"):
        confusion.add(labels, predictions)
    labels[labels == 2] = 255
    confusion.add(labels, predictions)
    labels[labels == 255] = 1
    with pytest.raises(BadInputError, match="prediction id 7 .* or 255 for no class"):
        confusion.add(labels, predictions)
    predictions[predictions == 7] = 255
    confusion.add(labels, predictions)
    np.testing.assert_array_equal(confusion.matrix, [[2, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_without_an_ignored_label_every_label_must_be_a_class(dtype: type) -> None:
    confusion = Confusion(2, ignore=None)
    last = -1 if dtype is np.int32 else np.iinfo(dtype).max
    with pytest.raises(BadInputError, match=f"label id {last} at .* is 1; label .* as a class$"):
        confusion.add(ids([0, last], dtype=dtype), ids([0, 0]))
    confusion.add(ids([0, 1], dtype=dtype), ids([0, 0]))
    assert confusion.matrix.sum() == 2


def test_views_and_other_types_are_counted_as_their_copies() -> None:
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 5, (2, 12, 10))
    whole, views = Confusion(5), Confusion(5)
    whole.add(labels[::2, ::-1].astype(np.uint8), predictions[1::2].astype(np.uint8))
    views.add(labels.astype(np.int32)[::2, ::-1], np.asfortranarray(predictions[1::2], np.uint16))
    np.testing.assert_array_equal(whole.matrix, views.matrix)


def test_measures_counted_by_hand() -> None:
    confusion = Confusion(4)
    # rows: 8 labelled (6 right, 1 as 1, 1 as nothing), 2 (1 right, 1 as 2), 1 (right), none
    confusion.matrix += np.array([[6, 1, 0, 0, 1], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0] * 5])
    iou = [6 / 8, 1 / 3, 1 / 2]
    np.testing.assert_allclose(confusion.iou, [*iou, np.nan])
    np.testing.assert_allclose(confusion.class_accuracy, [6 / 8, 1 / 2, 1, np.nan])
    np.testing.assert_allclose(confusion.class_precision, [1, 1 / 2, 1 / 2, np.nan])
    assert confusion.mean_accuracy == pytest.approx((6 / 8 + 1 / 2 + 1) / 3)
    assert confusion.frequency_weighted_iou == pytest.approx(np.dot(iou, [8, 2, 1]) / 11)
    assert confusion.miou_of([0, 2, 3]) == pytest.approx((iou[0] + iou[2]) / 2)
    assert math.isnan(confusion.miou_of([3]))
    assert confusion.pairs(2) == [(0, 1, 1, 1 / 8), (0, None, 1, 1 / 8)]
    assert len(confusion.pairs(10)) == 3


def test_merging_is_counting_all() -> None:
    rng = np.random.default_rng(8)
    maps = rng.integers(0, 4, (6, 2, 5, 7)).astype(np.uint8)
    whole, first, second = Confusion(4), Confusion(4), Confusion(4)
    for index, (labels, predictions) in enumerate(maps):
        whole.add(labels, predictions)
        (first if index % 2 else second).add(labels, predictions)
    first.merge(second)
    np.testing.assert_array_equal(first.matrix, whole.matrix)
    with pytest.raises(BadInputError, match="counts of 3 classes cannot be added to those of 4"):
        first.merge(Confusion(3))
