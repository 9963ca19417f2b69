"""Label folders: what is missing is named, and following the message helps."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from dedos_deploy.errors import BadInputError
from dedos_deploy.label_files import read_item
from dedos_deploy.training.calibration import Run
from dedos_deploy.training.folders import open_folder, read_pair, union_words
from dedos_deploy.training.settings import settings_for
from dedos_deploy.training.setup import open_folders
from dedos_deploy.training.sources import DataEntry, parse_entry
from dedos_deploy.training.targets import IGNORE, OTHER
from dedos_deploy.vocabulary import canonical_word

Write = Callable[..., Path]


def test_a_folder_is_read_with_its_words(write_folder: Write) -> None:
    folder = open_folder(str(write_folder()))
    image, raw = read_pair(folder, 0)
    assert folder.annotated == ("sky", "road", "car")
    assert (image.shape, raw.shape, len(folder.items)) == ((36, 48, 3), (36, 48), 6)
    assert set(np.unique(raw)) == {0, 1, 2, 255}


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("classes.txt", r"classes\.txt' cannot be read .*one class per line"),
        ("images", r"images/train' does not exist; splits there: none"),
        ("labels", r"labels/train' does not exist"),
        ("labels/train/002.png", r"image .*002\.png' has no labels '.*labels/train/002\.png'"),
    ],
)
def test_a_missing_part_is_named(write_folder: Write, missing: str, message: str) -> None:
    root = write_folder()
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(BadInputError, match=message):
        open_folder(str(root))
    (root / "elsewhere").rename(root / missing)
    assert open_folder(str(root)).items


def test_an_unknown_split_lists_the_known_ones(write_folder: Write) -> None:
    root = write_folder()
    with pytest.raises(BadInputError, match="images/test' does not exist; splits there: train"):
        open_folder(str(root), split="test")


def test_a_name_is_found_through_the_environment(
    write_folder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder()
    with pytest.raises(BadInputError, match="no data set folder 'street'.*set DEDOS_DATA"):
        open_folder("street")
    monkeypatch.setenv("DEDOS_DATA", str(root.parent))
    assert open_folder("street").name == "street"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sky\n\nroad\n", "line 2 is empty"),
        ("sky\nroad\nSky\n", "'sky' on lines 1 and 3"),
        ("background\n", "no class but background words"),
        ("1: sky\n2: road\n3: car\n", "looks like a numbered list, its first line is '1: sky'"),
        ("\ufeff0 sky\r\n1 road\r\n2 car\r\n", "looks like a numbered list"),
        ("1 person\n2 bicycle\n13 stop sign\n", "looks like a numbered list"),
        ("0. sky\n1. road\n", "looks like a numbered list"),
        (" 0\tsky\n 1\t road \n", "looks like a numbered list"),
        ("0)sky\n1)road\n", "looks like a numbered list"),
        ("sky 1\nroad 2\n", "looks like a numbered list"),
        ("id,name\n0,sky\n1,road\n", "looks like a numbered list"),
        ("name,id\nsky,0\nroad,1\n", "looks like a table of words and numbers"),
        ("sky: 0\nroad: 1\n", "looks like a table of words and numbers"),
        ("- sky\n- road\n", "looks like a list of YAML"),
        ("path: street\nnames:\n  0: sky\n", "looks like JSON, YAML or XML"),
        ('["sky", "road"]\n', "looks like JSON, YAML or XML"),
        ('{\n  "0": "sky"\n}\n', "looks like JSON, YAML or XML.*write the words in that order"),
        ("# ours\nsky\nroad\n", "line 1 is '# ours', which is a comment or no text"),
        ("s\0k\0y\0\n\0", "line 1 is .*, which is a comment or no text"),
    ],
)
def test_a_faulty_class_list_is_named(write_folder: Write, text: str, message: str) -> None:
    root = write_folder()
    (root / "classes.txt").write_text(text)
    with pytest.raises(BadInputError, match=message):
        open_folder(str(root))


@pytest.mark.parametrize(
    "words",
    [
        [f"thing {number}" for number in range(300)],
        ["sky, blue", 'road "main"', "2 wheeler", "route 66"],
        ["2 wheeler", "4 wheeler", "18 wheeler"],
        ["7 eleven", "9 pins"],
        ["9" * 5000 + " pins"],
    ],
)
def test_words_with_numbers_stay_words(write_folder: Write, words: list[str]) -> None:
    root = write_folder()
    (root / "classes.txt").write_text("\n".join(words))
    assert open_folder(str(root)).annotated == tuple(words)


def turned_item(folder: Path, orientation: int, suffix: str, *, square: bool) -> tuple[Path, Path]:
    """A picture whose left side is red, stored as `orientation` says, with labels as stored."""
    shown = np.zeros((24, 24 if square else 40, 3), np.uint8)
    shown[:, : shown.shape[1] // 4] = (255, 0, 0)
    shown[:5, -5:] = (0, 255, 0)
    # What turns the stored picture into the shown one is undone: by its inverse of all eight.
    undo = {3: 3, 6: 8, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[0x0112] = undo
    stored = np.asarray(_transposed(shown, exif))
    exif[0x0112] = orientation
    picture, labels = folder / f"picture.{suffix}", folder / "picture.png"
    given = {"quality": 95} if suffix == "jpg" else {}
    Image.fromarray(stored).save(picture, exif=exif, **given)
    wanted = (stored[..., 0] > 128) + 2 * (stored[..., 1] > 128)
    Image.fromarray(wanted.astype(np.uint8)).save(labels)
    return picture, labels


def _transposed(picture: np.ndarray, exif: Image.Exif) -> Image.Image:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(buffer))
    assert turned is not None
    return turned


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_labels_are_turned_as_their_picture_is(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    picture, labels = turned_item(tmp_path, orientation, suffix, square=False)
    image, classes = read_item((picture, labels), 3)
    assert image.shape[:2] == classes.shape == (24, 40)
    assert (classes[:, :9] == 1).all() and (classes[:4, -4:] == 2).all()
    assert (image[:, :8, 2] > 128).all() and (image[:4, -4:, 1] > 128).all()
    # Labels that were drawn on the picture as it is shown stay as they are.
    cv2.imwrite(str(labels), np.tile(np.arange(40, dtype=np.uint8) % 3, (24, 1)))
    assert (read_item((picture, labels), 3)[1][0] == np.arange(40) % 3).all()


@pytest.mark.parametrize(("orientation", "square"), [(2, False), (3, False), (4, False), (6, True)])
def test_an_orientation_that_leaves_labels_open_is_named(
    tmp_path: Path, orientation: int, square: bool
) -> None:
    picture, labels = turned_item(tmp_path, orientation, "jpg", square=square)
    with pytest.raises(BadInputError, match=f"picture .* has EXIF orientation {orientation}, and"):
        read_item((picture, labels), 3)
    with Image.open(picture) as image:
        image.load()
        image.save(picture, exif=Image.Exif())
    assert read_item((picture, labels), 3)[1].max() == 2


def test_a_label_value_without_class_is_named(write_folder: Write) -> None:
    root = write_folder()
    path = root / "labels/train/001.png"
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    label[3, 3] = 7
    cv2.imwrite(str(path), label)
    with pytest.raises(BadInputError, match=r"001\.png' hold the value 7.*names 3 classes"):
        read_pair(open_folder(str(root)), 1)


def test_a_label_of_another_size_is_named(write_folder: Write) -> None:
    root = write_folder()
    cv2.imwrite(str(root / "labels/train/001.png"), np.zeros((10, 20), np.uint8))
    with pytest.raises(BadInputError, match="are 20x10, but their image is 48x36"):
        read_pair(open_folder(str(root)), 1)


def test_a_broken_image_is_named(write_folder: Write) -> None:
    root = write_folder()
    (root / "images/train/001.png").write_bytes(b"not a picture")
    with pytest.raises(BadInputError, match=r"images/train/001\.png' cannot be read"):
        read_pair(open_folder(str(root)), 1)


def test_background_words_teach_nothing_unless_asked(write_folder: Write) -> None:
    root = str(write_folder(words=("background", "road", "car")))
    slots = {"road": 0, "car": 1}
    assert open_folder(root).lookup(slots)[[0, 1, 2, 255]].tolist() == [IGNORE, 0, 1, IGNORE]
    assert open_folder(root, background=OTHER).lookup(slots)[0] == OTHER


def test_words_of_several_folders_are_unified_by_text(write_folder: Write) -> None:
    one = open_folder(str(write_folder("one", words=("Sky", "traffic_light", "car"))))
    two = open_folder(str(write_folder("two", words=("car", "traffic light", "tree"))))
    assert union_words([one, two]) == ("sky", "traffic light", "car", "tree")


@pytest.mark.parametrize("name", ["Traffic_Light", "  traffic   LIGHT", "TRAFFIC\u00a0LIGHT"])
def test_words_have_the_form_that_the_text_tower_sees(write_folder: Write, name: str) -> None:
    folder = open_folder(str(write_folder(words=("sky", "road", name))))
    assert folder.annotated[2] == canonical_word(name.replace("_", " ")) == "traffic light"


def test_label_images_with_a_palette_are_read_by_their_indices(write_folder: Write) -> None:
    root = write_folder()
    path = root / "labels/train/001.png"
    grey = read_pair(open_folder(str(root)), 1)[1]
    palette = np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tolist()
    with Image.open(path) as file:
        coloured = file.copy()
    coloured.putpalette(palette)
    coloured.save(path)
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ndim == 3
    assert np.array_equal(read_pair(open_folder(str(root)), 1)[1], grey)
    assert {*np.unique(grey)} == {0, 1, 2, 255}


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_label_images_of_few_bits_are_read_by_their_values(
    write_folder: Write, bits: int
) -> None:
    path = write_folder() / "labels/train/001.png"
    values = np.random.default_rng(0).integers(0, min(3, 2**bits), (36, 48)).astype(np.uint8)
    cv2.imwrite(str(path), values)
    rows = np.packbits(
        np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(36, -1), axis=-1
    )
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 48, 36, bits, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts
        )
    )
    folder = open_folder(str(path.parents[2]))
    assert np.array_equal(read_pair(folder, 1)[1], values)


def test_sixteen_bits_hold_more_classes_than_255(write_folder: Write) -> None:
    words = tuple(f"thing {number}" for number in range(300))
    root = write_folder(words=words, items=1)
    labels = np.full((36, 48), 299, np.uint16)
    labels[0], labels[1] = 255, 65535
    cv2.imwrite(str(root / "labels/train/000.png"), labels)
    folder = open_folder(str(root))
    slots = {word: slot for slot, word in enumerate(words)}
    seen = folder.lookup(slots)[read_pair(folder, 0)[1]]
    assert (seen[0, 0], seen[1, 0], seen[2, 0]) == (255, IGNORE, 299)


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("camvid", DataEntry("camvid")),
        ("/data/a=2", DataEntry("/data/a", None, 2.0)),
        ("coco-stuff:/data/coco=0.5", DataEntry("/data/coco", "coco-stuff", 0.5)),
        ("davis:davis16", DataEntry("davis16", "davis")),
        ("folder:odd:name", DataEntry("odd:name", "folder")),
        ("C:/data", DataEntry("C:/data")),
    ],
)
def test_an_entry_names_kind_folder_and_share(text: str, entry: DataEntry) -> None:
    assert parse_entry(text) == entry


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=two", "data share 'two' in 'a=two' is not a positive number"),
        ("a=0", "data share '0'"),
        ("coco_stuff:/data", "unknown kind of data set 'coco_stuff'.*did you mean 'coco-stuff'"),
    ],
)
def test_a_faulty_entry_is_named(text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        parse_entry(text)


def test_a_run_and_its_calibration_open_the_same_folders(write_folder: Write) -> None:
    root = write_folder()
    (root.parent / "a=b").mkdir()
    odd = root.rename(root.parent / "a=b" / "street")
    entry = f"folder:{odd}=3"
    settings = settings_for("nano", (entry,))
    extra = {"settings": {"data": [entry]}}
    run = Run(root, None, extra, None, None)  # type: ignore[arg-type]
    assert open_folders(settings, "train") == run.folders("train")
    assert run.folders("train")[0].share == 3.0
