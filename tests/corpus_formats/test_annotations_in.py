"""Annotations become label folders: exports come back, and what people and tools leave in files is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from corpora import NAMES, NONE, Labelled, blobs, bring_in, export, labels_of, write_corpus
from PIL import Image

from dedos_deploy.cli.label import main
from dedos_deploy.evaluation.folder import LabelledFolder

SIZE = (12, 16)
WAYS = {
    "cvat": ("cvat", "annotations.xml"),
    "coco": ("coco", "annotations/instances_train.json"),
    "labelstudio": ("labelstudio", "tasks.json"),
}


def submitted(folder: Path) -> None:
    """What an annotator does who accepts every prediction."""
    path = folder / "tasks.json"
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = task["predictions"]
    path.write_text(json.dumps(tasks))


@pytest.mark.parametrize("source", WAYS)
def test_exports_come_back_pixel_for_pixel(
    source: str, data: Path, tmp_path: Path, frames: list[Labelled]
) -> None:
    to, file = WAYS[source]
    exported = export(data, to, tmp_path / "out", "--things", "car")
    if source == "labelstudio":
        submitted(exported)
    folder = bring_in(exported / file, source, tmp_path / "yard")
    found = LabelledFolder.open(folder, "train")
    # Label Studio's file has no list of labels, so they come in the order in which they are met.
    places = [found.classes.index(name) for name in NAMES]
    assert source == "labelstudio" or places == [0, 1, 2, 3]
    table = np.full(256, NONE)
    table[: len(NAMES)] = places
    for frame, image in zip(frames, found, strict=True):
        np.testing.assert_array_equal(image.labels, table[frame.label_map])
        shown = cv2.imdecode(np.fromfile(frame.source, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(image.image_bgr, shown)


@pytest.mark.parametrize("source", WAYS)
def test_polygons_come_back_but_for_holes(
    source: str, data: Path, tmp_path: Path, frames: list[Labelled]
) -> None:
    """Painted the largest first, so that what lies in a hole is seen; what is unlabelled there is lost."""
    to, file = WAYS[source]
    exported = export(data, to, tmp_path / "out", "--shapes", "polygons", "--tolerance", "0")
    if source == "labelstudio":
        submitted(exported)
    classes = ",".join(NAMES)
    folder = bring_in(exported / file, source, tmp_path / "yard", "--classes", classes)
    for frame, labels in zip(frames, labels_of(folder).values(), strict=True):
        known = frame.label_map != NONE
        assert (labels[known] == frame.label_map[known]).mean() > 0.995
        assert 0 < (labels[~known] != NONE).mean() < 0.5


def picture(folder: Path, name: str = "a.png", size_hw: tuple[int, int] = SIZE) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size_hw, 3), 90, np.uint8))
    return path


def cvat(shapes: str, *, labels: tuple[str, ...] = ("road", "car"), image: str = "a.png") -> str:
    listed = "".join(f"<label><name>{name}</name></label>" for name in labels)
    return (
        f"<annotations><version>1.1</version><meta><task><labels>{listed}</labels></task></meta>"
        f'<image id="0" name="{image}" width="16" height="12">{shapes}</image></annotations>'
    )


def mask(label: str, box: tuple[int, int, int, int], *, layer: int = 0) -> str:
    left, top, width, height = box
    return (
        f'<mask label="{label}" rle="0, {width * height}" left="{left}" top="{top}" width="{width}" '
        f'height="{height}" z_order="{layer}"></mask>'
    )


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes an annotation file with a picture beside it."""
    picture(tmp_path / "images")

    def call(text: str) -> Path:
        path = tmp_path / "annotations.xml"
        path.write_text(text, encoding="utf-8")
        return path

    return call


