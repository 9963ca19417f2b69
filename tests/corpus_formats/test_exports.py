"""What is exported of a data set, under which names, and that it is there whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from corpora import HASH, NAMES, NONE, Labelled, blobs, export, write_corpus, write_pictures
from PIL import Image

from dedos_deploy.cli.label import main
from dedos_deploy.corpus import Corpus, LabelledFrame
from dedos_deploy.corpus.formats import exporting
from dedos_deploy.corpus.formats.exporting import FORMATS
from dedos_deploy.corpus.formats.importing import READERS
from dedos_deploy.corpus.formats.options import EXPORTS, IMPORTS
from dedos_deploy.corpus.formats.voc import Voc
from dedos_deploy.corpus.formats.whole_folder import RECORD


def webdataset_maps(folder: Path) -> dict[str, np.ndarray]:
    """Label maps of an export to WebDataset, by tarfile and Pillow alone."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                name, _, suffix = member.name.partition(".")
                if suffix == "seg.png":
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]
                    found[name] = np.asarray(Image.open(io.BytesIO(content)))
    return found


def test_every_name_of_a_format_has_what_writes_or_reads_it() -> None:
    assert tuple(FORMATS) == EXPORTS and tuple(READERS) == IMPORTS


def test_samples_of_a_webdataset_stand_together_in_shards(
    data: Path, tmp_path: Path, frames: list[Labelled]
) -> None:
    output = export(data, "webdataset", tmp_path / "out", "--shard-frames", "2")
    names = []
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as tar:
            names.append(tar.getnames())
    assert names[1] == ["Bild_2.png", "Bild_2.seg.png", "Bild_2.json"]
    assert [name for name in names[0] if "Bild_1" in name] == names[0][3:]
    assert names[0][3] == "Bild_1.jpg", "as it was"
    maps = webdataset_maps(output)
    for frame, labels in zip(frames, maps.values(), strict=True):
        np.testing.assert_array_equal(labels, frame.label_map)
    assert not (tmp_path / "out/images").exists()


