"""Every layout in miniature, in its exact format on disk: 16-bit TIFF, palettes, shifted ids, lists."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.protocols import find_protocol
from dedos_deploy.evaluation.readers import open_protocol
from dedos_deploy.evaluation.subjects import base_classes


def put(root: Path, image: str, labels: str, values: np.ndarray, *, palette: bool = False) -> None:
    """Write an image of noise, and labels in the format that the file's name says."""
    for name in (image, labels):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*values.shape, 3)).astype(np.uint8)
    cv2.imwrite(str(root / image), pixels)
    if palette:
        picture = Image.fromarray(values.astype(np.uint8), mode="P")
        picture.putpalette([(37 * i + 11 * (i % 3)) % 256 for i in range(768)])
        picture.save(root / labels)
    else:
        cv2.imwrite(str(root / labels), values)


def grey(*values: int) -> np.ndarray:
    return np.repeat(np.array([values], np.uint8), 3, axis=0)


def wide(*values: int) -> np.ndarray:
    return np.repeat(np.array([values], np.uint16), 3, axis=0)


CASES = {
    "raw ADE: 0 is other, ids from 1": (
        "A-150",
        "ADEChallengeData2016/images/validation/a.jpg",
        "ADEChallengeData2016/annotations/validation/a.png",
        grey(0, 1, 150),
        [255, 0, 149],
    ),
    "converted ADE": (
        "A-150",
        "ADEChallengeData2016/images/validation/a.jpg",
        "ADEChallengeData2016/annotations_detectron2/validation/a.png",
        grey(255, 0, 149),
        [255, 0, 149],
    ),
    "A-847 in 16 bits": (
        "A-847",
        "ADE20K_2021_17_01/images_detectron2/validation/a.jpg",
        "ADE20K_2021_17_01/annotations_detectron2/validation/a.tif",
        wide(65535, 255, 846),
        [65535, 255, 846],
    ),
    "PC-59": (
        "PC-59",
        "VOCdevkit/VOC2010/JPEGImages/a.jpg",
        "VOCdevkit/VOC2010/annotations_detectron2/pc59_val/a.png",
        grey(0, 58, 255),
        [0, 58, 255],
    ),
    "PC-459 in 16 bits": (
        "PC-459",
        "VOCdevkit/VOC2010/JPEGImages/a.jpg",
        "VOCdevkit/VOC2010/annotations_detectron2/pc459_val/a.tif",
        wide(300, 458, 65535),
        [300, 458, 65535],
    ),
    "converted VOC": (
        "PAS-20",
        "VOCdevkit/VOC2012/JPEGImages/a.jpg",
        "VOCdevkit/VOC2012/annotations_detectron2/val/a.png",
        grey(0, 19, 255),
        [0, 19, 255],
    ),
    "converted VOC with background": (
        "PAS-20b",
        "VOCdevkit/VOC2012/JPEGImages/a.jpg",
        "VOCdevkit/VOC2012/annotations_detectron2_bg/val/a.png",
        grey(0, 20, 255),
        [0, 20, 255],
    ),
    "published COCO-Stuff": (
        "COCO-Stuff",
        "images/val2017/a.jpg",
        "stuffthingmaps_trainval2017/val2017/a.png",
        grey(0, 181, 255),
        [0, 170, 255],
    ),
    "converted COCO-Stuff": (
        "COCO-Stuff",
        "val2017/a.jpg",
        "stuffthingmaps_detectron2/val2017/a.png",
        grey(0, 170, 255),
        [0, 170, 255],
    ),
    "Cityscapes ids": (
        "Cityscapes-19",
        "leftImg8bit/val/ulm/ulm_1_leftImg8bit.png",
        "gtFine/val/ulm/ulm_1_gtFine_labelIds.png",
        grey(7, 33, 3),
        [0, 18, 255],
    ),
    "Cityscapes train ids": (
        "Cityscapes-19",
        "leftImg8bit/val/ulm/ulm_1_leftImg8bit.png",
        "gtFine/val/ulm/ulm_1_gtFine_labelTrainIds.png",
        grey(0, 18, 255),
        [0, 18, 255],
    ),
    "SegNet's CamVid": (
        "CamVid-11",
        "CamVid/val/a.png",
        "CamVid/valannot/a.png",
        grey(0, 10, 11),
        [0, 10, 255],
    ),
    "Pascal Context of mmsegmentation": (
        "PC-59",
        "VOCdevkit/VOC2010/JPEGImages/a.jpg",
        "VOCdevkit/VOC2010/SegmentationClassContext/a.png",
        grey(0, 1, 59),
        [255, 0, 58],
    ),
    "Pascal Context with background": (
        "PC-60",
        "VOCdevkit/VOC2010/JPEGImages/a.jpg",
        "VOCdevkit/VOC2010/SegmentationClassContext/a.png",
        grey(0, 59, 255),
        [0, 59, 255],
    ),
    "VOC with background, its own folder": (
        "VOC21",
        "JPEGImages/a.jpg",
        "SegmentationClass/a.png",
        grey(0, 20, 255),
        [0, 20, 255],
    ),
    "converted COCO-Object": (
        "COCO-Object",
        "coco_object/images/val2017/a.jpg",
        "coco_object/annotations/val2017/a_instanceTrainIds.png",
        grey(0, 1, 80),
        [0, 1, 80],
    ),
    "COCO-Object from the maps of COCO-Stuff": (
        "COCO-Object",
        "coco_stuff164k/images/val2017/a.jpg",
        "coco_stuff164k/annotations/val2017/a.png",
        grey(0, 89, 91, 255),
        [1, 80, 0, 0],
    ),
    "converted COCO-Stuff of mmsegmentation": (
        "COCO-Stuff-171",
        "images/val2017/a.jpg",
        "annotations/val2017/a_labelTrainIds.png",
        grey(0, 170, 255),
        [0, 170, 255],
    ),
    "published COCO-Stuff of mmsegmentation": (
        "COCO-Stuff-171",
        "coco_stuff164k/images/val2017/a.jpg",
        "coco_stuff164k/annotations/val2017/a.png",
        grey(0, 181, 255),
        [0, 170, 255],
    ),
    "MESS, names with suffixes": (
        "MESS/dark_zurich",
        "Dark_Zurich/rgb_anon/val/night/GOPR0356/G_1_rgb_anon.png",
        "Dark_Zurich/annotations_detectron2/val/G_1_gt_labelIds.png",
        grey(0, 19, 255),
        [0, 19, 255],
    ),
    "MESS, CWFID": (
        "MESS/cwfid",
        "cwfid/images/001_image.png",
        "cwfid/annotations_detectron2/test/001_annotation.png",
        grey(0, 2, 255),
        [0, 2, 255],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layout_is_read_as_it_is(tmp_path: Path, case: str) -> None:
    name, image, labels, values, expected = CASES[case]
    put(tmp_path, image, labels, values)
    for layout in find_protocol(name).layouts:
        if layout.listed and labels == f"{layout.labels}/a.png":
            (tmp_path / layout.listed).parent.mkdir(parents=True)
            (tmp_path / layout.listed).write_text("a\n")
    data = open_protocol(name, tmp_path)
    assert len(data.image_names) == 1
    found = data.image(0)
    assert found.labels[1].tolist() == expected
    assert found.labels.dtype == (np.uint8 if len(data.classes) <= 255 else np.uint16)
    assert found.image_bgr.shape == (3, len(expected), 3) and data.ignore == (
        255 if len(data.classes) <= 255 else 65535
    )


def test_converted_labels_may_lie_beside_those_they_came_from(tmp_path: Path) -> None:
    """mmsegmentation and SCLIP write theirs into the same folder."""
    folder = "coco_stuff164k/annotations/val2017"
    put(tmp_path, "coco_stuff164k/images/val2017/a.jpg", f"{folder}/a.png", grey(0, 89, 91))
    cv2.imwrite(str(tmp_path / folder / "a_labelTrainIds.png"), grey(0, 79, 80))
    plain = open_protocol("COCO-Object", tmp_path)
    assert plain.image_names == ("a",) and plain.image(0).labels[0].tolist() == [1, 80, 0]
    converted = open_protocol("COCO-Stuff-171", tmp_path)
    assert converted.layout.label_suffix == "_labelTrainIds.png"
    assert converted.image_names == ("a",) and converted.image(0).labels[0].tolist() == [0, 79, 80]


def test_voc_as_published_palettes_and_split(tmp_path: Path) -> None:
    folder = "VOCdevkit/VOC2012"
    for name in ("a", "b", "train"):
        put(
            tmp_path,
            f"{folder}/JPEGImages/{name}.jpg",
            f"{folder}/SegmentationClass/{name}.png",
            grey(0, 1, 20, 255),
            palette=True,
        )
    (tmp_path / folder / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / folder / "ImageSets/Segmentation/val.txt").write_text("a\nb\n")
    plain, background = open_protocol("PAS-20", tmp_path), open_protocol("PAS-20b", tmp_path)
    assert plain.image_names == background.image_names == ("a", "b")
    assert plain.image(0).labels[0].tolist() == [255, 0, 19, 255]
    assert background.image(0).labels[0].tolist() == [20, 0, 19, 255]
    (tmp_path / folder / "ImageSets/Segmentation/val.txt").write_text("a\nc\n")
    with pytest.raises(BadInputError, match=r"names 'c', but there is no c\.png in"):
        open_protocol("PAS-20", tmp_path)


def test_a_pixel_without_an_answer_is_background_where_there_is_one(tmp_path: Path) -> None:
    put(tmp_path, *CASES["converted COCO-Object"][1:4])
    data = open_protocol("COCO-Object", tmp_path)
    assert (len(data.vocabulary), len(data.classes)) == (80, 81)  # `bed` is the background's
    assert data.fold(np.array([[0, 1, 59, 60, 79, 80]], np.uint8)).tolist() == [
        [0, 1, 59, 61, 80, 0]
    ]


def test_taught_words_are_classes_by_the_names_that_labels_have(tmp_path: Path) -> None:
    put(tmp_path, *CASES["converted COCO-Object"][1:4])
    put(tmp_path, *CASES["A-847 in 16 bits"][1:4])
    coco, ade = open_protocol("COCO-Object", tmp_path), open_protocol("A-847", tmp_path)
    assert base_classes(coco, frozenset({"sky", "toothbrush"})) == {"background", "toothbrush"}
    assert base_classes(ade, frozenset({"building"})) == {"building, edifice"}
    assert base_classes(ade, frozenset({"nothing of it"})) is None


@pytest.mark.parametrize(
    ("name", "there", "message"),
    [
        ("VOC21", "VOCdevkit/VOC2012/JPEGImages", "VOC2012/SegmentationClass and .*/val.txt"),
        ("PC-60", "VOCdevkit/VOC2010/JPEGImages", "tools/dataset_converters/pascal_context.py"),
        ("COCO-Object", "images/val2017", "datasets/cvt_coco_object.py coco_stuff164k -o"),
        ("COCO-Stuff-171", "images/val2017", "dataset_converters/coco_stuff164k.py coco_stuff164k"),
    ],
)
def test_what_must_be_run_first_is_said(
    tmp_path: Path, name: str, there: str, message: str
) -> None:
    (tmp_path / there).mkdir(parents=True)
    with pytest.raises(BadInputError, match=message) as caught:
        open_protocol(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_predictions_are_folded_as_the_protocol_scores_them(tmp_path: Path) -> None:
    put(tmp_path, *CASES["converted VOC with background"][1:4])
    data = open_protocol("PAS-20b", tmp_path)
    assert (len(data.vocabulary), len(data.classes)) == (59, 21)
    assert data.fold(np.array([[0, 19, 20, 58, 59]], np.uint8)).tolist() == [[0, 19, 20, 20, 21]]
    put(tmp_path, *CASES["A-847 in 16 bits"][1:4])
    data = open_protocol("A-847", tmp_path)
    assert (len(data.vocabulary), len(data.classes)) == (837, 847)
    screens = [i for i, name in enumerate(data.classes) if name.split(",")[0] == "screen"]
    asked = data.vocabulary.names.index("screen")
    assert data.fold(np.array([[asked, 836, 837]], np.uint16)).tolist() == [[screens[0], 846, 847]]
    wide_words = open_protocol("A-847", tmp_path, synonyms=True)
    assert len(wide_words.vocabulary.words) > len(wide_words.vocabulary) > 840


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            "nothing",
            r"has no data of A-150: looked for ADEChallengeData2016/images/validation and .* get it from http",
        ),
        ("no image", r"labels '.*b\.png' have no image b\.jpg in '.*validation'"),
        ("no labels", r"has no file ending in \.png"),
        ("value", r"b\.png' hold the value 151, which stands for none of the 150 classes of A-150"),
        ("size", r"b\.png' are 2x3, but their image is 3x3"),
        ("split", "protocol A-150 has a split of its own"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, spoil: str, message: str) -> None:
    image = "ADEChallengeData2016/images/validation/{}.jpg"
    labels = "ADEChallengeData2016/annotations/validation/{}.png"
    if spoil != "nothing":
        put(tmp_path, image.format("a"), labels.format("a"), grey(1, 2, 3))
        values = grey(1, 2, 151) if spoil == "value" else grey(1, 2, 3)
        put(tmp_path, image.format("b"), labels.format("b"), values)
    if spoil == "no image":
        (tmp_path / image.format("b")).unlink()
    if spoil == "no labels":
        (tmp_path / labels.format("a")).unlink()
        (tmp_path / labels.format("b")).unlink()
    if spoil == "size":
        cv2.imwrite(str(tmp_path / labels.format("b")), grey(1, 2))
    with pytest.raises(BadInputError, match=message):
        data = open_protocol("A-150", tmp_path, "train" if spoil == "split" else None)
        for index in range(len(data.image_names)):
            data.image(index)