def test_what_is_on_top_has_the_pixels(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = mask("car", (0, 0, 8, 12), layer=3) + mask("road", (4, 0, 8, 12), layer=1)
    shapes += mask("car", (0, 6, 4, 4), layer=3)  # twice the same is no overlap of classes
    shapes += mask("road", (0, 0, 2, 2), layer=3) + "<box/><tag/><box/>"
    folder = bring_in(write(cvat(shapes)), "cvat", tmp_path / "yard", "--json")
    labels = labels_of(folder)["a"]
    expected = np.full(SIZE, NONE, np.uint8)
    expected[:, 4:12] = 0
    expected[:, :8] = 1
    expected[:2, :2] = 0
    np.testing.assert_array_equal(labels, expected)
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    first = lines.index("1 picture with labels of 2: road, car")
    assert lines[first + 1].startswith(
        "shapes of several classes overlap on 52 pixels of 1 picture;"
    )
    assert lines[first + 2 : first + 4] == ["left out: 2 boxes", "left out: 1 tag shapes"]
    assert json.loads(printed.out)["overlaps"] == 52


def test_labels_become_classes_or_are_ignored_or_refused(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = mask("Auto", (0, 0, 4, 4)) + mask("LKW", (4, 0, 4, 4)) + mask("unclear", (0, 8, 4, 4))
    file = write(cvat(shapes, labels=("Auto", "LKW", "unclear", "road")))
    classes = ("--classes", "sky,car|Auto|lkw")
    command = ["import", str(file), "--from", "cvat", "--output", str(tmp_path / "yard"), *classes]
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "label 'unclear' of" in error and "'sky|unclear'" in error and "--ignore" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations.xml", "images"]
    assert main([*command, "--ignore", "Unclear,mirror"]) == 0
    assert (tmp_path / "yard/classes.txt").read_text() == "sky\ncar\n"
    labels = labels_of(tmp_path / "yard")["a"]
    assert (labels[:4, :8] == 1).all() and (labels[8:] == NONE).all()


def test_labels_that_differ_in_spelling_are_one_word(write: Write, tmp_path: Path) -> None:
    shapes = mask("Traffic_Light", (0, 0, 2, 2)) + mask("traffic light", (4, 4, 2, 2))
    file = write(cvat(shapes, labels=("Traffic_Light", "traffic light", "nobody drew it")))
    folder = bring_in(file, "cvat", tmp_path / "yard")
    assert (folder / "classes.txt").read_text() == "traffic light\nnobody drew it\n"
    assert (labels_of(folder)["a"] == 0).sum() == 8


def test_pictures_without_a_shape_are_left_out(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(cvat(mask("car", (0, 0, 2, 2))).replace("</annotations>", ""))
    more = '<image id="1" name="b.png" width="16" height="12"></image></annotations>'
    file.write_text(file.read_text() + more)
    bring_in(file, "cvat", tmp_path / "yard")
    assert "left out: 1 pictures without a shape" in capsys.readouterr().out
    assert (
        main(["import", str(write(cvat(""))), "--from", "cvat", "--output", str(tmp_path / "no")])
        == 2
    )
    assert "has no picture with a mask or polygon; draw some" in capsys.readouterr().err


def test_pictures_are_found_by_their_folders_and_stand_upright(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        picture(tmp_path / "pictures" / folder)
    exif = Image.Exif()
    exif[274] = 6
    turned = np.zeros((16, 12, 3), np.uint8)
    turned[:8] = 200
    Image.fromarray(turned).save(tmp_path / "pictures/two/t.jpg", exif=exif, quality=95)
    text = cvat(mask("car", (0, 0, 2, 2)), image="two/a.png")
    second = cvat(mask("road", (0, 0, 3, 3)), image="two\\t.jpg").partition("<image")[2]
    file = tmp_path / "a.xml"
    file.write_text(text.replace("</annotations>", "<image" + second))
    given = ("--images", str(tmp_path / "pictures"))
    folder = bring_in(file, "cvat", tmp_path / "yard", *given)
    assert sorted(labels_of(folder)) == ["two_a", "two_t"]
    upright = cv2.imread(str(folder / "images/train/two_t.png"))
    assert upright.shape == (12, 16, 3) and upright[:, 9:].min() > 150 and upright[:, :7].max() < 60
    assert len(list(LabelledFolder.open(folder, "train"))) == 2
    file.write_text(cvat(mask("car", (0, 0, 2, 2))))
    command = ["import", str(file), "--from", "cvat", "--output", str(tmp_path / "no"), *given]
    assert main(command) == 2


def test_coco_by_hand(tmp_path: Path) -> None:
    """Both kinds of RLE, and polygons in two parts, as CVAT and pycocotools write them."""
    picture(tmp_path / "images")
    runs = [16 * 12 - 4, 4]  # the last pixels of the last column
    annotations = [
        {"segmentation": {"size": [12, 16], "counts": runs}, "category_id": 7, "iscrowd": 1},
        {"segmentation": [[0, 0, 4, 0, 4, 3, 0, 3], [6, 0, 8, 0, 8, 2, 6, 2]], "category_id": 3},
        {"bbox": [0, 0, 1, 1], "category_id": 3},
    ]
    values = {
        "images": [{"id": 5, "file_name": "a.png", "width": 16, "height": 12}],
        "categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "road"}],
        "annotations": [{"id": n, "image_id": 5, **one} for n, one in enumerate(annotations)],
    }
    (tmp_path / "a.json").write_text(json.dumps(values))
    folder = bring_in(tmp_path / "a.json", "coco", tmp_path / "yard")
    expected = np.full(SIZE, NONE, np.uint8)
    expected[8:, 15] = 0
    expected[:3, :4] = expected[:2, 6:8] = 1
    np.testing.assert_array_equal(labels_of(folder)["a"], expected)


def test_label_studio_takes_the_last_annotation_that_was_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "images")

    def drawn(*points: tuple[float, float], label: str = "car") -> dict[str, Any]:
        value = {"points": points, "polygonlabels": [label]}
        size = {"original_width": 16, "original_height": 12}
        return {"type": "polygonlabels", "value": value, **size}

    right = drawn((50, 0), (100, 0), (100, 100), (50, 100))
    top = drawn((0, 0), (100, 0), (100, 50), (0, 50))
    box = {"type": "rectanglelabels", "value": {"x": 1}}
    tasks = [
        {
            "data": {"image": "/data/upload/3/0f3e21ab-a.png"},
            "annotations": [
                {"result": [top]},
                {"result": [right, box]},
                {"result": [top], "was_cancelled": True},
            ],
            "predictions": [{"result": [top]}],
        },
        {"data": {"image": "b.png"}, "annotations": [], "predictions": [{"result": [top]}]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    folder = bring_in(tmp_path / "a.json", "labelstudio", tmp_path / "yard")
    labels = labels_of(folder)["a"]
    assert (labels[:, 8:] == 0).all() and (labels[:, :8] == NONE).all()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "left out: 1 annotations of pictures that have a later one",
        "left out: 1 results of the kind 'rectanglelabels'",
        "left out: 1 tasks that nobody submitted",
    ]


BOMB = """<?xml version="1.0"?>
<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>
<annotations>&c;</annotations>"""
OUTSIDE = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>'
CVAT_DAMAGE: Mapping[str, str] = {
    BOMB: "has a document type, which CVAT never writes",
    OUTSIDE: "has a document type, which CVAT never writes",
    "": "are no XML",
    "<annotations>": "are no XML",
    '<?xml version="1.0" encoding="what"?><annotations/>': "are no XML .unknown encoding: what",
    "PK\x03\x04": "are no XML .* out of its ZIP",
    "<html/>": "is no file of CVAT: it begins with <html>",
    "<annotations><track/></annotations>": "has tracks; export it as 'CVAT for images 1.1'",
    "<annotations/>": "names no label that is a class",
    cvat(mask("sky", (0, 0, 2, 2))): "label 'sky' of .* stands for no class",
    cvat(mask("car", (0, 0, 2, 2)), image="c.png"): "picture 'c.png' is not below",
    cvat(mask("car", (0, 0, 2, 2)), image="../../etc/a.png"): "is not below",
    cvat(
        mask("car", (9, 0, 9, 2))
    ): "image 'a.png' has a mask .* its box is not within the picture",
    cvat(mask("car", (-1, 0, 3, 2))): "its box is not within the picture",
    cvat(mask("car", (0, 0, 2, 2)).replace("0, 4", "0, 5")): "a run has no length that fits",
    cvat(mask("car", (0, 0, 2, 2)).replace("0, 4", "0, 3")): "its runs have 3 pixels, its size 4",
    cvat(mask("car", (0, 0, 2, 2)).replace("0, 4", "0, x")): "its rle is no list of whole numbers",
    cvat(mask("car", (0, 0, 2, 2)).replace('left="0"', "")): "its box has no whole numbers",
    cvat(mask("car", (0, 0, 2, 2)).replace('z_order="0"', 'z_order="1e9"')): "z_order is no whole",
    cvat(mask("car", (0, 0, 2, 2)).replace('z_order="0"', 'z_order="--1"')): "z_order is no whole",
    cvat(mask("car", (0, 0, 2, 2)).replace('label="car"', "")): "has no label of a shape",
    cvat('<polygon label="car" points="1,1;2"/>'): "fewer than three points",
    cvat('<polygon label="car" points="1,1;2,2;x,3"/>'): "far outside of the picture",
    cvat('<polygon label="car" points="1,1;2,2;1e9,3"/>'): "far outside of the picture",
    cvat("").replace('width="16"', 'width="0"'): "has no size, but '0' x '12'",
    cvat("").replace('width="16"', 'width="999999999"'): "has more than 268435456 pixels",
    cvat(mask("car", (0, 0, 2, 2))).replace('width="16"', 'width="17"'): "is 16x12, and was 17x12",
}


@pytest.mark.parametrize("text", CVAT_DAMAGE)
def test_damaged_files_of_cvat(
    text: str, write: Write, tmp_path: Path, refused: Callable[[Path, str], str]
) -> None:
    assert_said(refused(write(text), "cvat"), CVAT_DAMAGE[text])


def assert_said(error: str, pattern: str) -> None:
    import re

    assert re.search(pattern, error), error


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Path, str], str]:
    """Return a function that imports a file, which must be refused, and returns its one line."""

    def call(file: Path, source: str) -> str:
        output = tmp_path / "yard"
        command = ["import", str(file), "--from", source, "--output", str(output)]
        assert main(command) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if "…" not in line]
        assert len(error) == 1 and error[0].startswith("dedos-label import: error: "), error
        assert not output.exists()
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        return error[0]

    return call


GOOD: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 12}],
    "categories": [{"id": 1, "name": "car"}],
    "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 3]]}],
}


