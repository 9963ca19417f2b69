"""Boundary IoU against the paper's definition, class by class and pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.boundary import BoundaryIou, on_contour

NONE = 9


def band(mask: np.ndarray, reach: int, hidden: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask that are within `reach` of one outside it; hidden ones are none."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for y, x in zip(*mask.nonzero(), strict=True):
        for v in range(y - reach, y + reach + 1):
            for u in range(x - reach, x + reach + 1):
                inside = 0 <= v < height and 0 <= u < width
                if not inside or (not mask[v, u] and not hidden[v, u]):
                    found[y, x] = True
    return found


def regions(seed: int, classes: int, size_hw: tuple[int, int]) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, classes, (4, 5))
    rows = np.sort(random.integers(0, 4, size_hw[0]))
    columns = np.sort(random.integers(0, 5, size_hw[1]))
    return coarse[np.ix_(rows, columns)]


def eroded(mask: np.ndarray, times: int) -> np.ndarray:
    """Return a mask after 3x3 erosions, the outside of the image being none of it."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
        mask = windows.all(axis=(2, 3))
    return mask


@pytest.mark.parametrize("reach", [1, 2, 5])
def test_the_band_is_what_repeated_erosion_removes(reach: int) -> None:
    ids = regions(reach, 5, (33, 47)).astype(np.uint8)
    contour = on_contour(ids, reach)
    for index in range(5):
        mask = ids == index
        np.testing.assert_array_equal(mask & contour, mask & ~eroded(mask, reach))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(dtype: type, seed: int) -> None:
    size, classes = (23, 31), 4
    ignore = int(np.iinfo(dtype).max)
    random = np.random.default_rng(seed)
    counted = BoundaryIou(classes, ignore=ignore, dilation=0.05)
    both, either = np.zeros(classes), np.zeros(classes)
    reach = max(1, round(0.05 * np.hypot(*size)))
    for image in range(2):
        labels = regions(10 * seed + image, classes, size).astype(dtype)
        answer = np.roll(labels, 2, axis=1)
        answer[random.random(size) < 0.02] = NONE
        labels[5:9, 12:20] = ignore
        counted.add(labels, answer)
        hidden, nothing = labels == ignore, np.zeros(size, bool)
        for index in range(classes):
            first = band(labels == index, reach, hidden) & ~hidden
            second = band(answer == index, reach, nothing) & ~hidden
            both[index] += (first & second).sum()
            either[index] += (first | second).sum()
    np.testing.assert_array_equal(counted.both, both)
    np.testing.assert_array_equal(counted.either, either)
    np.testing.assert_allclose(
        counted.iou, np.where(either > 0, both / np.maximum(either, 1), np.nan)
    )


def test_perfect_contours_score_one_and_thick_ones_less_than_their_iou() -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 20:60] = 1
    answer = np.zeros_like(labels)
    answer[18:42, 18:62] = 1
    perfect, thick = BoundaryIou(2, ignore=255), BoundaryIou(2, ignore=255)
    perfect.add(labels, labels)
    thick.add(labels, answer)
    assert perfect.iou.tolist() == [1, 1]
    assert thick.iou[1] < 0.6 * (800 / 1056)
    assert perfect.cells() == (
        (0, *(perfect.both[:1].tolist() * 2)),
        (1, *(perfect.both[1:].tolist() * 2)),
    )


def test_an_unknown_region_makes_no_contour() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 10:30] = 255
    counted = BoundaryIou(1, ignore=255)
    counted.add(labels, np.zeros_like(labels))
    assert counted.iou.tolist() == [1]
    assert not on_contour(labels, 1, wildcard=255)[9, 9] and on_contour(labels, 1)[9, 9]


def test_no_class_is_no_class_in_16_bits_too() -> None:
    labels = np.zeros((20, 20), np.uint16)
    answer = np.full_like(labels, 65535)
    counted = BoundaryIou(300, ignore=65535)
    counted.add(labels, answer)
    assert counted.iou[0] == 0 and counted.both.sum() == 0
    with pytest.raises(BadInputError, match=r"labels \[20, 20\] and predictions \[1, 20\] must be"):
        counted.add(labels, answer[:1])


def counted(seed: int, shape: tuple[int, int] = (40, 50)) -> BoundaryIou:
    labels = regions(seed, 5, shape).astype(np.uint8)
    found = BoundaryIou(6, ignore=4)
    found.add(labels, np.roll(labels, 1, axis=0))
    return found


def test_counts_of_several_processes_are_one_count() -> None:
    whole, total = BoundaryIou(6, ignore=4), BoundaryIou(6, ignore=4)
    for seed in range(3):
        labels = regions(seed, 5, (40, 50)).astype(np.uint8)
        whole.add(labels, np.roll(labels, 1, axis=0))
        total.merge(counted(seed))
    for name in ("both", "either", "labelled"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(total, name))
    assert whole.labelled[[4, 5]].tolist() == [0, 0] and whole.labelled[:4].all()
    with pytest.raises(BadInputError, match="bands of 6 classes and dilation 0.1 cannot be added"):
        total.merge(BoundaryIou(6, dilation=0.1))


def test_the_two_denominators() -> None:
    counted = BoundaryIou(4)
    labels = np.zeros((20, 20), np.uint8)
    answer = labels.copy()
    answer[5:9, 5:9] = 2
    counted.add(labels, answer)
    assert counted.miou_present == counted.iou[0] and counted.iou[2] == 0
    assert counted.miou_union == pytest.approx(counted.iou[0] / 2)
    assert math.isnan(BoundaryIou(4).miou_present) and math.isnan(BoundaryIou(4).miou_union)


def test_a_label_that_is_no_class_is_refused_and_nothing_counted() -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[3, 3], labels[4, 4] = 255, 3
    counted = BoundaryIou(3)
    with pytest.raises(BadInputError, match="label id 3 is out of range, the last one is 2"):
        counted.add(labels, np.zeros_like(labels))
    labels[4, 4] = 2
    with pytest.raises(BadInputError, match="label id 255 is out of range.* as a class$"):
        BoundaryIou(3, ignore=None).add(labels, np.zeros_like(labels))
    assert not counted.labelled.any() and not counted.either.any()
    counted.add(labels, np.zeros_like(labels))
    assert counted.labelled.tolist() == [62, 0, 1]
