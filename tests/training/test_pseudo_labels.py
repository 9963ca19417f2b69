"""Pseudo labels: what a sure, an unsure and a merged answer become, and the folders written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy.calib import sample_frames
from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.runtime import open_source
from dedos_deploy.training.folders import open_folder
from dedos_deploy.training.pretraining import pseudo_labels as pseudo
from dedos_deploy.training.pretraining import teachers
from dedos_deploy.training.pretraining.images import read_pictures

_RULES = pseudo.LabelRules(confidence=0.6, side_px=64)


class FakeTeacher:
    """Sure of `person` (split over two channels) on the left, of `road` below, else unsure."""

    words = ("road", "person", "person", None)

    def probabilities(self, image_bgr: NDArray[np.uint8]) -> teachers.Probabilities:
        height, width = image_bgr.shape[:2]
        out = np.full((height, width, 4), 0.25, np.float32)
        out[height // 2 :] = (0.7, 0.1, 0.1, 0.1)
        out[:, : width // 2] = (0.1, 0.4, 0.4, 0.1)
        out[0, -1] = (0.05, 0.05, 0.0, 0.9)
        return out


def _frames(count: int = 2) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    rng = np.random.default_rng(0)
    for index in range(count):
        yield f"f{index}", rng.integers(0, 255, (32, 48, 3)).astype(np.uint8)


def test_channels_of_one_word_are_added_and_unsure_pixels_stay_unknown() -> None:
    labels = pseudo.label_image([FakeTeacher()], next(_frames())[1], _RULES)
    assert _RULES.kept([FakeTeacher()]) == ("road", "person")
    assert (labels[:, :24] == 1).all()
    assert (labels[16:, 24:] == 0).all()
    assert (labels[:16, 24:] == pseudo.UNKNOWN).all()


def test_only_the_wanted_words_become_labels() -> None:
    rules = pseudo.LabelRules(confidence=0.6, words=("person",))
    labels = pseudo.label_image([FakeTeacher()], next(_frames())[1], rules)
    assert rules.kept([FakeTeacher()]) == ("person",)
    assert set(np.unique(labels)) == {0, pseudo.UNKNOWN}
    assert (labels[:, :24] == 0).all()


def test_the_folder_is_one_that_training_reads(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    assert pseudo.write_pseudo_labels([FakeTeacher()], _frames(3), folder, _RULES) == 3
    read = open_folder(str(folder))
    assert read.annotated == ("road", "person") and len(read.items) == 3
    labels = cv2.imread(str(read.items[0][1]), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (32, 48) and set(np.unique(labels)) == {0, 1, 255}
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]


def test_pictures_with_hardly_a_label_are_left_out(tmp_path: Path) -> None:
    rules = pseudo.LabelRules(confidence=0.6, least_known=0.99)
    assert pseudo.write_pseudo_labels([FakeTeacher()], _frames(), tmp_path / "made", rules) == 0


def test_large_frames_are_made_smaller(tmp_path: Path) -> None:
    rules = pseudo.LabelRules(confidence=0.6, side_px=24)
    pseudo.write_pseudo_labels([FakeTeacher()], _frames(1), tmp_path, rules)
    image = cv2.imread(str(tmp_path / "images" / "train" / "f0.jpg"))
    assert image.shape == (16, 24, 3)


def test_background_of_a_labelled_folder_is_completed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for part in ("images", "labels"):
        (source / part / "train").mkdir(parents=True)
    (source / "classes.txt").write_text("background\nroad\nbump\n")
    given = np.zeros((32, 48), np.uint8)
    given[20:, 30:] = 2
    given[0, 0] = 255
    cv2.imwrite(str(source / "images" / "train" / "a.jpg"), next(_frames())[1])
    cv2.imwrite(str(source / "labels" / "train" / "a.png"), given)
    made = tmp_path / "made"
    assert pseudo.complete_folder([FakeTeacher()], source, made, _RULES, split="train") == 1
    read = open_folder(str(made))
    assert read.annotated == ("road", "bump", "person")
    labels = cv2.imread(str(made / "labels" / "train" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert (labels[20:, 30:] == 1).all()  # what was given stays
    assert (labels[1:20, :24] == 2).all()  # the teacher's person on background
    assert (labels[16:20, 24:] == 255).all()  # its road is refused: the source knows its roads
    assert labels[0, 0] == 255


def test_frames_come_from_videos_and_folders(tmp_path: Path) -> None:
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
    for _, frame in _frames(7):
        writer.write(frame)
    writer.release()
    assert [name for name, _ in pseudo.read_frames(video, step=3)] == [
        "clip_00000",
        "clip_00003",
        "clip_00006",
    ]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, frame in _frames(4):
        cv2.imwrite(str(pictures / f"{name}.png"), frame)
    assert [name for name, _ in pseudo.read_frames(pictures, step=2)] == [
        "pictures_f0",
        "pictures_f2",
    ]


def test_pictures_are_found_and_ordered_as_the_runtime_does(tmp_path: Path) -> None:
    for name in ("f10.tif", "f2.bmp", "f1.webp", "notes.txt"):
        content = cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes()
        (tmp_path / name).write_bytes(content)
    found = [name for name, _ in pseudo.read_frames(tmp_path, step=1)]
    assert found == [f"{tmp_path.name}_{stem}" for stem in ("f1", "f2", "f10")]
    with open_source(str(tmp_path)) as source:
        assert [frame.name for frame in source] == ["f1", "f2", "f10"]
    assert len(sample_frames(tmp_path, count=9)) == 3
    assert len(read_pictures([str(tmp_path)], (4, 5))) == 3


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(SourceError, match="broken.mp4' cannot be opened"):
        list(pseudo.read_frames(broken, step=1))
    with pytest.raises(SourceError, match="holds no image; image files end in .bmp, .jpeg"):
        list(pseudo.read_frames(tmp_path, step=1))
    with pytest.raises(BadInputError, match="at least 1, received 0"):
        pseudo.read_frames(tmp_path, step=0)
    with pytest.raises(BadInputError, match="no segmentation net"):
        teachers.OnnxTeacher(broken, teachers.VOC_WORDS)
    with pytest.raises(BadInputError, match="there is no picture to label"):
        pseudo.write_pseudo_labels([FakeTeacher()], [], tmp_path / "made", _RULES)


def test_a_folder_of_other_classes_is_not_mixed_up(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("sky\n")
    with pytest.raises(BadInputError, match="lists other classes"):
        pseudo.write_pseudo_labels([FakeTeacher()], _frames(), tmp_path, _RULES)


def test_the_word_tables_fit_the_nets() -> None:
    assert len(teachers.CITYSCAPES_WORDS) == 19
    assert len(teachers.VOC_WORDS) == 21


class SecondTeacher:
    """Sure of `person` everywhere, and of `bird` in the upper right corner."""

    words = ("bird", "person")

    def probabilities(self, image_bgr: NDArray[np.uint8]) -> teachers.Probabilities:
        height, width = image_bgr.shape[:2]
        out = np.zeros((height, width, 2), np.float32)
        out[..., 1] = 1.0
        out[: height // 2, width // 2 :] = (0.9, 0.1)
        return out


def test_the_first_sure_teacher_is_heard() -> None:
    both = [FakeTeacher(), SecondTeacher()]
    labels = pseudo.label_image(both, next(_frames())[1], _RULES)
    assert _RULES.kept(both) == ("road", "person", "bird")
    assert (labels[16:, 24:] == 0).all()  # the second one's person is not asked for
    assert (labels[:16, 24:] == 2).all()  # where the first one is unsure, the second speaks
    turned = pseudo.label_image(both[::-1], next(_frames())[1], _RULES)
    assert (turned[16:] == 1).all()


class Riders:
    """Sure of `cyclist` in the upper half, of `car` below."""

    words = ("cyclist", "car")

    def probabilities(self, image_bgr: NDArray[np.uint8]) -> teachers.Probabilities:
        out = np.zeros((*image_bgr.shape[:2], 2), np.float32)
        half = image_bgr.shape[0] // 2
        out[:half, :, 0] = out[half:, :, 1] = 1.0
        return out


def test_a_later_teacher_says_what_kind_of_thing_it_is() -> None:
    both = [FakeTeacher(), Riders()]
    labels = pseudo.label_image(both, next(_frames())[1], _RULES)
    assert _RULES.kept(both) == ("road", "person", "cyclist", "car")
    assert (labels[:16, :24] == 2).all()  # a person that is a cyclist
    assert (labels[16:, :24] == 1).all()  # a person is no kind of car
    assert (labels[16:, 24:] == 0).all() and (labels[1:16, 24:] == 2).all()
    # What is said first by the finer word stays.
    assert (pseudo.label_image(both[::-1], next(_frames())[1], _RULES)[:16] == 0).all()
    unwanted = pseudo.LabelRules(confidence=0.6, without=("cyclist",))
    labels = pseudo.label_image(both, next(_frames())[1], unwanted)
    assert (labels[:16, :24] == 1).all()


def test_unwanted_words_leave_the_pixel_to_the_next_teacher() -> None:
    rules = pseudo.LabelRules(confidence=0.6, without=("road",))
    both = [FakeTeacher(), SecondTeacher()]
    labels = pseudo.label_image(both, next(_frames())[1], rules)
    assert rules.kept(both) == ("person", "bird") and (labels[16:, 24:] == 0).all()
    with pytest.raises(BadInputError, match="no word is left .* teachers know road, person"):
        pseudo.LabelRules(words=("sofa",)).kept([FakeTeacher()])
    with pytest.raises(BadInputError, match=r"confidence is 0.0, but must lie in \(0, 1\]"):
        pseudo.LabelRules(confidence=0.0)


def test_classes_may_be_joined_under_one_word(tmp_path: Path) -> None:
    source = tmp_path / "clothes"
    for part in ("images", "labels"):
        (source / part / "train").mkdir(parents=True)
    (source / "classes.txt").write_text("background\nhat\nshoes\n")
    given = np.zeros((32, 48), np.uint8)
    given[:8, 24:], given[20:28, 24:] = 1, 2
    cv2.imwrite(str(source / "images" / "train" / "a.jpg"), next(_frames())[1])
    cv2.imwrite(str(source / "labels" / "train" / "a.png"), given)
    made = tmp_path / "made"
    pseudo.complete_folder([FakeTeacher()], source, made, _RULES, split="train", joined="person")
    assert open_folder(str(made)).annotated == ("person", "road")
    labels = cv2.imread(str(made / "labels" / "train" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert (labels[:8, 24:] == 0).all() and (labels[20:28, 24:] == 0).all()
    assert (labels[28:, 24:] == 1).all()
    assert (labels[:, :24] == 0).all()  # others in the background are persons, too


def test_credits_are_kept_once_and_reach_the_reader(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    pseudo.write_pseudo_labels([FakeTeacher()], _frames(), folder, _RULES)
    pseudo.write_credits(folder, ["A film (CC0)", "Teacher: a net"])
    pseudo.write_credits(folder, ["Teacher: a net", "Another film (MIT)"])
    expected = ("A film (CC0)", "Teacher: a net", "Another film (MIT)")
    assert open_folder(str(folder)).credits == expected


def test_overlays_show_picture_and_labels(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    pseudo.write_pseudo_labels([FakeTeacher()], _frames(3), folder, _RULES)
    sheet = cv2.imread(str(pseudo.write_overlays(folder, 2)))
    assert sheet.shape == (2 * pseudo.OVERLAY_HEIGHT, 720, 3)
    left, right = sheet[:240, :360].astype(int), sheet[:240, 360:].astype(int)
    assert abs(left - right).mean() > 10