def but(key: str, **changed: object) -> str:
    return json.dumps({**GOOD, key: [{**GOOD[key][0], **changed}]})


def segmented(segmentation: object) -> str:
    return but("annotations", segmentation=segmentation)


COCO_DAMAGE: Mapping[str, str] = {
    "": "is not valid JSON",
    '{"images": [': "is not valid JSON",
    "[" * 100_000: "nested too deeply|is not valid JSON",
    '{"a": NaN}': "is not valid JSON",
    "[]": "the file is no object",
    "{}": "has no list 'annotations'",
    json.dumps({"annotations": [{"segments_info": []}]}): "is of COCO panoptic",
    json.dumps({**GOOD, "images": 3}): "has no list 'images'",
    json.dumps({**GOOD, "images": [3]}): "image 0 is no object",
    json.dumps({**GOOD, "images": []}): "annotation 0 is of image 1, which is not listed",
    json.dumps({**GOOD, "categories": []}): "names no label that is a class",
    but("categories", id="x"): "category 0 has no whole number 'id'",
    but("categories", name="\n"): "category 0 has no name",
    but("categories", id=2): "annotation 0 has category 1, which is not listed",
    but("images", file_name=["a"]): "has no file_name",
    but("images", width=-3): "has no size, but -3 x 12",
    but("images", width=True): "has no size, but True x 12",
    but("categories", id=10**400): "category 0 has no whole number 'id'",
    but("images", file_name="."): "picture '.' is not below",
    segmented([[0, 0, 4, 0]]): "fewer than three points",
    segmented([[0, 0, 4, 0, 10**400, 1]]): "points are no numbers",
    segmented({"size": [12, 16], "counts": [10**30]}): "a run has no length that fits",
    segmented([[0, 0, 4, 0, "x", 1]]): "points are no numbers",
    segmented(["abc"]): "points are no numbers",
    segmented([{"a": 1}]): "points are no numbers",
    segmented("abc"): "image 'a.png' is no object",
    segmented({"size": [16, 12], "counts": [192]}): "an RLE of another size than its own",
    segmented({"size": [12, 16], "counts": [191]}): "its runs have 191 pixels, its size 192",
    segmented({"size": [12, 16], "counts": ["192"]}): "neither a text nor a list of numbers",
    segmented({"size": [12, 16], "counts": "é"}): "not COCO's",
    segmented({"size": [12, 16], "counts": ""}): "its runs have 0 pixels",
}


