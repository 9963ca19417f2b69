"""Batches repeat exactly, and know what each data set says about each word."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.training import data
from dedos_deploy.training.augment import AugmentSettings
from dedos_deploy.training.data import (
    Batch,
    BatchSettings,
    BatchStream,
    Share,
    batches,
    image_key,
)
from dedos_deploy.training.folders import LabelFolder, open_folder, read_labels, read_pair
from dedos_deploy.training.targets import IGNORE, OTHER

Write = Callable[..., Path]
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


@pytest.mark.parametrize("vocabulary", [3, 64])
def test_how_a_step_is_cut_changes_no_picture_and_no_word(
    write_folder: Write, vocabulary: int
) -> None:
    settings = replace(SETTINGS, vocabulary=vocabulary)
    whole = BatchStream(two_folders(write_folder).folders, settings)
    apart = BatchStream(whole.folders, replace(settings, batch=1, pieces=4))
    for step in (5, 0, 2):
        pieces = [apart[4 * step + piece] for piece in range(4)]
        assert all(piece.slots == whole[step].slots for piece in pieces)
        for name in ("images", "labels", "annotated"):
            joined = torch.cat([getattr(piece, name) for piece in pieces])
            assert torch.equal(joined, getattr(whole[step], name)), name


def test_labels_of_other_micro_batches_are_read_where_words_must_be_chosen_alone(
    write_folder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def noted(folder: LabelFolder, item: int) -> NDArray[np.uint16]:
        read.append(item)
        return read_labels(folder, item)

    monkeypatch.setattr(data, "read_labels", noted)
    folders = two_folders(write_folder).folders
    for vocabulary, others in ((64, 0), (3, 3)):
        stream = BatchStream(folders, replace(SETTINGS, vocabulary=vocabulary, batch=1, pieces=4))
        for _ in range(2):  # Each file once: what it holds is kept.
            assert isinstance(stream[0], Batch)
        assert len(read) == others


def test_worker_processes_give_the_same_batches_in_order(write_folder: Write) -> None:
    stream = two_folders(write_folder)
    for step, batch in enumerate(batches(stream, Share(2, 6), workers=2), start=2):
        assert torch.equal(batch.images, stream[step].images)
        assert torch.equal(batch.labels, stream[step].labels)


def test_batches_of_workers_need_no_shared_memory(
    write_folder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where /dev/shm is full a worker waits for ever; here it ends, which the loader notices.
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", lambda *_: os._exit(1))
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", lambda *_: os._exit(1))
    stream = two_folders(write_folder)
    stream.settings = replace(stream.settings, whole_hw=(20, 24))
    (batch,) = batches(stream, Share(0, 1), workers=1)
    made = stream[0]
    assert isinstance(made, Batch) and batch.whole is not None and made.whole is not None
    assert torch.equal(batch.images, made.images) and torch.equal(batch.whole, made.whole)
    assert torch.equal(batch.labels, made.labels) and batch.labels.dtype == torch.int64
    assert (batch.slots, batch.keys) == (made.slots, made.keys)


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
    with pytest.raises(BadInputError, match=r"^picture '\S*001\.png' cannot be read"):
        list(batches(stream, Share(0, 3), workers=1))


MASK2FORMER = AugmentSettings(recipe="mask2former")


def words_at(batch: Batch, stream: BatchStream, image: int) -> set[str]:
    """Return the words of the labelled pixels of one image."""
    slots = batch.labels[image].unique().tolist()
    return {stream.words[batch.slots[slot]] for slot in slots if slot >= 0}


def test_mixed_sets_agree_on_words_however_they_are_written(write_folder: Write) -> None:
    # Both folders paint their third class as a rectangle; one calls it Traffic_Light, one
    # "traffic  LIGHT", and ignores its first class, which the other one labels.
    one = open_folder(str(write_folder("one", words=("sky", "road", "Traffic_Light"))))
    two = open_folder(str(write_folder("two", words=("void", "road", "traffic  LIGHT"))))
    settings = replace(SETTINGS, drop_words=0.0, augmentation=MASK2FORMER)
    stream = BatchStream([one, two], settings)
    assert stream.words == ("sky", "road", "traffic light")
    seen: dict[str, set[str]] = {"one": set(), "two": set()}
    for step in range(8):
        batch = stream[step]
        assert isinstance(batch, Batch)
        assert not (batch.labels == OTHER).any()
        for image in range(4):
            owner = "one" if batch.annotated[image, 0] else "two"
            assert batch.annotated[image].tolist() == [owner == "one", True, True]
            seen[owner] |= words_at(batch, stream, image)
            assert (batch.labels[image] == IGNORE).any() or owner == "one"
    assert seen == {"one": {"sky", "road", "traffic light"}, "two": {"road", "traffic light"}}


def test_both_recipes_repeat_and_differ(write_folder: Write) -> None:
    folder = open_folder(str(write_folder()))
    first = {}
    for recipe in ("deployed", "mask2former"):
        settings = replace(SETTINGS, augmentation=AugmentSettings(recipe=recipe))
        one, two = (BatchStream([folder], settings)[3] for _ in range(2))
        assert isinstance(one, Batch) and isinstance(two, Batch)
        assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
        assert one.images.shape == (4, 32, 32, 3)
        first[recipe] = one.images
    assert not torch.equal(first["deployed"], first["mask2former"])


def test_whole_images_are_the_files_and_keys_follow_their_pixels(write_folder: Write) -> None:
    folder = open_folder(str(write_folder()))
    settings = replace(SETTINGS, whole_hw=(36, 48), augmentation=MASK2FORMER)
    stream = BatchStream([folder], settings)
    batch = stream[0]
    assert isinstance(batch, Batch) and batch.whole is not None
    files = {image_key(read_pair(folder, i)[0]): read_pair(folder, i)[0] for i in range(6)}
    assert len(files) == 6
    for key, whole in zip(batch.keys, batch.whole.numpy(), strict=True):
        assert np.array_equal(files[key], whole)
