"""DAVIS with nouns: the object carries its noun, the rest teaches nothing or its absence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.augment import AugmentSettings
from dedos_deploy.training.data import Batch, BatchSettings, BatchStream
from dedos_deploy.training.folders import read_pair
from dedos_deploy.training.sources import open_data
from dedos_deploy.training.targets import IGNORE, OTHER

NOUNS = {"drift": "car", "roundabout": "Car", "blackswan": "swan"}
OURS, PUBLISHED = ("images", "labels", 1), ("JPEGImages/480p", "Annotations/480p", 255)


def write_set(root: Path, layout: tuple[str, str, int] = OURS) -> Path:
    """Write two frames per sequence, the object in the left half."""
    images, labels, value = layout
    mask = np.zeros((24, 32), np.uint8)
    mask[:, :16] = value
    for sequence in NOUNS:
        for folder in (root / images / sequence, root / labels / sequence):
            folder.mkdir(parents=True)
        for frame in ("00000", "00001"):
            picture = np.full((24, 32, 3), len(sequence) * 9, np.uint8)
            cv2.imwrite(str(root / images / sequence / f"{frame}.jpg"), picture)
            cv2.imwrite(str(root / labels / sequence / f"{frame}.png"), mask)
    lines = [f"{sequence}\t{noun}\n" for sequence, noun in NOUNS.items()]
    (root / "sequences.tsv").write_text("".join(lines))
    return root


@pytest.mark.parametrize("layout", [OURS, PUBLISHED])
@pytest.mark.parametrize("background", [IGNORE, OTHER])
def test_the_object_has_its_noun(
    tmp_path: Path, layout: tuple[str, str, int], background: int
) -> None:
    root = write_set(tmp_path / "davis", layout)
    folders = open_data([f"davis:{root}=2"], "train", background=background)
    assert [(f.name, f.annotated, len(f.items), f.share) for f in folders] == [
        ("davis car", ("car",), 4, 2.0),
        ("davis swan", ("swan",), 2, 2.0),
    ]
    swan = folders[1]
    _, classes = read_pair(swan, 0)
    labels = swan.lookup({"car": 0, "swan": 1})[classes]
    assert (labels[:, :16] == 1).all() and (labels[:, 16:] == background).all()


def test_it_is_recognised_and_sequences_are_splits(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    assert len(open_data([str(root)], "train")) == 2
    (drift,) = open_data([str(root)], "drift")
    assert len(drift.items) == 2 and drift.items[0][0].parent.name == "drift"
    assert open_data([str(root)], "val", optional=True) == []


def test_a_batch_knows_one_noun_per_image(tmp_path: Path) -> None:
    folders = open_data([str(write_set(tmp_path))], "train")
    plain = AugmentSettings(scale=(1.0, 1.0), aspect=1.0, flip=0.0)
    stream = BatchStream(folders, BatchSettings((16, 32), 6, drop_words=0.0, augmentation=plain))
    batch = stream[0]
    assert isinstance(batch, Batch) and stream.words == ("car", "swan")
    assert batch.annotated.sum(1).tolist() == [1] * 6 and batch.annotated[:, 0].sum() == 4
    for labels, annotated in zip(batch.labels, batch.annotated, strict=True):
        assert (labels[:, :16] == annotated.int().argmax()).all()
        assert (labels[:, 16:] == IGNORE).all()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("sequences.tsv", None, "sequences.tsv' is missing; write a line for each sequence"),
        ("sequences.tsv", "drift car\n", "line 1 has no noun"),
        ("sequences.tsv", "\n", "is empty"),
        ("sequences.tsv", "dirft\tcar\n", "names 'dirft', but .*images/dirft' does not exist"),
    ],
)
def test_a_faulty_list_of_nouns_is_named(
    tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    root = write_set(tmp_path)
    (root / file).unlink() if text is None else (root / file).write_text(text)
    with pytest.raises(BadInputError, match=message):
        open_data([f"davis:{root}"], "train")


def test_an_unknown_sequence_and_a_folder_without_frames_are_named(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    with pytest.raises(BadInputError, match="no sequence 'drif', did you mean 'drift'"):
        open_data([str(root)], "drif")
    (root / "images").rename(root / "pictures")
    with pytest.raises(BadInputError, match=r"neither images nor JPEGImages/480p; unpack DAVIS"):
        open_data([str(root)], "train")
