"""The training-free papers' protocols from folder to mIoU: tiny data in their layouts, by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from colours import BLUE, GREEN, RED, write_bundle
from PIL import Image

from dedos_deploy.cli import eval as eval_cli
from dedos_deploy.evaluation.protocols import find_protocol, words_of

MAGENTA = (180, 0, 180)
HALF = 0.5**0.5


@dataclass(frozen=True)
class Case:
    """A protocol's files, and the classes that look blue, green, red and magenta."""

    protocol: str
    images: str
    labels: str
    classes: tuple[int, int, int, int]
    value: Callable[[int], int] = lambda index: index
    """What the label file holds for a class."""
    palette: bool = False
    listed: str | None = None


CASES = {
    "VOC21": Case(
        "VOC21",
        "VOCdevkit/VOC2012/JPEGImages/{}.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/{}.png",
        (0, 1, 7, 6),
        palette=True,
        listed="VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
    ),
    "PC-60": Case(
        "PC-60",
        "VOCdevkit/VOC2010/JPEGImages/{}.jpg",
        "VOCdevkit/VOC2010/SegmentationClassContext/{}.png",
        (0, 50, 59, 1),
        listed="VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt",
    ),
    "COCO-Object": Case(
        "COCO-Object",
        "coco_object/images/val2017/{}.jpg",
        "coco_object/annotations/val2017/{}_instanceTrainIds.png",
        (0, 1, 80, 3),
    ),
    # These hold 0 for a person, 89 for a toothbrush and 2 for a car; 163 is stuff, a background here.
    "COCO-Object, label files of COCO-Stuff": Case(
        "COCO-Object",
        "coco_stuff164k/images/val2017/{}.jpg",
        "coco_stuff164k/annotations/val2017/{}.png",
        (0, 1, 80, 3),
        value=lambda index: {0: 163, 1: 0, 80: 89, 3: 2}[index],
    ),
    "COCO-Stuff-171": Case(
        "COCO-Stuff-171",
        "coco_stuff164k/images/val2017/{}.jpg",
        "coco_stuff164k/annotations/val2017/{}_labelTrainIds.png",
        (9, 0, 170, 166),
    ),
}


def colours_of_words(case: Case) -> Mapping[str, tuple[float, float, float]]:
    """Return a direction for every word that is asked for: of a class's words the last one sees."""
    seen = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (HALF, 0.0, HALF))
    words = {}
    for index, own in words_of(find_protocol(case.protocol).classes, synonyms=None):
        colour = dict(zip(case.classes, seen, strict=True)).get(index)
        for word in own:
            words[word] = colour if colour and word == own[-1] else (-1.0, 0.0, 0.0)
    return words


def write(root: Path, case: Case) -> None:
    """Write two images of 32x48. In the first, stripes of blue, green and red, labelled so, but for
    the lower half of red, which is blue's. In the second, 20 black columns of blue, 4 of nothing,
    and 24 magenta ones, the upper half of which is blue's and the lower nothing."""
    blue, green, red, _ = map(case.value, case.classes)
    stripes = np.repeat([[BLUE, GREEN, RED]], 16, axis=1).repeat(32, axis=0).astype(np.uint8)
    first = np.repeat([[blue, green, red]], 16, axis=1).repeat(32, axis=0)
    first[16:, 32:] = blue
    half = np.zeros((32, 48, 3), np.uint8)
    half[:, 24:] = MAGENTA
    second = np.full((32, 48), blue)
    nothing = 255
    second[:, 20:24] = second[16:, 24:] = nothing
    if "COCO-Stuff" in case.protocol:
        second[:, :20] = nothing  # a black pixel has no right answer where there is no background
    for name, image, labels in (("a", stripes, first), ("b", half, second)):
        for place in (case.images, case.labels):
            (root / place).parent.mkdir(parents=True, exist_ok=True)
        # A PNG under the name of a JPEG: decoders go by the content, and colours stay exact.
        (root / case.images.format(name)).write_bytes(cv2.imencode(".png", image)[1].tobytes())
        picture = Image.fromarray(labels.astype(np.uint8), mode="P" if case.palette else "L")
        if case.palette:
            picture.putpalette([(37 * i + 11 * (i % 3)) % 256 for i in range(768)])
        picture.save(root / case.labels.format(name))
    if case.listed is not None:
        (root / case.listed).parent.mkdir(parents=True)
        (root / case.listed).write_text("a\nb\n")


# Blue is background in all but COCO-Stuff: 512 pixels of stripe right, 256 called red, 384 magenta,
# and 640 black ones, right since nothing reaches the published threshold. Green is right; red has 256
# right of 512 predicted; magenta is never labelled.
BACKGROUND = {"blue": 1152 / 1792, "green": 1.0, "red": 0.5}
NO_BACKGROUND = {"blue": 512 / 1152, "green": 1.0, "red": 0.5}


@pytest.mark.parametrize("name", [name for name in CASES if "label files" not in name])
def test_miou_by_hand(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    write(tmp_path / "sets", case)
    bundle = write_bundle(tmp_path / "seen.dedos", words=colours_of_words(case))
    given = ["--bundle", str(bundle), "--protocol", name, "--data", str(tmp_path / "sets")]
    assert eval_cli.main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = NO_BACKGROUND if name == "COCO-Stuff-171" else BACKGROUND
    names = find_protocol(name).scored
    blue, green, red, magenta = (names[index] for index in case.classes)
    iou = found["iou"]
    assert {"blue": iou[blue], "green": iou[green], "red": iou[red]} == pytest.approx(expected)
    assert iou[magenta] == 0.0 and sum(value is not None for value in iou.values()) == 4
    assert found["miou_present"] == pytest.approx(sum(expected.values()) / 3)
    assert found["miou_union"] == pytest.approx(sum(expected.values()) / 4)


def test_the_published_threshold_is_a_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES["VOC21"]
    write(tmp_path / "sets", case)
    bundle = write_bundle(tmp_path / "seen.dedos", words=colours_of_words(case))
    given = ["--bundle", str(bundle), "--protocol", "VOC21", "--data", str(tmp_path / "sets")]
    chosen = {"": 0.15, "--background none": None, "--threshold 0.3": 0.3}
    for words, threshold in chosen.items():
        assert eval_cli.main([*given, *words.split(), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["identity"]["threshold"] == threshold


def test_coco_object_from_published_label_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES["COCO-Object, label files of COCO-Stuff"]
    write(tmp_path, case)
    bundle = write_bundle(tmp_path / "seen.dedos", words=colours_of_words(case))
    given = ["--bundle", str(bundle), "--protocol", "COCO-Object", "--data", str(tmp_path)]
    assert eval_cli.main([*given, "--json"]) == 0
    iou = json.loads(capsys.readouterr().out)["iou"]
    assert (iou["person"], iou["toothbrush"]) == (1.0, 0.5)
    # There 255 is background, too: 128 more pixels are right, but for the seam, and 384 are not.
    assert iou["background"] == pytest.approx(1280 / 2304, abs=0.03)
