"""Augmentation keeps image and label together; batches repeat exactly and know each data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.augment import (
    AugmentSettings,
    Window,
    augment,
    crop_resize,
    jitter_colour,
)
from dedos_deploy.training.data import BatchSettings, BatchStream, Share, batches
from dedos_deploy.training.folders import open_folder
from dedos_deploy.training.targets import IGNORE, OTHER

Write = Callable[..., Path]
PLAIN = AugmentSettings(brightness=0, contrast=0, saturation=0, hue=0)


@pytest.mark.parametrize("seed", range(12))
def test_image_and_label_move_together(seed: int) -> None:
    # The image carries its own label in its grey levels, so any shift between them shows.
    blocks = np.random.default_rng(seed).integers(0, 5, (5, 7))
    labels = blocks.repeat(16, 0).repeat(16, 1).astype(np.int64)
    image = np.repeat((labels * 50 + 20).astype(np.uint8)[..., None], 3, axis=2)
    moved, ids = augment(
        image, labels, (48, 64), PLAIN, np.random.default_rng(seed), outside=IGNORE
    )
    assert moved.shape == (48, 64, 3) and moved.dtype == np.uint8
    # A pixel whose neighbours have its label lies inside a block and must have its grey level;
    # only pixels on a border may be blends.
    windows = np.lib.stride_tricks.sliding_window_view(ids, (3, 3))
    inside = (windows == windows[..., 1:2, 1:2]).all((2, 3)) & (windows[..., 1, 1] != IGNORE)
    wrong = np.abs(moved[1:-1, 1:-1, 0].astype(int) - (ids[1:-1, 1:-1] * 50 + 20)) > 12
    assert inside.sum() > 200
    assert not (wrong & inside).any()


def test_scale_one_without_stretch_is_the_deployed_resize() -> None:
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    settings = replace(PLAIN, scale=(1.0, 1.0), aspect=1.0, flip=0.0)
    labels = np.zeros((60, 80), np.int64)
    moved, _ = augment(image, labels, (120, 160), settings, np.random.default_rng(0), outside=-1)
    assert np.array_equal(moved, cv2.resize(image, (160, 120), interpolation=cv2.INTER_LINEAR))


def test_the_outside_of_a_small_image_is_ignored() -> None:
    settings = replace(PLAIN, scale=(0.5, 0.5), aspect=1.0)
    labels = np.zeros((40, 40), np.int64)
    image = np.zeros((40, 40, 3), np.uint8)
    _, ids = augment(image, labels, (40, 40), settings, np.random.default_rng(0), outside=IGNORE)
    assert (ids == IGNORE).mean() == pytest.approx(0.75)


def test_a_mirror_image_mirrors_its_labels() -> None:
    labels = np.tile(np.arange(16), (16, 1)).astype(np.int64)
    image = np.repeat((labels * 10).astype(np.uint8)[..., None], 3, axis=2)
    settings = replace(PLAIN, scale=(1.0, 1.0), aspect=1.0, flip=1.0)
    moved, ids = augment(image, labels, (16, 16), settings, np.random.default_rng(0), outside=-1)
    assert np.array_equal(ids, labels[:, ::-1])
    assert np.array_equal(moved[..., 0], labels[:, ::-1] * 10)


def test_colour_changes_stay_within_their_range() -> None:
    grey = np.full((8, 8, 3), 120, np.uint8)
    seen = [
        jitter_colour(grey, replace(PLAIN, brightness=0.25), np.random.default_rng(s)).mean()
        for s in range(40)
    ]
    assert 88 <= min(seen) < 105 and 135 < max(seen) <= 152
    assert np.array_equal(jitter_colour(grey, PLAIN, np.random.default_rng(0)), grey)


SETTINGS = BatchSettings((32, 32), 4, seed=3, drop_words=0.5)


def two_folders(write: Write) -> BatchStream:
    one = open_folder(str(write("one", words=("sky", "road", "car"), items=5)))
    two = open_folder(str(write("two", words=("wall", "road", "chair"), items=4)), share=2.0)
    return BatchStream([one, two], SETTINGS)


def test_a_batch_depends_on_seed_and_step_alone(write_folder: Write) -> None:
    stream = two_folders(write_folder)
    forward = [stream[step] for step in range(5)]
    again = BatchStream(stream.folders, SETTINGS)
    for step in (4, 0, 2):
        other = again[step]
        assert torch.equal(forward[step].images, other.images)
        assert torch.equal(forward[step].labels, other.labels)
        assert forward[step].slots == other.slots
    other = BatchStream(stream.folders, replace(SETTINGS, seed=4))[0]
    assert not torch.equal(forward[0].images, other.images)


def test_worker_processes_give_the_same_batches_in_order(write_folder: Write) -> None:
    stream = two_folders(write_folder)
    for step, batch in enumerate(batches(stream, Share(2, 6), workers=2), start=2):
        assert torch.equal(batch.images, stream[step].images)
        assert torch.equal(batch.labels, stream[step].labels)


def test_an_epoch_shows_every_item_as_often_as_its_share(write_folder: Write) -> None:
    stream = two_folders(write_folder)
    assert stream.epoch_items == 13
    shown = Counter(stream._pick(number) for number in range(13, 26))
    assert set(shown) == {(0, i) for i in range(5)} | {(1, i) for i in range(4)}
    assert all(count == (2 if owner else 1) for (owner, _), count in shown.items())


def test_slots_labels_and_annotations_agree(write_folder: Write) -> None:
    stream = two_folders(write_folder)
    dropped = False
    for step in range(30):
        batch = stream[step]
        words = [stream.words[slot] for slot in batch.slots]
        assert batch.labels.min() >= -2 and batch.labels.max() < len(words)
        for labels, annotated in zip(batch.labels, batch.annotated, strict=True):
            mine = {word for word, known in zip(words, annotated, strict=True) if known}
            assert mine <= {"sky", "road", "car"} or mine <= {"wall", "road", "chair"}
            assert all(annotated[k] for k in labels.unique() if k >= 0)
            dropped |= bool((labels == OTHER).any())
    assert dropped


def test_a_small_vocabulary_keeps_the_classes_that_are_seen(write_folder: Write) -> None:
    folder = open_folder(str(write_folder(words=("sky", "road", "car", "cat", "dog", "cow"))))
    stream = BatchStream([folder], replace(SETTINGS, vocabulary=4, drop_words=0.0))
    negatives = set()
    for step in range(12):
        words = {stream.words[slot] for slot in stream[step].slots}
        assert len(words) == 4 and {"sky", "road"} <= words
        assert not (stream[step].labels == OTHER).any()
        negatives |= words & {"cat", "dog", "cow"}
    assert negatives == {"cat", "dog", "cow"}


def test_an_unreadable_file_reaches_the_caller_through_a_worker(write_folder: Write) -> None:
    root = write_folder(items=2)
    stream = BatchStream([open_folder(str(root))], SETTINGS)
    (root / "images/train/001.png").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"^image '\S*001\.png' cannot be read"):
        list(batches(stream, Share(0, 3), workers=1))


def test_a_shrunk_label_takes_the_middle_of_each_cell() -> None:
    whole = Window(0, 9, 0, 3)
    labels = np.tile(np.arange(9), (9, 1)).astype(np.int64)
    image = np.zeros((9, 9, 3), np.uint8)
    _, ids = crop_resize(image, labels, (3, 3), (whole, whole), IGNORE)
    assert ids[0].tolist() == [1, 4, 7]