def test_an_export_says_where_everything_is_from(data: Path, tmp_path: Path) -> None:
    output = export(data, "voc", tmp_path / "out")
    with (output / "frames.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["Bild_0", "Bild_1", "Bild_2"]
    assert rows[0]["source"].endswith("Bild 0 ü.png") and rows[0]["key"].endswith("ü.png#0")
    assert [float(row["margin"]) for row in rows] == [0.4, 0.1, 0.3]
    lines = (output / "frames.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 0, 0]
    record = json.loads((output / RECORD).read_text())
    assert record["bundle_sha256"] == HASH and record["settings"]["to"] == "voc"


def test_the_least_certain_frames_come_first(data: Path, tmp_path: Path) -> None:
    output = export(data, "cvat", tmp_path / "out", "--review", "2")
    with (output / "frames.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["Bild_1", "Bild_2"]
    text = (output / "annotations.xml").read_text(encoding="utf-8")
    assert text.index("Bild_1") < text.index("Bild_2") and "Bild_0" not in text
    assert sorted(path.stem for path in (output / "images").iterdir()) == ["Bild_1", "Bild_2"]
    everything = export(data, "cvat", tmp_path / "all", "--review", "9")
    assert len(list((everything / "images").iterdir())) == 3


def test_tasks_of_label_studio_name_pictures_where_it_has_them(data: Path, tmp_path: Path) -> None:
    for number, (more, prefix) in enumerate(
        (((), "/data/local-files/?d=images/"), (("--url", "https://host/p/"), "https://host/p/"))
    ):
        output = export(data, "labelstudio", tmp_path / f"{number}", *more)
        tasks = json.loads((output / "tasks.json").read_text())
        assert [task["data"]["image"] for task in tasks] == [
            f"{prefix}Bild_{place}.{suffix}" for place, suffix in enumerate(("png", "jpg", "png"))
        ]
        scores = [task["predictions"][0]["score"] for task in tasks]
        assert scores == [0.4, 0.1, 0.3], "by which Label Studio orders tasks"


def test_classes_are_left_out_joined_and_ordered(
    data: Path, tmp_path: Path, frames: list[Labelled]
) -> None:
    output = export(data, "webdataset", tmp_path / "out", "--classes", "vehicle|car|My Pallet,road")
    assert (output / "classes.txt").read_text() == "vehicle\nroad\n"
    table = np.full(256, NONE)
    table[[2, 3, 0]] = [0, 0, 1]
    labels = webdataset_maps(output)["Bild_0"]
    np.testing.assert_array_equal(labels, table[frames[0].label_map])


def test_unsure_pixels_and_small_regions_are_unlabelled(
    data: Path, tmp_path: Path, frames: list[Labelled]
) -> None:
    sure = export(data, "webdataset", tmp_path / "sure", "--min-confidence", "0.5")
    confidence = frames[0].confidence
    assert confidence is not None
    expected = np.where(confidence / 255 < 0.5, NONE, frames[0].label_map)
    np.testing.assert_array_equal(webdataset_maps(sure)["Bild_0"], expected)
    large = export(data, "webdataset", tmp_path / "large", "--min-area", "9")
    expected = frames[0].label_map.copy()
    for value in range(len(NAMES)):
        count, regions, stats, _ = cv2.connectedComponentsWithStats(
            (frames[0].label_map == value).view(np.uint8), connectivity=8
        )
        for region in range(1, count):
            if stats[region, cv2.CC_STAT_AREA] < 9:
                expected[regions == region] = NONE
    assert (expected != frames[0].label_map).any() and expected[25, 25] == 2, "nine pixels stay"
    np.testing.assert_array_equal(webdataset_maps(large)["Bild_0"], expected)


def test_things_are_segments_of_their_own(
    data: Path, tmp_path: Path, frames: list[Labelled]
) -> None:
    output = export(data, "coco-panoptic", tmp_path / "out", "--things", "car")
    found = json.loads((output / "annotations/panoptic_train.json").read_text())
    assert [one["isthing"] for one in found["categories"]] == [0, 0, 1, 0]
    segments = found["annotations"][0]["segments_info"]
    count, _ = cv2.connectedComponents((frames[0].label_map == 2).view(np.uint8), connectivity=8)
    of_class = [sum(one["category_id"] == place for one in segments) for place in (1, 2, 3, 4)]
    assert of_class == [1, 1, count - 1, 1] and count > 3
    areas = [one["area"] for one in segments]
    assert areas == sorted(areas, reverse=True), (
        "tools draw in this order, and small ones lie on top"
    )
    bgr = cv2.imread(str(output / "annotations/panoptic_train/Bild_0.png")).astype(int)
    ids = bgr[..., 2] + 256 * bgr[..., 1] + 65536 * bgr[..., 0]
    assert [int((ids == one["id"]).sum()) for one in segments] == [one["area"] for one in segments]
    assert ((ids == 0) == (frames[0].label_map == NONE)).all()


def test_things_of_cityscapes_have_numbers(
    data: Path, tmp_path: Path, frames: list[Labelled]
) -> None:
    output = export(data, "cityscapes", tmp_path / "out", "--things", "car")
    stem = output / "gtFine/train/dedos/dedos_000000_000019_gtFine"
    ids = cv2.imread(f"{stem}_instanceIds.png", cv2.IMREAD_UNCHANGED)
    labels = cv2.imread(f"{stem}_labelIds.png", cv2.IMREAD_UNCHANGED)
    count, regions = cv2.connectedComponents((frames[0].label_map == 2).view(np.uint8))
    assert {*ids[frames[0].label_map == 2].tolist()} == set(range(26000, 26000 + count - 1))
    assert ((ids >= 1000) == (labels == 26)).all() and (
        ids[labels != 26] == labels[labels != 26]
    ).all()
    assert (
        len({*zip(ids[regions > 0].tolist(), regions[regions > 0].tolist(), strict=True)})
        == count - 1
    )


def test_pictures_are_copied_byte_for_byte_linked_to_or_left_out(
    data: Path, tmp_path: Path, frames: list[Labelled]
) -> None:
    copied = export(data, "cvat", tmp_path / "copied")
    linked = export(data, "cvat", tmp_path / "linked", "--pictures", "link")
    without = export(data, "cvat", tmp_path / "without", "--pictures", "none")
    for number, suffix in enumerate(("png", "jpg", "png")):
        name = f"images/Bild_{number}.{suffix}"
        assert (copied / name).read_bytes() == frames[number].source.read_bytes()
        assert (linked / name).is_symlink()
        assert (linked / name).resolve() == frames[number].source.resolve()
    texts = {(folder / "annotations.xml").read_text() for folder in (copied, linked, without)}
    assert len(texts) == 1 and not (without / "images").exists()
    # VOC's readers take JPEG alone.
    voc = export(data, "voc", tmp_path / "voc")
    original = frames[1].source.read_bytes()
    assert (voc / "JPEGImages/Bild_1.jpg").read_bytes() == original
    assert (voc / "JPEGImages/Bild_0.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_a_picture_that_is_turned_is_written_upright(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = np.zeros((40, 64, 3), np.uint8)
    picture[:, :10] = 255
    exif = Image.Exif()
    exif[274] = 6  # to be shown it is turned clockwise
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    corpus = write_corpus(tmp_path / "set", [Labelled(tmp_path / "turned.jpg", blobs(0, (64, 40)))])
    output = export(corpus, "cvat", tmp_path / "out")
    written = np.asarray(Image.open(output / "images/turned.jpg"))
    assert written.shape == (64, 40, 3) and written[:9].min() > 200 and written[12:].max() < 50
    command = ["export", str(corpus), "--to", "cvat", "--pictures", "link"]
    assert main([*command, "--output", str(tmp_path / "linked")]) == 2
    assert "links lead to upright pictures" in capsys.readouterr().err
    assert not (tmp_path / "linked").exists()


def test_frames_of_videos_are_encoded_and_cannot_be_linked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "scene:street?frames=3&size=48x64"
    frames = [Labelled(source, blobs(number), frame=number) for number in (0, 2)]
    corpus = write_corpus(tmp_path / "set", frames)
    output = export(corpus, "coco", tmp_path / "out")
    names = sorted(path.name for path in (output / "images/train").iterdir())
    assert [name[-11:] for name in names] == ["_000000.jpg", "_000002.jpg"]
    capsys.readouterr()
    command = ["export", str(corpus), "--to", "coco", "--pictures", "link"]
    assert main([*command, "--output", str(tmp_path / "linked")]) == 2
    assert "it is no file of one picture; give --pictures copy" in capsys.readouterr().err


def test_a_video_is_read_once_whatever_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "scene:street?frames=4&size=48x64"
    frames = [Labelled(source, blobs(n), margin=1 - n / 9, frame=n) for n in range(4)]
    corpus = write_corpus(tmp_path / "set", frames)
    in_order = export(corpus, "cvat", tmp_path / "in_order")
    asked = []
    picture = Corpus.picture

    def counted(self: Corpus, row: LabelledFrame) -> object:
        asked.append(row.frame)
        return picture(self, row)

    monkeypatch.setattr(Corpus, "picture", counted)
    least_certain = export(corpus, "cvat", tmp_path / "review", "--review", "3")
    assert asked == [1, 2, 3]
    with (least_certain / "frames.csv").open(newline="") as file:
        assert [row["frame"] for row in csv.DictReader(file)] == ["3", "2", "1"]
    for path in (least_certain / "images").iterdir():
        assert path.read_bytes() == (in_order / "images" / path.name).read_bytes()


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    first, second = (write_pictures(tmp_path / name, 1)[0] for name in ("a", "b"))
    frames = [Labelled(first, blobs(0)), Labelled(second, blobs(1))]
    output = export(write_corpus(tmp_path / "set", frames), "cvat", tmp_path / "out")
    names = sorted(path.stem for path in (output / "images").iterdir())
    assert names[0] == "Bild_0" and names[1].startswith("Bild_0_") and len(names[1]) == 23


def test_the_same_data_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    for to in EXPORTS:
        one, two = (export(data, to, tmp_path / f"{to}{n}") for n in (1, 2))
        files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
        assert len(files) > 4
        assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)


def test_names_of_classes_in_yaml_are_what_they_were(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    names = ("🚗", 'a "b": c', "Straße", "道路")
    path = write_pictures(tmp_path / "p", 1)[0]
    corpus = write_corpus(tmp_path / "set", [Labelled(path, blobs(1))], names)
    text = (export(corpus, "yolo-seg", tmp_path / "out") / "data.yaml").read_text("utf-8")
    assert tuple(yaml.safe_load(text)["names"].values()) == names


def test_what_polygons_lose_is_printed_the_worst_first(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(data, "yolo-seg", tmp_path / "rough", "--tolerance", "3", "--json")
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    first = [line.split() for line in lines].index(["class", "IoU", "worst", "in"]) + 1
    shown = [line[13:].split() for line in lines[first : first + 4]]
    assert all(float(worst) <= float(iou) for iou, worst, *_ in shown)
    rough = json.loads(printed.out)
    shares = [loss["iou"] for loss in rough["losses"]]
    assert shares == sorted(shares) and not rough["exact"]
    export(data, "yolo-seg", tmp_path / "fine", "--tolerance", "0", "--json")
    fine = json.loads(capsys.readouterr().out)
    assert np.mean([loss["iou"] for loss in fine["losses"]]) > np.mean(shares) + 0.02
    export(data, "coco", tmp_path / "exact")
    assert "labels come back pixel for pixel" in capsys.readouterr().out


def test_outlines_without_holes_are_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dots, lines and bays: at tolerance 0 only holes are lost."""
    label_map = np.full((20, 30), NONE, np.uint8)
    label_map[2, 2] = label_map[5, 3:9] = label_map[7:12, 5] = 0
    label_map[10:18, 10:28] = 1
    label_map[12:16, 14:28] = 2
    label_map[13, 16:26:3] = 3
    path = write_pictures(tmp_path / "p", 1, (20, 30))[0]
    corpus = write_corpus(tmp_path / "set", [Labelled(path, label_map)])
    for to, *more in (("yolo-seg",), ("coco", "--shapes", "polygons")):
        export(corpus, to, tmp_path / to, "--tolerance", "0", "--json", *more)
        report = json.loads(capsys.readouterr().out)
        shares = {loss["name"]: loss["iou"] for loss in report["losses"]}
        holes = shares.pop("car")
        assert set(shares.values()) == {1.0}, to
        assert holes == pytest.approx(1 - 4 / 56)


def test_an_outline_lies_between_the_middles_and_the_edges_of_its_pixels(tmp_path: Path) -> None:
    """So that no reader has to decide about a point that is on it."""
    label_map = np.full((8, 10), NONE, np.uint8)
    label_map[2:4, 5:8] = 0
    path = write_pictures(tmp_path / "p", 1, (8, 10))[0]
    corpus = write_corpus(tmp_path / "set", [Labelled(path, label_map)])
    output = export(corpus, "cvat", tmp_path / "out", "--shapes", "polygons")
    points = 'points="5.25,2.25;5.25,3.75;7.75,3.75;7.75,2.25"'
    assert points in (output / "annotations.xml").read_text()


Refused = Callable[..., str]


@pytest.fixture
def refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that exports, which must be refused, and returns its one line."""

    def call(*options: str, corpus: Path = data) -> str:
        output = tmp_path / "refused"
        command = ["export", str(corpus), "--output", str(output), "--to", *options]
        capsys.readouterr()
        assert main(command) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if "…" not in line]
        assert len(error) == 1 and error[0].startswith("dedos-label export: error: "), error
        assert not output.exists()
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        return error[0]

    return call


def test_what_cannot_be_is_refused_in_one_sentence(refused: Refused) -> None:
    assert "class 'cart' is not in the data, did you mean 'car'?" in refused(
        "coco", "--classes", "cart"
    )
    assert "class 'sky' is not in the data" in refused("coco", "--things", "sky")
    assert "--min-confidence is 2; it lies in [0, 1]" in refused("coco", "--min-confidence", "2")
    assert "--min-area is 0" in refused("coco", "--min-area", "0")
    assert "--tolerance is about polygons" in refused("coco", "--tolerance", "2")
    assert "or give --shapes polygons" in refused("cvat", "--tolerance", "2")
    assert "--tolerance is nan" in refused("yolo-seg", "--tolerance", "nan")
    said = "--shapes does nothing with voc, only with coco, cvat, labelstudio; leave it out"
    assert said in refused("voc", "--shapes", "masks")
    assert "--things does nothing with yolo-seg" in refused("yolo-seg", "--things", "car")
    polygons = ("--shapes", "polygons", "--things", "car")
    assert "--things does nothing with polygons" in refused("coco", *polygons)
    assert "--url does nothing with cvat" in refused("cvat", "--url", "http://a/")
    assert "--shard-frames does nothing with voc" in refused("voc", "--shard-frames", "9")
    assert "--shard-frames is 0" in refused("webdataset", "--shard-frames", "0")
    assert "a tar holds pictures itself" in refused("webdataset", "--pictures", "link")
    assert "the format takes .png files alone" in refused("cityscapes", "--pictures", "link")
    assert "use letters, digits and _" in refused("coco", "--split", "../up")
    assert "holds no data set of labels" in refused("coco", corpus=Path(__file__).parent)


def test_frames_that_are_damaged_or_gone_leave_nothing(
    refused: Refused, tmp_path: Path, frames: list[Labelled]
) -> None:
    gone = [frames[0], Labelled(tmp_path / "gone.png", blobs(1))]
    assert "gone.png' cannot be read" in refused("coco", corpus=write_corpus(tmp_path / "1", gone))
    other = [replace(frames[0], label_map=blobs(1, (24, 32)))]
    corpus = write_corpus(tmp_path / "2", other)
    assert "is 64x48 now, and was 32x24" in refused("cityscapes", corpus=corpus)
    assert "is 64x48 now, and was 32x24" in refused("cvat", "--pictures", "link", corpus=corpus)
    bare = [replace(frames[0], confidence=None)]
    said = refused("coco", "--min-confidence", "0.5", corpus=write_corpus(tmp_path / "3", bare))
    assert (
        "was not kept, so --min-confidence cannot be had; label the corpus with --confidence"
        in said
    )
    assert "has no frame" in refused("coco", corpus=write_corpus(tmp_path / "4", []))


def test_a_format_has_numbers_for_so_many_classes(
    refused: Refused, tmp_path: Path, frames: list[Labelled]
) -> None:
    names = [f"word {number}" for number in range(255)]
    corpus = write_corpus(tmp_path / "many", frames[:1], names)
    assert Voc.most_classes == 254
    assert "voc has numbers for 254 classes, and there are 255" in refused("voc", corpus=corpus)
    assert "label ids for 221 classes beside its own" in refused("cityscapes", corpus=corpus)
    colon = write_corpus(tmp_path / "colon", frames[:1], ["a:b", "b", "c", "d"])
    assert "has a colon, which separates columns" in refused("voc", corpus=colon)
    assert main(["export", str(corpus), "--to", "webdataset", "--output", str(tmp_path / "w")]) == 0


def test_more_classes_than_8_bits_hold_come_through(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "p", 1)[0]
    frame = Labelled(path, blobs(0))
    corpus = write_corpus(tmp_path / "set", [frame], [f"word {n}" for n in range(300)])
    labels = webdataset_maps(export(corpus, "webdataset", tmp_path / "out"))["Bild_0"]
    assert labels.dtype != np.uint8
    # 255 is a class of this data set.
    np.testing.assert_array_equal(labels, frame.label_map)


def test_what_is_there_stays_unless_it_was_made_here_and_may_go(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = export(data, "voc", tmp_path / "out")
    command = ["export", str(data), "--to", "coco", "--output", str(output)]
    assert main(command) == 2
    assert "exists; use --overwrite to replace it" in capsys.readouterr().err
    assert (output / "labelmap.txt").exists()
    with monkeypatch.context() as patch:
        patch.setattr(
            exporting, "write_record", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
        assert main([*command, "--overwrite"]) == 2
        assert "cannot be written (full); nothing was left behind" in capsys.readouterr().err
    assert (output / "labelmap.txt").exists() and list(tmp_path.iterdir()) == [output]
    assert main([*command, "--overwrite"]) == 0
    assert (output / "annotations").exists() and not (output / "labelmap.txt").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "photo.jpg").write_bytes(b"mine")
    assert main([*command[:-1], str(mine), "--overwrite"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (mine / "photo.jpg").read_bytes() == b"mine"
    assert main([*command[:-1], str(data / "labels"), "--overwrite"]) == 2
    assert "data set" in capsys.readouterr().err and (data / "dataset.json").exists()
    assert main([*command[:-1], str(tmp_path / "no/where")]) == 2
    assert "does not exist; create it first" in capsys.readouterr().err
