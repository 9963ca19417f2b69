"""Frames that are collected: a label folder that training reads, never half written, nothing lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dedos_deploy.cli.run import main
from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.evaluation.folder import LabelledFolder
from dedos_deploy.runtime.serving import collecting
from dedos_deploy.runtime.serving.collecting import LEAST_FREE, CollectFolder
from dedos_deploy.runtime.serving.marks import MOST_POINTS, Box, Stroke, example_of, mask_of_marks
from dedos_deploy.training.folders import open_folder, read_pair

FRAME = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def _mask(columns: slice) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    mask = np.zeros(FRAME.shape[:2], np.bool_)
    mask[:, columns] = True
    return mask


def test_what_is_collected_is_what_training_reads(tmp_path: Path) -> None:
    root = tmp_path / "yard"
    with CollectFolder(root) as folder:
        left, right = _mask(slice(0, 20)), _mask(slice(15, 30))
        first = folder.add("back yard", FRAME, [("My_Pallet", left), ("sky, blue", right)])
        second = folder.add("gate", FRAME[:, ::-1], [("sky, blue", left)])
    assert (first.frames, second.frames) == (1, 2)
    found = open_folder(str(root))
    assert found.words == ("my pallet", "sky, blue")
    assert {image.name for image, _ in found.items} == {
        Path(one.picture).name for one in (first, second)
    }
    image, labels = read_pair(found, 0)
    assert (image == FRAME).all()
    wanted = np.full(FRAME.shape[:2], 255, np.uint16)
    wanted[:, :15], wanted[:, 15:30] = 0, 1
    assert (labels == wanted).all()
    assert len(LabelledFolder.open(root, "train")) == 2


def test_a_folder_that_is_there_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("Road\r\nTraffic_Light\r\n\r\n", newline="")
    with CollectFolder(tmp_path) as folder:
        folder.add("gate", FRAME, [("traffic light", _mask(slice(0, 5)))])
        before = (tmp_path / "classes.txt").read_bytes()
        folder.add("gate", FRAME, [("pallet", _mask(slice(0, 5)))])
    # A word that is there costs no change, a new one goes to the end.
    assert before == b"Road\r\nTraffic_Light\r\n\r\n"
    found = open_folder(str(tmp_path))
    assert found.words == ("road", "traffic light", "pallet")
    assert [int(read_pair(found, item)[1][0, 0]) for item in range(2)] == [1, 2]


def test_words_that_no_label_folder_can_have(tmp_path: Path) -> None:
    with CollectFolder(tmp_path) as folder:
        for word, said in (("#1", "comment or no text"), ("a\x07b", "comment or no text")):
            with pytest.raises(BadInputError, match=said):
                folder.add("gate", FRAME, [(word, _mask(slice(0, 5)))])
        with pytest.raises(BadInputError, match="nothing is drawn"):
            folder.add("gate", FRAME, [("pallet", _mask(slice(0, 0)))])
        rows = [np.zeros(FRAME.shape[:2], np.bool_) for _ in range(256)]
        for number, row in enumerate(rows):
            row.flat[number] = True
        words = [(f"w{number} x", row) for number, row in enumerate(rows)]
        with pytest.raises(BadInputError, match="256 words, at most 255 fit"):
            folder.add("gate", FRAME, words)
        folder.add("gate", FRAME, words[:255])
    assert len(list((tmp_path / "images/train").iterdir())) == 1
    assert len(open_folder(str(tmp_path)).words) == 255


def test_a_folder_whose_words_cannot_be_read_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("road\n\nsky\n")
    with pytest.raises(BadInputError, match="line 2 is empty"):
        CollectFolder(tmp_path)
    assert (tmp_path / "classes.txt").read_text() == "road\n\nsky\n"
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="check the folder"):
        CollectFolder(tmp_path / "file")


def test_a_picture_that_cannot_be_written_leaves_no_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CollectFolder(tmp_path) as folder:
        shutil.rmtree(tmp_path / "images/train")
        with pytest.raises(SinkError, match="cannot be written"):
            folder.add("gate", FRAME, [("pallet", _mask(slice(0, 5)))])
        assert not list((tmp_path / "labels/train").iterdir())
        left = SimpleNamespace(free=LEAST_FREE - 1)
        monkeypatch.setattr(collecting.shutil, "disk_usage", lambda path: left)
        with pytest.raises(SinkError, match="255 MiB left, and 256 are kept free; make room"):
            folder.add("gate", FRAME, [("pallet", _mask(slice(0, 5)))])


def test_a_folder_that_was_removed_is_said(tmp_path: Path) -> None:
    with CollectFolder(tmp_path / "disk") as folder:
        shutil.rmtree(tmp_path / "disk")
        with pytest.raises(SinkError, match="cannot be written .*check the folder"):
            folder.add("gate", FRAME, [("pallet", _mask(slice(0, 5)))])


def test_two_programs_do_not_collect_into_one_folder(tmp_path: Path) -> None:
    with CollectFolder(tmp_path), pytest.raises(BadInputError, match="another program collects"):
        CollectFolder(tmp_path)
    CollectFolder(tmp_path).close()


def test_what_is_read_is_not_collected_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "images/train/a.png").write_bytes(b"")
    for source in (tmp_path / "images/train", tmp_path / "images/train" / "*.png"):
        assert main(["--source", str(source), "--serve", "0", "--collect", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"dedos-run: error: collect {str(tmp_path)!r} ")
        assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_drawings_become_pixels() -> None:
    size = 20, 30
    box = mask_of_marks([Box((-5, 2, 4, 99))], size)
    assert box.sum() == 4 * 18 and box[2:, :4].all()
    dot = mask_of_marks([Stroke(((10, 10),), 3)], size)
    rows, columns = np.ogrid[:20, :30]
    away = np.hypot(rows - 10, columns - 10)
    assert dot[away <= 3].all() and not dot[away >= 4].any()
    line = mask_of_marks([Stroke(((5, 10), (25, 10)), 2)], size)
    assert line[8:13, 5:26].all() and not line[:7].any() and not line[14:].any()
    erased = mask_of_marks([Box((0, 0, 30, 20)), Stroke(((10, 10),), 3, erases=True)], size)
    assert (erased == ~dot).all()
    again = mask_of_marks([Stroke(((10, 10),), 3, erases=True), Box((0, 0, 30, 20))], size)
    assert again.all()
    with pytest.raises(BadInputError, match="5001 points, at most 5000 are possible"):
        mask_of_marks([Stroke(((1, 1),) * (MOST_POINTS + 1), 2)], size)


def test_what_a_word_is_learned_from() -> None:
    size = 20, 30
    assert example_of([Box((-5, 2, 40, 10))], size) == (0, 2, 30, 10)
    strokes = example_of([Stroke(((-1, 5), (9, 99)), 2), Stroke(((3, 4),), 9)], size)
    assert [points.tolist() for points in strokes] == [[[0, 5], [9, 19]], [[3, 4]]]  # type: ignore[union-attr]
    for marks in (
        [Box((1, 2, 9, 10)), Stroke(((1, 1),), 2)],
        [Stroke(((9, 9),), 4), Stroke(((9, 9),), 2, erases=True)],
        [Box((40, 2, 50, 10))],
    ):
        assert np.array_equal(example_of(marks, size), mask_of_marks(marks, size))
