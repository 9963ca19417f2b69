"""Thresholds per class: the best of all by trying each, and nothing for other classes to lose."""

from __future__ import annotations

import numpy as np
import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.thresholds import ThresholdCounts, mean_iou

NAMES = ("road", "car", "never")
NONE = len(NAMES)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, elsewhere, winners, score; right winners score higher on the whole."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (40, 50)).astype(np.uint8)
    elsewhere = random.random(labels.shape) < 0.3
    labels[elsewhere | (random.random(labels.shape) < 0.1)] = 255
    winners = np.where(
        random.random(labels.shape) < 0.7, labels, random.integers(0, 4, labels.shape)
    )
    winners = np.where(winners == 255, random.integers(0, 2, labels.shape), winners).astype(
        np.uint8
    )
    score = random.integers(0, 180, labels.shape) + 75 * (labels == winners)
    return labels, elsewhere, winners, score.astype(np.uint8)


def iou_at(level: int, class_id: int, scenes: list[tuple[np.ndarray, ...]]) -> float:
    """Return the IoU of a class whose pixels below `level` are left out, pixel by pixel."""
    both = either = 0
    for labels, elsewhere, winners, score in scenes:
        said = (winners == class_id) & (score >= level) & ((labels < NONE) | elsewhere)
        truth = labels == class_id
        both += int((said & truth).sum())
        either += int((said | truth).sum())
    return both / either


def test_the_best_of_all_levels_is_chosen() -> None:
    scenes = [scene(seed) for seed in range(3)]
    counts = ThresholdCounts(NONE)
    for one in scenes:
        counts.add(*one)
    for class_id, found in enumerate(counts.best(NAMES)[:2]):
        tried = [iou_at(level, class_id, scenes) for level in range(256)]
        assert found.iou_without == pytest.approx(tried[0])
        assert found.iou_with == pytest.approx(max(tried)) and found.iou_with > tried[0]
        assert found.threshold == pytest.approx((int(np.argmax(tried)) - 0.5) / 255)
    assert counts.best(NAMES)[2].threshold is None  # no label shows it
    without, with_them = mean_iou(counts.best(NAMES))
    assert with_them > without


def test_one_threshold_leaves_the_iou_of_others_alone() -> None:
    labels, _, winners, score = scene(7)
    before = Confusion(NONE)
    before.add(labels, winners, unlabelled=NONE)
    cut = np.where((winners == 1) & (score < 120), NONE, winners).astype(np.uint8)
    after = Confusion(NONE)
    after.add(labels, cut, unlabelled=NONE)
    assert after.iou[0] == before.iou[0] and after.iou[1] != before.iou[1]


def test_a_class_that_is_always_right_keeps_all_its_pixels() -> None:
    counts = ThresholdCounts(1)
    labels = np.zeros((4, 4), np.uint8)
    nowhere = np.zeros((4, 4), bool)
    counts.add(labels, nowhere, labels, np.arange(16, dtype=np.uint8).reshape(4, 4))
    (found,) = counts.best(("road",))
    assert (found.threshold, found.iou_without, found.iou_with) == (0.0, 1.0, 1.0)


def test_maps_must_fit() -> None:
    labels = np.zeros((4, 4), np.uint8)
    with pytest.raises(BadInputError, match="maps of one height and width"):
        ThresholdCounts(1).add(labels, labels.astype(bool), labels[:2], labels)