@pytest.mark.parametrize("text", COCO_DAMAGE)
def test_damaged_files_of_coco(
    text: str, write: Write, refused: Callable[[Path, str], str]
) -> None:
    assert_said(refused(write(text), "coco"), COCO_DAMAGE[text])


def task(*results: object, **changed: object) -> str:
    entry = {"data": {"image": "a.png"}, "annotations": [{"result": results}], **changed}
    return json.dumps([entry])


def brush(**changed: object) -> dict[str, Any]:
    value = {"rle": [0, 0, 0, 1], "brushlabels": ["car"], "format": "rle"}
    size = {"original_width": 16, "original_height": 12}
    return {"type": "brushlabels", "value": value, **size, **changed}


STUDIO_DAMAGE: Mapping[str, str] = {
    "{}": "is no list of tasks; it is to be exported as JSON",
    "[1]": "task 1 is no object",
    "[{}]": "task 1 is no object",
    task(data={"image": 3}): "has no address 'image' in its data",
    task(annotations=3): "the task of 'a.png' has no list 'annotations'",
    task(annotations=[{}]): "has no list 'result'",
    task(3): "the task of 'a.png' is no object",
    task(brush()): "has a mask that is damaged: it ends too early|values, its size",
    task(brush(value={"rle": 10**12, "brushlabels": ["car"]})): "its rle is no list of bytes",
    task(brush(), data={"image": "http://host/folder/"}): "picture '' is not below",
    task(brush(original_width=0)): "has no size, but 0 x 12",
    task(
        brush(), brush(original_width=8)
    ): "was turned while it was annotated, or has shapes of several",
    task(brush(image_rotation=90)): "was turned while it was annotated",
    task(brush(type="other")): "has a shape that has not one label",
    task(brush(value={"points": "x", "brushlabels": ["car"]})): "points are no numbers",
    task(brush(value={"points": [1, 2, 3], "brushlabels": ["car"]})): "points are no numbers",
    task(brush(value={"points": [[10**400, 1]], "brushlabels": ["car"]})): "points are no numbers",
    task(): "names no label that is a class",
}


