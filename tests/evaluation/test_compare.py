"""The paired bootstrap: against sums by hand, against known spreads, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.compare import compare
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.records import ImageRecord, cells_of

CLASSES = 4
HEADER = {"predictor": "a", "data": "set/val", "classes": ["road", "car", "sky", "never seen"]}


def images(right: float, *, count: int = 60, seed: int = 0) -> list[ImageRecord]:
    """Return records whose pixels are right with about this probability; labels stay the same."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(count):
        labels = np.random.default_rng(index).integers(0, 3, 400)
        wrong = random.random(400) > right
        predictions = np.where(wrong, (labels + 1) % 3, labels)
        matrix = np.zeros((CLASSES, CLASSES + 1), np.int64)
        np.add.at(matrix, (labels, predictions), 1)
        found.append(ImageRecord(f"i{index:03}", (20, 20), cells_of(matrix), (), 0.0))
    return found


def miou(records: list[ImageRecord]) -> float:
    confusion = Confusion(CLASSES)
    for record in records:
        confusion.matrix += record.matrix(CLASSES)
    return confusion.miou_present


def test_the_difference_is_that_of_the_sums() -> None:
    first, second = images(0.7), images(0.8, seed=1)
    found = compare((HEADER, first), ({**HEADER, "predictor": "b"}, second), draws=300)
    assert found.miou.difference == pytest.approx(miou(second) - miou(first), abs=1e-12)
    assert found.miou.low < found.miou.difference < found.miou.high
    assert found.miou.certain and set(found.moved) == {"road", "car", "sky"}
    assert (found.first, found.second, found.images, found.draws) == ("a", "b", 60, 300)
    assert found.classes["never seen"] is None


def test_a_group_of_classes_has_an_interval_of_its_own() -> None:
    first, second = ((HEADER, images(right, seed=seed)) for right, seed in ((0.7, 0), (0.8, 1)))
    found = compare(first, second, draws=300, group=["car", "sky", "never seen"])
    both = [found.classes[name].difference for name in ("car", "sky")]  # type: ignore[union-attr]
    assert found.group is not None and found.group.difference == pytest.approx(np.mean(both))
    assert found.group.low < found.group.difference < found.group.high and found.group.certain
    assert found.to_dict()["group"]["difference"] == found.group.difference
    alone = compare(first, second, draws=300, group=["car"])
    assert alone.group == alone.classes["car"]
    assert compare(first, second, draws=300, group=["never seen"]).group is None
    assert "group" not in compare(first, second, draws=300).to_dict()


def test_draws_are_what_resampling_the_images_gives() -> None:
    """A slow bootstrap, image by image, has the same interval within its own noise."""
    first, second = images(0.75, count=25), images(0.78, count=25, seed=3)
    found = compare((HEADER, first), (HEADER, second), draws=1500)
    random = np.random.default_rng(9)
    drawn = []
    for _ in range(600):
        chosen = random.integers(0, 25, 25)
        drawn.append(miou([second[i] for i in chosen]) - miou([first[i] for i in chosen]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert found.miou.low == pytest.approx(low, abs=0.15 * width)
    assert found.miou.high == pytest.approx(high, abs=0.15 * width)


def test_equal_sides_differ_by_nothing_and_noise_is_called_noise() -> None:
    same = compare((HEADER, images(0.7)), (HEADER, images(0.7)), draws=50)
    assert (same.miou.difference, same.miou.low, same.miou.high) == (0, 0, 0)
    assert not same.moved and not same.miou.certain
    noise = [
        compare((HEADER, images(0.7, seed=s)), (HEADER, images(0.7, seed=s + 50)), draws=200)
        for s in range(20)
    ]
    assert sum(one.miou.certain for one in noise) <= 4  # 1 of 20 is expected


def test_pairing_narrows_the_interval() -> None:
    """What is hard for one side is hard for the other: the same draw must serve both."""
    hard = np.random.default_rng(5).uniform(0.3, 0.95, 80)
    first = [replace(images(p, count=1, seed=i)[0], name=f"i{i}") for i, p in enumerate(hard)]
    second = [
        replace(images(min(1, p + 0.03), count=1, seed=i)[0], name=f"i{i}")
        for i, p in enumerate(hard)
    ]
    paired = compare((HEADER, first), (HEADER, second), draws=400).miou
    random = np.random.default_rng(0)
    apart = [
        miou([second[i] for i in random.integers(0, 80, 80)])
        - miou([first[i] for i in random.integers(0, 80, 80)])
        for _ in range(300)
    ]
    low, high = np.quantile(apart, [0.025, 0.975])
    assert paired.certain and paired.high - paired.low < 0.5 * (high - low)


def test_the_same_seed_gives_the_same_interval_and_order_does_not_matter() -> None:
    first, second = images(0.7), images(0.72, seed=1)
    one = compare((HEADER, first), (HEADER, second), draws=100)
    other = compare((HEADER, first[::-1]), (HEADER, second), draws=100)
    assert one == other
    assert one != compare((HEADER, first), (HEADER, second), draws=100, seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (({"data": "other/val"}, None), "different data cannot be compared: set/val and other/val"),
        (({"classes": ["a"]}, None), "different classes cannot be compared"),
        (({}, "image"), "different images cannot be compared: only one has 'i000'"),
        (({}, "label"), "labels of set/val changed between the two evaluations"),
    ],
)
def test_what_is_not_the_same_is_refused(
    change: tuple[dict[str, object], str | None], message: str
) -> None:
    header, what = {**HEADER, **change[0]}, change[1]
    second = images(0.7)
    if what == "image":
        second = second[1:]
    if what == "label":
        second[0] = replace(second[0], cells=((0, 0, 400),))
    with pytest.raises(BadInputError, match=message):
        compare((HEADER, images(0.7)), (header, second), draws=5)


def test_images_without_labels_are_left_out_on_both_sides() -> None:
    skipped = ImageRecord("z", (4, 4), (), (), 0.0)
    first, second = images(0.7), images(0.8, seed=1)
    with_it = compare((HEADER, [*first, skipped]), (HEADER, [*second, skipped]), draws=20)
    assert with_it == compare((HEADER, first), (HEADER, second), draws=20)
