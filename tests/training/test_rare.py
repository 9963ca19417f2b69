"""Pictures drawn by their rare words: chances by hand, and crops that hold the word."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from micro import Write

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.presets import ModelConfig
from dedos_deploy.progress import Progress
from dedos_deploy.training.augment import AugmentRecipe, AugmentSettings, augment
from dedos_deploy.training.data import Batch, BatchSettings, BatchStream
from dedos_deploy.training.folders import open_folder
from dedos_deploy.training.loop import Trainer
from dedos_deploy.training.rare import LARGEST, TEMPERATURE, rare_chances, rare_pictures
from dedos_deploy.training.settings import settings_for


def street(root: Path, items: int, *, poles: tuple[int, ...], share: float = 1.0) -> Path:
    """Pictures of 64x80 that are road, a tenth of them sky, with 2 pixels of pole in some."""
    for part in ("images", "labels"):
        (root / part / "train").mkdir(parents=True)
    for item in range(items):
        labels = np.zeros((64, 80), np.uint8)
        labels[:6] = 1
        if item in poles:
            labels[5:7, 70] = 2
        image = np.zeros((64, 80, 3), np.uint8)
        cv2.imwrite(str(root / "images" / "train" / f"{item:02}.png"), image)
        cv2.imwrite(str(root / "labels" / "train" / f"{item:02}.png"), labels)
    (root / "classes.txt").write_text("road\nsky\npole\nnever\n")
    return root


def test_chances_by_hand() -> None:
    pixels, shown = np.array([0.89, 0.02, 0.01, 0.0]), np.array([1.0, 1.0, 0.9, 0.0])
    found = rare_chances(pixels, shown)
    raw = np.exp((1 - pixels[:3]) / TEMPERATURE)
    assert found[:3] == pytest.approx(raw / raw.sum()) and found[3] == 0
    # A word of one picture of a hundred comes at most ten times as often; the rest is the others'.
    found = rare_chances(np.array([0.02, 0.02, 0.001]), np.array([1.0, 1.0, 0.01]))
    assert found == pytest.approx([0.45, 0.45, LARGEST * 0.01])


def test_pictures_of_rare_words_come_more_often_and_crops_hold_them(tmp_path: Path) -> None:
    folder = open_folder(str(street(tmp_path / "street", 40, poles=(3, 17))))
    drawn = rare_pictures([folder], folder.annotated)
    assert drawn.undrawn(folder.annotated) == ("never",)
    assert [len(places) for places in drawn.places] == [40, 40, 2, 0]
    assert drawn.places[2].tolist() == [[0, 3], [0, 17]]
    assert drawn.probabilities[2] == pytest.approx(LARGEST * 2 / 40)
    zoomed = AugmentSettings(scale=(3.0, 3.0), aspect=1.0)
    crops = BatchSettings((32, 32), 4, drop_words=0.0, augmentation=zoomed)
    counts = []
    for rare in (0.0, 1.0):
        stream = BatchStream([folder], BatchSettings(**{**vars(crops), "rare": rare}))
        batches = [stream[number] for number in range(40)]
        poles = [
            int((image == batch.slots.index(2)).any())
            for batch in batches
            if isinstance(batch, Batch)
            for image in batch.labels
        ]
        counts.append(sum(poles))
    # Of 160 pictures: 8 show a pole, a few of their crops hold it; 80 are drawn for it and all do.
    assert counts[0] < 10 and 60 < counts[1] < 110


@pytest.mark.parametrize("recipe", get_args(AugmentRecipe))
@pytest.mark.parametrize("pixel", [(0, 0), (63, 79), (30, 5)])
def test_a_crop_holds_the_pixel_it_is_taken_around(
    recipe: AugmentRecipe, pixel: tuple[int, int]
) -> None:
    labels = np.zeros((64, 80), np.int64)
    labels[pixel] = 1
    labels[max(0, pixel[0] - 2) : pixel[0] + 3, max(0, pixel[1] - 2) : pixel[1] + 3] = 1
    chosen = AugmentSettings(scale=(2.0, 2.0), recipe=recipe)
    image = np.zeros((64, 80, 3), np.uint8)
    for seed in range(12):
        random = np.random.default_rng(seed)
        crop = augment(image, labels, (32, 32), chosen, random, outside=-1, around=pixel)[1]
        assert (crop == 1).any()


def test_batches_with_rare_pictures_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    folder = open_folder(str(street(tmp_path / "street", 8, poles=(3,))))
    settings = BatchSettings((32, 32), 4, rare=0.5)
    whole = BatchStream([folder], settings)
    cut = BatchStream([folder], BatchSettings((32, 32), 2, 2, rare=0.5))
    first, again = whole[5], whole[5]
    parts = [cut[10], cut[11]]
    assert isinstance(first, Batch) and isinstance(again, Batch)
    assert torch.equal(first.images, again.images)
    images = [part.images for part in parts if isinstance(part, Batch)]
    assert torch.equal(torch.cat(images), first.images)
    assert {part.slots for part in parts if isinstance(part, Batch)} == {first.slots}


class Warnings(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def test_words_by_which_no_picture_is_drawn_are_named_before_the_first_step(
    micro: ModelConfig, tmp_path: Path
) -> None:
    """Of 5120 pixels two poles are seen, and one is not."""
    root = street(tmp_path / "street", 6, poles=(2,))
    for path in (root / "labels" / "train").iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        labels[labels == 2] = 0
        labels[40, 40] = 2
        cv2.imwrite(str(path), labels)
    told = Warnings()
    given = dict(steps=1, batch=2, workers=0, threads=1, device="cpu", rare=0.5)
    Trainer(settings_for("micro", (str(root),), **given), tmp_path / "run", progress=told)
    (text,) = told.texts
    assert "no picture is drawn by 2 of 4 words, which fill less than 1/4000" in text
    assert text.endswith("of each of the 6 label files: pole, never")
    told = Warnings()
    Trainer(settings_for("micro", (str(root),), **given | {"rare": 0.0}), tmp_path / "plain")
    assert not told.texts


@pytest.mark.parametrize("option", ["--rare", "--paste"])
def test_nothing_to_draw_is_refused_before_anything_is_written(
    micro: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    root = street(tmp_path / "street", 3, poles=())
    for path in (root / "labels" / "train").iterdir():
        labels = np.full((64, 80), 255, np.uint8)
        labels[30, 30] = 0
        cv2.imwrite(str(path), labels)
    run = tmp_path / "run"
    given = ["--preset", "micro", "--data", str(root), "--output", str(run), "--steps", "1"]
    assert main([*given, "--device", "cpu", option, "0.5"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "none of the 4 words fills 1/4000 of any of the 3 label files; leave them out" in said
    assert not run.exists()


def test_a_part_that_is_none_is_refused(micro: ModelConfig, write_folder: Write) -> None:
    with pytest.raises(BadInputError, match=r"rare is 1.5, but a part of the pictures lies in"):
        settings_for("micro", (str(write_folder()),), rare=1.5)
