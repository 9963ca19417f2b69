"""Things pasted from other pictures: which pieces are things, where they come to stand, what is told of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from micro import Write

from dedos_deploy.errors import BadInputError
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.augment import AugmentSettings
from dedos_deploy.training.data import Batch, BatchSettings, BatchStream
from dedos_deploy.training.folders import open_folder
from dedos_deploy.training.paste import LEAST_PX, SMALLEST, Thing, find_thing, paste
from dedos_deploy.training.settings import settings_for

ROAD, PERSON = 0, 2


def labels_with(
    *boxes: tuple[int, int, int, int], size_hw: tuple[int, int] = (60, 80)
) -> np.ndarray:
    labels = np.full(size_hw, ROAD, np.int64)
    for top, left, bottom, right in boxes:
        labels[top:bottom, left:right] = PERSON
    return labels


def test_a_thing_is_a_piece_that_is_not_cut_off() -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    # Cut off on the left, on the right and at the top; too thin; whole, down to the lower border.
    boxes = (20, 0, 40, 10), (20, 70, 40, 80), (0, 20, 15, 30), (30, 15, 50, 18), (30, 40, 60, 50)
    labels = labels_with(*boxes)
    for seed in range(20):
        thing = find_thing(image, labels, PERSON, np.random.default_rng(seed))
        assert thing is not None and (thing.top, thing.left) == (30, 40)
        assert thing.mask.shape == (30, 10) and thing.mask.all()
        assert np.array_equal(thing.image_bgr, image[30:60, 40:50])
    assert find_thing(image, labels_with(*boxes[:4]), PERSON, np.random.default_rng(0)) is None
    # More than half of the picture is a place.
    assert find_thing(image, labels_with((2, 2, 58, 78)), PERSON, np.random.default_rng(0)) is None


def test_larger_pieces_are_taken_more_often() -> None:
    labels, image = labels_with((10, 10, 20, 20), (10, 40, 40, 50)), np.zeros((60, 80, 3), np.uint8)
    random = np.random.default_rng(0)
    tops = [find_thing(image, labels, PERSON, random) for _ in range(400)]
    large = sum(thing.mask.shape[0] == 30 for thing in tops if thing is not None)
    assert 0.68 < large / 400 < 0.82  # three quarters of the pixels


@pytest.mark.parametrize("other_hw", [(60, 80), (120, 90)])
def test_a_thing_stands_where_its_distance_puts_it(other_hw: tuple[int, int]) -> None:
    height, width = other_hw
    picture = np.full((height, width, 3), 50, np.uint8)
    labels = np.full(other_hw, ROAD, np.int64)
    thing = Thing(np.full((36, 12, 3), 200, np.uint8), np.ones((36, 12), bool), 18, 30, (60, 80))
    heights = set()
    for seed in range(60):
        image, named = paste(picture, labels, thing, PERSON, np.random.default_rng(seed))
        rows, columns = np.nonzero(named == PERSON)
        if not len(rows):
            continue  # it would have been too small, or outside
        down = rows.max() - rows.min() + 1
        s = down / 36
        assert s >= max(SMALLEST * height / 60, LEAST_PX / 12) - 0.03 and s <= height / 60 + 0.03
        # Feet at 54 of 60, 24 below the vanishing point.
        assert rows.max() + 1 == pytest.approx(height / 2 + s * 24, abs=1.5)
        if columns.min() > 0 and columns.max() < width - 1:
            assert columns.max() - columns.min() + 1 == pytest.approx(s * 12, abs=1.0)
        assert (image[named == PERSON] == 200).all() and (image[named == ROAD] == 50).all()
        heights.add(int(down))
    assert len(heights) > 8
    assert (picture == 50).all() and (labels == ROAD).all()


def test_only_its_own_pixels_are_pasted() -> None:
    round_thing = cv2.circle(np.zeros((41, 41), np.uint8), (20, 20), 20, 1, -1).astype(bool)
    thing = Thing(np.full((41, 41, 3), 200, np.uint8), round_thing, 10, 20, (60, 80))
    image, named = paste(
        np.zeros((60, 80, 3), np.uint8), labels_with(), thing, PERSON, np.random.default_rng(1)
    )
    shown = named == PERSON
    rows, columns = np.nonzero(shown)
    box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    assert shown.sum() == pytest.approx(np.pi / 4 * box, rel=0.12)
    assert (image[named == ROAD] <= 100).all() and (image[shown] >= 100).all()


def people(root: Path, items: int, classes: str) -> Path:
    """Black pictures of road; the last one has a white person."""
    for part in ("images", "labels"):
        (root / part / "train").mkdir(parents=True)
    for item in range(items):
        labels = labels_with(*([(20, 30, 50, 42)] if item == items - 1 else []))
        image = np.where(labels == PERSON, 255, 0).astype(np.uint8)[..., None].repeat(3, 2)
        cv2.imwrite(str(root / "images" / "train" / f"{item:02}.png"), image)
        cv2.imwrite(str(root / "labels" / "train" / f"{item:02}.png"), labels.astype(np.uint8))
    (root / "classes.txt").write_text(classes)
    return root


PLAIN = AugmentSettings((1.0, 1.0), 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def shown_in(stream: BatchStream, numbers: int) -> float:
    """Return the part of the pictures that show a person."""
    found = [stream[number] for number in range(numbers)]
    batches = [one for one in found if isinstance(one, Batch)]
    assert len(batches) == numbers
    for one in batches:
        where = one.labels == one.slots.index(PERSON)
        assert (one.images[where].float() > 100).all() and (one.images[~where] < 160).all()
    return float(
        np.mean([(one.labels == one.slots.index(PERSON)).any(2).any(1) for one in batches])
    )


def test_pictures_are_lent_a_thing_with_its_label(tmp_path: Path) -> None:
    folder = open_folder(str(people(tmp_path / "a", 20, "road\nsky\nperson\n")))
    settings = BatchSettings((60, 80), 4, drop_words=0.0, augmentation=PLAIN)
    assert shown_in(BatchStream([folder], settings), 10) == pytest.approx(0.05, abs=0.03)
    lent = BatchSettings(**{**vars(settings), "paste": 1.0})
    # `person` is drawn as often as LARGEST times its picture would come: half of the time.
    assert 0.3 < shown_in(BatchStream([folder], lent), 25) < 0.65


def test_a_folder_that_does_not_name_the_word_is_lent_none(tmp_path: Path) -> None:
    named = open_folder(str(people(tmp_path / "a", 4, "road\nsky\nperson\n")))
    silent = open_folder(str(people(tmp_path / "b", 4, "road\nsky\nbackground\n")))
    settings = BatchSettings((60, 80), 1, drop_words=0.0, augmentation=PLAIN, paste=1.0)
    stream = BatchStream([silent, named], settings)
    shown = {0: 0, 1: 0}
    for number in range(60):
        batch = stream[number]
        assert isinstance(batch, Batch)
        owner = stream._pick(number)[0]
        assert (PERSON in batch.slots) == (owner == 1)
        shown[owner] += int((batch.images == 255).sum() > 0)
    # Of the silent folder one picture of four shows a person that is its background.
    assert 0 < shown[0] < 15 < shown[1]


def test_the_words_of_a_step_have_those_that_are_lent(tmp_path: Path) -> None:
    words = "road\nsky\nperson\n" + "".join(f"other {n}\n" for n in range(40))
    folder = open_folder(str(people(tmp_path / "a", 20, words)))
    settings = BatchSettings(
        (60, 80), 2, vocabulary=3, drop_words=0.0, augmentation=PLAIN, paste=1.0
    )
    stream = BatchStream([folder], settings)
    lent = [
        n for n in range(40) if any(stream._lent(2 * n + i, 0) == (0, 19, PERSON) for i in (0, 1))
    ]
    assert len(lent) > 5 and all(PERSON in stream[n].slots for n in lent)  # type: ignore[union-attr]


def test_batches_with_lent_things_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    folder = open_folder(str(people(tmp_path / "a", 8, "road\nsky\nperson\n")))
    whole = BatchStream([folder], BatchSettings((60, 80), 4, paste=1.0, whole_hw=(60, 80)))
    cut = BatchStream([folder], BatchSettings((60, 80), 2, 2, paste=1.0, whole_hw=(60, 80)))
    first, parts = whole[3], [cut[6], cut[7]]
    assert isinstance(first, Batch) and first.whole is not None
    for name in ("images", "labels", "whole"):
        halves = [getattr(part, name) for part in parts]
        assert torch.equal(torch.cat(halves), getattr(first, name))
    # What the diffusion reads, and caches, is the picture of the file.
    plain = BatchStream([folder], BatchSettings((60, 80), 4, whole_hw=(60, 80)))[3]
    assert isinstance(plain, Batch) and plain.whole is not None
    assert torch.equal(plain.whole, first.whole) and plain.keys == first.keys
    assert not torch.equal(plain.images, first.images)


def test_a_part_that_is_none_is_refused(micro: ModelConfig, write_folder: Write) -> None:
    with pytest.raises(BadInputError, match=r"paste is -0.5, but a part of the pictures lies in"):
        settings_for("micro", (str(write_folder()),), paste=-0.5)
