"""Evaluation end to end: folders of labelled images, a fake segmenter, a tiny real bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from colours import EXPECTED, write_bundle, write_item
from PIL import Image

from dedos_deploy.cli import eval as eval_cli
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation import (
    LabelledFolder,
    evaluate_bundle,
    evaluate_segmenter,
    match_classes,
)
from dedos_deploy.progress import Progress
from dedos_deploy.runtime import Segmentation
from dedos_deploy.vocabulary import parse_vocabulary


class FakeSegmenter:
    """The runtime's contract with perfect eyes: a pixel's class is its colour.

    The session has met a class before, so its ids are not those of the vocabulary.
    """

    classes = ("something older", "red", "green", "blue")

    def segment(self, frame_bgr: np.ndarray) -> Segmentation:
        label_map = (3 - frame_bgr.argmax(axis=2)).astype(np.uint8)
        counts = np.bincount(label_map.ravel(), minlength=len(self.classes)).astype(np.int64)
        return Segmentation(
            label_map=label_map,
            confidence=np.full_like(label_map, 255),
            classes=self.classes,
            class_ids=(1, 2, 3),
            counts=counts,
            none_id=255,
            vocabulary_version=2,
            timestamp_s=0.0,
            latency_ms={"pre": 0.0, "engine": 0.0, "post": 0.0},
        )

    def close(self) -> None:
        pass


class Counts(Progress):
    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def count(self, done: int, total: int, unit: str = "image") -> None:
        self.calls.append((done, total))


def test_with_a_fake_segmenter(data: Path) -> None:
    folder = LabelledFolder.open(data, "val")
    vocabulary, _ = match_classes(folder.classes, None)
    counts = Counts()
    result = evaluate_segmenter(FakeSegmenter(), folder, vocabulary, progress=counts)
    assert result.classes == ("blue", "green", "red")
    np.testing.assert_allclose(result.iou, list(EXPECTED.values()))
    assert result.miou_present == result.miou_union == pytest.approx(np.mean([*EXPECTED.values()]))
    assert result.accuracy == pytest.approx(5.5 / 6)
    assert (result.images, result.skipped) == (2, ("c",)) and result.labelled == (1024,) * 3
    assert counts.calls == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_classes_left_out_are_not_counted(data: Path) -> None:
    folder = LabelledFolder.open(data, "val")
    result = evaluate_segmenter(FakeSegmenter(), folder, parse_vocabulary("red,green"))
    assert result.iou == (1.0, 1.0) and sum(result.labelled) == 2048
    with pytest.raises(
        BadInputError, match="class 'gren' is not in the data, did you mean 'green'"
    ):
        evaluate_segmenter(FakeSegmenter(), folder, parse_vocabulary("gren"))


def test_a_long_class_list_is_not_said_in_full() -> None:
    names = tuple(f"thing {number}" for number in range(300))
    with pytest.raises(BadInputError, match="it has thing 0, .*, thing 29 and more; rename one"):
        match_classes(names, parse_vocabulary("purple"))


def test_classes_of_the_data_are_said_as_they_are_typed() -> None:
    with pytest.raises(BadInputError) as said:
        match_classes(("sky, blue", "road"), parse_vocabulary("purple"))
    text = str(said.value)
    assert r"it has sky\, blue, road;" in text
    advised = text.rpartition(" '")[2].rstrip("'")
    assert list(match_classes(("sky, blue", "road"), parse_vocabulary(advised))[1][:2]) == [0, 255]


def test_an_entry_may_rename_and_join_classes() -> None:
    names = ("car", "bus", "traffic sign", "void")
    vocabulary, table = match_classes(names, parse_vocabulary("sign|Traffic_Sign,car|bus"))
    assert list(table[:5]) == [1, 1, 0, 255, 255]
    vocabulary, table = match_classes(names, None)
    assert vocabulary.names == names[:3] and list(table[:5]) == [0, 1, 2, 255, 255]


def test_an_unlabelled_split_is_refused(data: Path) -> None:
    for name in ("a", "b"):
        (data / "images" / "val" / f"{name}.png").unlink()
    with pytest.raises(
        BadInputError, match=r"no pixel of data/val \(1 images\) is labelled with one of blue"
    ):
        evaluate_segmenter(
            FakeSegmenter(), LabelledFolder.open(data, "val"), parse_vocabulary("blue")
        )


def spoil(data: Path, what: str) -> None:
    label = data / "labels" / "val" / "b.png"
    match what:
        case "no split":
            (data / "images" / "val").rename(data / "images" / "train")
        case "no label":
            label.unlink()
        case "no images":
            for path in (data / "images" / "val").iterdir():
                path.unlink()
        case "no classes":
            (data / "classes.txt").unlink()
        case "class twice":
            (data / "classes.txt").write_text("blue\nroad\nBlue\n")
        case "empty line":
            (data / "classes.txt").write_text("blue\n\nred\n")
        case "too few classes":
            (data / "classes.txt").write_text("blue\ngreen\n")
        case "label size":
            cv2.imwrite(str(label), np.zeros((32, 47), np.uint8))
        case "colour label":
            cv2.imwrite(str(label), np.zeros((32, 48, 3), np.uint8))
        case "broken image":
            (data / "images" / "val" / "b.png").write_bytes(b"\x89PNG")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no split", "images/val' does not exist; splits there: train"),
        ("no label", "b.png' has no labels '.*labels/val/b.png'"),
        ("no images", "images/val' has no .bmp or .* file"),
        ("no classes", "classes.txt' cannot be read .*one class per line"),
        ("class twice", "names 'blue' on lines 1 and 3"),
        ("empty line", "line 2 is empty"),
        ("too few classes", "a.png' hold the value 2, but classes.txt names 2 classes"),
        ("label size", "b.png' are 47x32, but their image is 48x32"),
        ("colour label", "b.png' are not an 8-bit grey PNG"),
        ("broken image", "b.png' cannot be read"),
    ],
)
def test_unusable_data_is_named(data: Path, what: str, message: str) -> None:
    spoil(data, what)
    with pytest.raises(BadInputError, match=message):
        for _ in LabelledFolder.open(data, "val"):
            pass


@pytest.fixture
def command(bundle: Path, data: Path) -> Callable[..., int]:
    def call(*more: str) -> int:
        given = ["--bundle", str(bundle), "--data", str(data), "--threads", "1", *more]
        return eval_cli.main(given)

    return call


def test_command_line_on_a_bundle(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--json") == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    stable = {
        "miou_present",
        "miou_union",
        "iou",
        "images",
        "skipped",
        "seconds_inference",
        "seconds_total",
    }
    assert stable <= set(values)
    # Scores have a quarter of the resolution, so borders of stripes may move by a pixel or two.
    assert values["iou"] == pytest.approx(EXPECTED, abs=0.02)
    assert (values["images"], values["skipped"]) == (2, 1)
    table = next(line for line in printed.err.splitlines() if line.startswith("red"))
    assert table.split() == ["red", f"{values['iou']['red']:.3f}", "33.3%"]


def test_command_line_with_classes(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--classes", "red,blue", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert list(values["iou"]) == ["red", "blue"]


def test_command_line_says_what_is_wrong(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--split", "test") == 2
    error = capsys.readouterr().err
    assert error.startswith("dedos-eval: error: data folder") and "splits there: val" in error
    assert error.count("\n") == 1
    assert command("--classes", "purple") == 2
    assert "class 'purple' is not in the data" in capsys.readouterr().err


def test_help_and_evaluation_stay_light() -> None:
    script = (
        "import sys\nfrom dedos_deploy.cli.eval import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'numpy', 'cv2', 'torch'} & set(sys.modules)\n"
        "import dedos_deploy.evaluation\n"
        "assert not {'torch', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_labels_of_16_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """300 classes, of which 255 is one and 65535 is not counted; the same with few asked for."""
    labels = np.repeat(np.repeat([[255, 256, 299]], 32, axis=0), 16, axis=1)
    write_item(tmp_path, "a", (labels > 255).astype(int) + (labels > 256), labels)
    labels[16:, :16] = 65535  # half of what looks blue is unknown
    labels[16:, 32:] = 256  # half of what looks red is labelled as green
    cv2.imwrite(str(tmp_path / "labels/val/a.png"), labels.astype(np.uint16))
    names = [f"thing {index}" for index in range(300)]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    eyes = {255: (1.0, 0.0, 0.0), 256: (0.0, 1.0, 0.0), 299: (0.0, 0.0, 1.0)}
    words = {name: eyes.get(index, (-1.0, 0.0, 0.0)) for index, name in enumerate(names)}
    bundle = write_bundle(tmp_path / "seen.dedos", words=words)
    expected = {"thing 255": 1.0, "thing 256": 512 / 768, "thing 299": 256 / 512}
    found = evaluate_bundle(bundle, tmp_path, "val")
    assert {n: i for n, i in zip(found.classes, found.iou, strict=True) if i} == expected
    assert found.miou_present == pytest.approx(sum(expected.values()) / 3)
    assert sum(found.labelled) == 32 * 48 - 16 * 16
    asked = ["thing 299", "thing 255|thing 256"]
    few = evaluate_bundle(bundle, tmp_path, "val", classes=asked)
    assert few.iou == (0.5, 768 / 1024)
    given = ["--bundle", str(bundle), "--data", str(tmp_path), "--split", "val", "--dry-run"]
    assert eval_cli.main(["calibrate-thresholds", *given, "--classes", "thing 299"]) == 0
    assert "thing 299" in capsys.readouterr().out


def test_more_classes_than_labels_hold_are_refused(tmp_path: Path) -> None:
    write_item(tmp_path, "a", np.zeros((32, 48), int), np.zeros((32, 48), int))
    (tmp_path / "classes.txt").write_text("\n".join(f"thing {i}" for i in range(65535)))
    with pytest.raises(BadInputError, match="names 65535 classes, .* 16 bits hold 65534; leave"):
        LabelledFolder.open(tmp_path, "val")


@pytest.mark.parametrize("orientation", [3, 6])
def test_pictures_turned_by_exif(tmp_path: Path, orientation: int) -> None:
    """Sides tell what labels were drawn on; where they cannot, the picture is refused by the tag."""
    labels = np.repeat(np.repeat([[0, 1, 2]], 32, axis=0), 16, axis=1)
    write_item(tmp_path, "a", labels, labels)
    (tmp_path / "classes.txt").write_text("blue\ngreen\nred\n")
    stored = Image.open(tmp_path / "images/val/a.png")
    tag = Image.Exif()
    tag[0x0112] = orientation
    stored.save(tmp_path / "images/val/a.jpg", exif=tag, quality=95)
    (tmp_path / "images/val/a.png").unlink()
    folder = LabelledFolder.open(tmp_path, "val")
    if orientation == 3:
        with pytest.raises(BadInputError, match=r"a\.jpg' has EXIF orientation 3"):
            folder.image(0)
        return
    item = folder.image(0)
    # A quarter turn clockwise: what was left is on top.
    assert item.image_bgr.shape == (48, 32, 3) and item.labels.shape == (48, 32)
    assert item.labels[:, 0].tolist() == [0] * 16 + [1] * 16 + [2] * 16
    assert (item.image_bgr.argmax(axis=2) == item.labels).mean() > 0.9


def test_the_classes_may_lie_beside_the_labels(tmp_path: Path) -> None:
    """As `dedos-run --output masks:FOLDER` leaves them."""
    labels = np.zeros((8, 8), np.uint8)
    write_item(tmp_path, "a", labels, labels)
    (tmp_path / "labels/val/classes.txt").write_text("road\nsky\n")
    assert LabelledFolder.open(tmp_path, "val").classes == ("road", "sky")
    (tmp_path / "classes.txt").write_text("car\n")
    assert LabelledFolder.open(tmp_path, "val").classes == ("car",)
