"""Words that are a kind of another: what a step asks for, and what their pixels show then."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from micro import Write

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.augment import AugmentSettings
from dedos_deploy.training.data import Batch, BatchSettings, BatchStream
from dedos_deploy.training.folders import open_folder
from dedos_deploy.training.kinds import LEFT_OUT, parse_kind
from dedos_deploy.training.settings import settings_for
from dedos_deploy.training.targets import OTHER

PLAIN = AugmentSettings((1.0, 1.0), 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
SETTINGS = BatchSettings(
    (32, 32), 2, drop_words=0.0, augmentation=PLAIN, kinds=(("cyclist", "person"),)
)


def folder(root: Path, classes: str) -> Path:
    """A picture whose upper quarter is class 0, the second one class 1, the rest class 2."""
    for part in ("images", "labels"):
        (root / part / "train").mkdir(parents=True)
    labels = np.repeat(np.array([0, 1, 2, 2], np.uint8), 8)[:, None].repeat(32, 1)
    cv2.imwrite(str(root / "images" / "train" / "0.png"), np.zeros((32, 32, 3), np.uint8))
    cv2.imwrite(str(root / "labels" / "train" / "0.png"), labels)
    (root / "classes.txt").write_text(classes)
    return root


def test_half_of_the_steps_ask_for_the_broader_word_alone(tmp_path: Path) -> None:
    opened = open_folder(str(folder(tmp_path / "a", "person\ncyclist\nroad\n")))
    stream = BatchStream([opened], SETTINGS)
    asked = 0
    for number in range(60):
        batch = stream[number]
        assert isinstance(batch, Batch)
        rows = batch.labels[0, ::8, 0]
        person, road = batch.slots.index(0), batch.slots.index(2)
        finer = batch.slots.index(1) if 1 in batch.slots else person
        assert rows.tolist() == [person, finer, road, road]
        assert batch.annotated.all()
        asked += 1 in batch.slots
    assert 60 * LEFT_OUT - 16 < asked < 60 * LEFT_OUT + 16


def test_without_kinds_every_word_is_asked_for(tmp_path: Path) -> None:
    opened = open_folder(str(folder(tmp_path / "a", "person\ncyclist\nroad\n")))
    stream = BatchStream([opened], BatchSettings(**{**vars(SETTINGS), "kinds": ()}))
    assert all(stream[number].slots == (0, 1, 2) for number in range(20))  # type: ignore[union-attr]


def test_a_folder_that_does_not_label_the_broader_word_says_nothing_of_it(tmp_path: Path) -> None:
    riders = open_folder(str(folder(tmp_path / "a", "sky\ncyclist\nroad\n")))
    people = open_folder(str(folder(tmp_path / "b", "person\ntree\nroad\n")))
    stream = BatchStream([riders, people], SETTINGS)
    seen = 0
    for number in range(40):
        batch = stream[number]
        assert isinstance(batch, Batch)
        named = [stream.words[slot] for slot in batch.slots]
        if "person" not in named or "cyclist" in named:
            continue
        for image, known in zip(batch.labels, batch.annotated, strict=True):
            if not known[named.index("person")]:
                assert image[8, 0] == OTHER
                seen += 1
    assert seen > 5


def test_a_step_is_the_same_however_it_is_cut(tmp_path: Path) -> None:
    opened = open_folder(str(folder(tmp_path / "a", "person\ncyclist\nroad\n")))
    whole = BatchStream([opened], BatchSettings(**{**vars(SETTINGS), "batch": 4}))
    cut = BatchStream([opened], BatchSettings(**{**vars(SETTINGS), "pieces": 2}))
    for number in range(8):
        parts = [cut[2 * number], cut[2 * number + 1]]
        assert {part.slots for part in parts} == {whole[number].slots}  # type: ignore[union-attr]
        labels = torch.cat([part.labels for part in parts])  # type: ignore[union-attr]
        assert torch.equal(labels, whole[number].labels)  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["cyclist", "=person", "cyclist=", "car=car", "a=b=c"])
def test_what_is_no_kind_is_refused(micro: ModelConfig, write_folder: Write, text: str) -> None:
    with pytest.raises(BadInputError, match="kinds has '.*'; write a word and another one"):
        settings_for("micro", (str(write_folder()),), kinds=(text,))
    assert parse_kind(" Cyclist = person") == ("cyclist", "person")


def test_a_word_that_no_data_set_labels_is_refused(
    micro: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = folder(tmp_path / "a", "person\ncyclist\nroad\n"), tmp_path / "run"
    given = ["--preset", "micro", "--data", str(root), "--output", str(run), "--steps", "1"]
    assert main([*given, "--device", "cpu", "--kinds", "cyclists=person"]) == 2
    assert (
        "--kinds names 'cyclists', which no data set labels, did you mean 'cyclist'? they label person, "
        "cyclist, road" in capsys.readouterr().err
    )
    assert not run.exists()