@pytest.mark.parametrize("text", STUDIO_DAMAGE)
def test_damaged_files_of_label_studio(
    text: str, write: Write, refused: Callable[[Path, str], str]
) -> None:
    assert_said(refused(write(text), "labelstudio"), STUDIO_DAMAGE[text])


def test_files_and_folders_that_are_not_there(
    tmp_path: Path, refused: Callable[[Path, str], str]
) -> None:
    assert "cannot be read (No such file" in refused(tmp_path / "no.xml", "cvat")
    assert "cannot be read (Is a directory" in refused(tmp_path, "coco")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in refused(tmp_path / "a.json", "coco")
    (tmp_path / "a.xml").write_text(cvat(mask("car", (0, 0, 2, 2))))
    said = refused(tmp_path / "a.xml", "cvat")
    assert "there is no folder of pictures (looked at" in said and "--images" in said
    picture(tmp_path / "images/1")
    picture(tmp_path / "images/2")
    assert "'a.png' is below" in (said := refused(tmp_path / "a.xml", "cvat")) and "2 times" in said
    (tmp_path / "images/2/a.png").write_bytes(b"\x89PNG")
    (tmp_path / "images/1/a.png").unlink()
    assert "damaged or of an unknown format" in refused(tmp_path / "a.xml", "cvat")


def test_a_word_for_word_copy_of_an_export_with_many_classes(tmp_path: Path) -> None:
    """More classes than 8 bits hold."""
    path = picture(tmp_path / "p", size_hw=(48, 64))
    corpus = write_corpus(
        tmp_path / "set", [Labelled(path, blobs(0))], [f"word {n}" for n in range(300)]
    )
    exported = export(corpus, "cvat", tmp_path / "out")
    folder = bring_in(exported / "annotations.xml", "cvat", tmp_path / "yard")
    labels = labels_of(folder)["a"]
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, blobs(0))  # 255 is one of the classes
