"""COCO-Stuff: the published names and ids, both layouts, and what is said when a part is missing."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dedos_deploy.errors import BadInputError
from dedos_deploy.label_files import class_word
from dedos_deploy.training.augment import AugmentSettings
from dedos_deploy.training.bank import CalibrationImages
from dedos_deploy.training.coco_stuff import (
    MAP_VALUES,
    NAMES,
    STUFF,
    THINGS,
    UNUSED_IDS,
    WORDS,
    open_coco_stuff,
)
from dedos_deploy.training.data import Batch, BatchSettings, BatchStream
from dedos_deploy.training.evaluate import evaluate
from dedos_deploy.training.folders import open_folder, read_pair
from dedos_deploy.training.sources import open_data
from dedos_deploy.training.targets import IGNORE

# sha256 of the names of labels.txt (github.com/nightrome/cocostuff) without "unlabeled" and the
# eleven that its README lists as never segmented, joined by line feeds.
NAMES_SHA256 = "8ea44449837dceb30923012b201fe0152adc612160d0d040c9cfcd77e95f6801"

UNLABELLED = 255
PUBLISHED, CONVERTED = "stuffthingmaps_trainval2017", "stuffthingmaps_detectron2"


def test_names_are_the_published_ones_in_their_order() -> None:
    assert (len(THINGS), len(STUFF), len(NAMES), len(UNUSED_IDS)) == (80, 91, 171, 11)
    assert hashlib.sha256("\n".join(NAMES).encode()).hexdigest() == NAMES_SHA256
    # From the list: 11 fire hydrant, 13 stop sign, 90 toothbrush, 92 banner, 182 wood.
    value = dict(zip(NAMES, MAP_VALUES, strict=True))
    assert [value[name] for name in ("person", "fire hydrant", "stop sign", "toothbrush")] == [
        0,
        10,
        12,
        89,
    ]
    assert (value["banner"], value["wood"]) == (91, 181)


def test_words_are_distinct_and_canonical() -> None:
    assert len(set(WORDS)) == 171
    assert all(class_word(word) == word and "-" not in word for word in WORDS)
    assert {"sky", "building", "door", "window", "brick wall", "dining table", "table"} <= {*WORDS}


def write_set(root: Path, maps: str = PUBLISHED, images: str = "images") -> Path:
    """Write two training images and one for validation, labelled person, wood, and not at all."""
    numbers = np.array([[0, 170], [80, 999]]).repeat(16, 0).repeat(24, 1)
    known = numbers != 999
    classes = np.where(known, numbers, 0)
    values = classes if maps == CONVERTED else np.array(MAP_VALUES)[classes]
    labels = np.where(known, values, UNLABELLED).astype(np.uint8)
    random = np.random.default_rng(3)
    for split, names in {
        "train2017": ("000000000009", "000000000025"),
        "val2017": ("139",),
    }.items():
        for folder in (root / images / split, root / maps / split):
            folder.mkdir(parents=True)
        for name in names:
            picture = random.integers(0, 255, (32, 48, 3)).astype(np.uint8)
            cv2.imwrite(str(root / images / split / f"{name}.jpg"), picture)
            cv2.imwrite(str(root / maps / split / f"{name}.png"), labels)
    return root


@pytest.mark.parametrize("images", ["images", "."])
@pytest.mark.parametrize("maps", [PUBLISHED, "stuffthingmaps", "annotations", CONVERTED])
def test_every_layout_gives_the_same_classes(tmp_path: Path, maps: str, images: str) -> None:
    folder = open_coco_stuff(write_set(tmp_path, maps, images), "train")
    assert folder.words == WORDS and [image.stem[-1] for image, _ in folder.items] == ["9", "5"]
    _, classes = read_pair(folder, 1)
    assert classes[[0, 0, 16, 31], [0, 24, 0, 47]].tolist() == [0, 170, 80, UNLABELLED]
    slots = {"wood": 0, "person": 1}
    assert folder.lookup(slots)[classes[0, 24]] == 0 and folder.lookup(slots)[classes[0, 0]] == 1
    assert folder.lookup(slots)[classes[31, 47]] == IGNORE


def test_the_published_maps_go_before_converted_ones(tmp_path: Path) -> None:
    write_set(tmp_path, CONVERTED)
    shutil.copytree(write_set(tmp_path / "two") / PUBLISHED, tmp_path / PUBLISHED)
    assert open_coco_stuff(tmp_path, "val").values == MAP_VALUES


def test_the_converted_validation_maps_may_be_called_test(tmp_path: Path) -> None:
    maps = write_set(tmp_path, CONVERTED) / CONVERTED
    (maps / "val2017").rename(maps / "test2017")
    assert open_coco_stuff(tmp_path, "val").items[0][1].parent.name == "test2017"


def test_conversion_leaves_out_images_without_labels_but_publication_does_not(
    tmp_path: Path,
) -> None:
    for maps in (PUBLISHED, CONVERTED):
        write_set(tmp_path / maps, maps)
        (tmp_path / maps / maps / "train2017" / "000000000009.png").unlink()
    assert len(open_coco_stuff(tmp_path / CONVERTED, "train").items) == 1
    with pytest.raises(BadInputError, match=r"000000000009\.jpg' has no labels"):
        open_coco_stuff(tmp_path / PUBLISHED, "train")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (
            "images",
            r"no images .*images/train2017.*cocodataset\.org/zips/train2017\.zip in \S*images",
        ),
        (
            PUBLISHED,
            r"no label maps .* unpack http\S*/stuffthingmaps_trainval2017\.zip in \S+2017$",
        ),
    ],
)
def test_what_is_missing_is_said_with_its_address(
    tmp_path: Path, missing: str, message: str
) -> None:
    root = write_set(tmp_path / "coco")
    shutil.move(root / missing, tmp_path / "elsewhere")
    with pytest.raises(BadInputError, match=message):
        open_data([f"coco-stuff:{root}"], "train")
    shutil.move(tmp_path / "elsewhere", root / missing)
    assert open_data([f"coco-stuff:{root}"], "train")[0].items


@pytest.mark.parametrize("value", [11, 182])
def test_a_value_without_class_is_named(tmp_path: Path, value: int) -> None:
    # 11 is street sign, which no pixel of the published maps has, but 171 converted maps do.
    root = write_set(tmp_path)
    labels = np.full((32, 48), value, np.uint8)
    cv2.imwrite(str(root / PUBLISHED / "train2017" / "000000000025.png"), labels)
    with pytest.raises(BadInputError, match=f"25.png' hold the value {value}, .*no class"):
        read_pair(open_coco_stuff(root, "train"), 1)


def test_it_is_recognised_beside_plain_folders_with_shares(tmp_path: Path) -> None:
    root = write_set(tmp_path / "coco")
    plain = tmp_path / "plain"
    for part, suffix in {"images": "jpg", "labels": "png"}.items():
        (plain / part / "train").mkdir(parents=True)
        cv2.imwrite(str(plain / part / "train" / f"a.{suffix}"), np.zeros((8, 8), np.uint8))
    (plain / "classes.txt").write_text("Brick_Wall\nrobot\n")
    coco, other = open_data([f"{root}=0.5", str(plain)], "train")
    assert (coco.share, other.share, coco.words) == (0.5, 1.0, WORDS)
    # The plain folder has no val, and is left out there.
    assert [f.name for f in open_data([str(root), str(plain)], "val", optional=True)] == ["coco"]
    stream = BatchStream([coco, other], BatchSettings((16, 16), 4))
    assert len(stream.words) == 172 and stream.words[-1] == "robot"
    assert open_folder(str(plain)).annotated == ("brick wall", "robot")


def test_streams_evaluation_and_calibration_read_it(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    (train,), (val,) = (open_data([str(root)], split) for split in ("train", "val"))
    settings = BatchSettings(
        (32, 32), 2, drop_words=0.0, augmentation=AugmentSettings(recipe="mask2former")
    )
    stream = BatchStream([train], settings)
    batch = stream[0]
    assert isinstance(batch, Batch)
    seen = {stream.words[batch.slots[slot]] for slot in batch.labels.unique() if slot >= 0}
    assert seen <= {"person", "wood", "banner"} and len(seen) > 1
    assert len(batch.slots) == 64 and batch.annotated.all()
    assert len(list(CalibrationImages([train], 2))) == 2

    class Perfect:
        def scores(self, *_: object) -> torch.Tensor:
            scores = torch.zeros(1, 171, 2, 2)
            scores[0, [0, 170, 80], [0, 0, 1], [0, 1, 0]] = 1.0
            return scores

    result = evaluate(Perfect(), val, lambda words: torch.zeros(len(words), 4), (32, 32))  # type: ignore[arg-type]
    assert result.images == 1 and result.miou_present > 0.9
