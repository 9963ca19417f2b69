"""All data is read before the first step: faults are named, and other data under old names is seen."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from micro import Write
from safetensors import safe_open
from safetensors.torch import load_file, save_file

sys.path += [str(Path(__file__).parents[1] / "runtime")]

from tiny_bundle import write_tiny_bundle  # noqa: E402

from dedos_deploy.cli import run  # noqa: E402
from dedos_deploy.cli.train import main  # noqa: E402
from dedos_deploy.errors import BadInputError  # noqa: E402
from dedos_deploy.presets import ModelConfig  # noqa: E402
from dedos_deploy.progress import QUIET  # noqa: E402
from dedos_deploy.training.distributed import OneProcess  # noqa: E402
from dedos_deploy.training.folders import open_folder  # noqa: E402
from dedos_deploy.training.survey import (  # noqa: E402
    DataCheck,
    checked_by_first,
    content_digest,
    file_digest,
    survey,
)


def train(root: Path, output: Path, *more: str) -> int:
    words = "--preset micro --steps 2 --batch 2 --workers 0 --device cpu --eval-minutes 0"
    return main([*words.split(), "--data", str(root), "--output", str(output), *more])


def label(root: Path, item: int, split: str = "train") -> Path:
    return root / "labels" / split / f"{item:03}.png"


def spoil_value(root: Path) -> str:
    labels = cv2.imread(str(label(root, 37)), cv2.IMREAD_UNCHANGED)
    labels[20, 11] = 77
    cv2.imwrite(str(label(root, 37)), labels)
    return f"labels '{label(root, 37)}' hold the value 77, but classes.txt names 3 classes"


def spoil_size(root: Path) -> str:
    cv2.imwrite(str(label(root, 38)), np.zeros((36, 47), np.uint8))
    return f"labels '{label(root, 38)}' are 47x36, but their image is 48x36"


def spoil_picture(root: Path) -> str:
    picture = root / "images/train/039.png"
    picture.write_bytes(b"no picture")
    return f"picture '{picture}' cannot be read"


def spoil_link(root: Path) -> str:
    picture = root / "images/train/039.png"
    picture.unlink()
    picture.symlink_to(root / "gone.png")
    return f"picture '{picture}' cannot be read: No such file"


@pytest.mark.parametrize("spoil", [spoil_value, spoil_size, spoil_picture, spoil_link])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_fault_anywhere_is_named_before_the_first_step(
    micro: ModelConfig,
    write_folder: Write,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    spoil: Write,
    more: Sequence[str],
) -> None:
    root = write_folder(items=40)
    message = str(spoil(root))
    assert train(root, tmp_path / "run", *more) == 2
    err = capfd.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_gone_is_named_where_only_contents_count(write_folder: Write) -> None:
    root = write_folder()
    folder = open_folder(str(root))
    label(root, 3).unlink()
    with pytest.raises(BadInputError, match="003.png' cannot be read .No such file"):
        content_digest([folder])


def test_a_fault_of_the_validation_split_is_named_too(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_folder()
    write_folder("other", split="val")
    cv2.imwrite(str(label(tmp_path / "other", 5, "val")), np.full((36, 48), 9, np.uint8))
    (root / "images/val").symlink_to(tmp_path / "other/images/val")
    (root / "labels/val").symlink_to(tmp_path / "other/labels/val")
    assert train(root, tmp_path / "run") == 2
    assert "005.png' hold the value 9" in capfd.readouterr().err


def test_labels_of_which_nothing_can_be_learned_are_refused_and_some_are_said(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_folder()
    for item in range(5):
        cv2.imwrite(str(label(root, item)), np.full((36, 48), 255, np.uint8))
    assert train(root, tmp_path / "run", "--dry-run") == 0
    where = root / "labels/train"
    assert f"5 of 6 label files in '{where}' have no pixel to learn from" in capfd.readouterr().err
    cv2.imwrite(str(label(root, 5)), np.full((36, 48), 255, np.uint8))
    assert train(root, tmp_path / "run") == 2
    err = capfd.readouterr().err
    assert f"none of the 6 label files in '{where}' has a pixel to learn from" in err


def test_pixels_of_background_words_teach_where_they_are_negatives(write_folder: Write) -> None:
    root = write_folder(words=("void", "road", "car"))
    for item in range(6):
        cv2.imwrite(str(label(root, item)), np.zeros((36, 48), np.uint8))
    folder = open_folder(str(root))
    with pytest.raises(BadInputError, match="none of the 6 label files"):
        survey([folder])
    survey([replace(folder, background=-2)])


def swap_labels(root: Path) -> None:
    first, second = label(root, 0).read_bytes(), label(root, 1).read_bytes()
    label(root, 0).write_bytes(second)
    label(root, 1).write_bytes(first)


def rename_a_word(root: Path) -> None:
    (root / "classes.txt").write_text("sky\nroad\nvan\n")


def remove_an_item(root: Path) -> None:
    label(root, 5).unlink()
    (root / "images/train/005.png").unlink()


@pytest.mark.parametrize("change", [swap_labels, rename_a_word, remove_an_item])
def test_a_run_goes_on_with_other_data_only_if_told(
    micro: ModelConfig,
    write_folder: Write,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    change: Write,
) -> None:
    root, output = write_folder(), tmp_path / "run"
    assert train(root, output) == 0
    change(root)
    capfd.readouterr()
    assert train(root, output, "--resume", "--steps", "3") == 2
    err = capfd.readouterr().err
    assert "the data has changed since the run to resume saw it" in err and err.count("\n") == 1
    assert train(root, output, "--resume", "--steps", "3", "--allow-changed-data") == 0
    # What was allowed is what the run goes on with from then on.
    assert train(root, output, "--resume", "--steps", "4") == 0


def test_copied_data_is_no_other_data(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, output = write_folder(), tmp_path / "run"
    assert train(root, output) == 0
    before = file_digest([open_folder(str(root))])
    os.utime(label(root, 0), (1, 1))
    assert file_digest([open_folder(str(root))]) != before
    assert train(root, output, "--resume", "--steps", "3") == 0


def test_data_that_was_read_is_not_read_again(
    write_folder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [open_folder(str(write_folder()))]
    mark = DataCheck(folders).mark(QUIET)
    monkeypatch.setattr("dedos_deploy.training.survey.read_pair", None)
    assert DataCheck(folders, mark).mark(QUIET) is mark


def test_a_state_of_an_earlier_version_goes_on(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    root, output = write_folder(), tmp_path / "run"
    assert train(root, output) == 0
    state = output / "state.safetensors"
    with safe_open(state, framework="pt") as file:
        metadata = file.metadata()
    metadata["record"] = '{"step": 2, "elapsed_s": 1.0}'
    save_file(load_file(state), state, metadata=metadata)
    assert train(root, output, "--resume", "--steps", "3") == 0


def test_masks_of_a_run_are_labels_to_train_on(
    micro: ModelConfig,
    write_folder: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))
    root = write_folder()
    (root / "classes.txt").unlink()
    for path in (root / "labels/train").iterdir():
        path.unlink()
    given = ["--bundle", str(write_tiny_bundle(tmp_path / "tiny")), "--threads", "1"]
    given += ["--source", str(root / "images/train"), "--classes", "red,green|lime"]
    assert run.main([*given, "--output", f"masks:{root / 'labels/train'}"]) == 0
    capfd.readouterr()
    assert train(root, tmp_path / "run", "--dry-run") == 0
    assert "micro at 32x32, 2 words, 6 training images" in capfd.readouterr().err
    assert open_folder(str(root)).annotated == ("red", "green")


def test_changed_data_is_allowed_for_a_run_that_goes_on_alone(
    micro: ModelConfig, write_folder: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(write_folder(), tmp_path / "run", "--allow-changed-data") == 2
    assert "does nothing without --resume" in capfd.readouterr().err


def test_all_processes_end_where_the_first_one_found_a_fault(write_folder: Write) -> None:
    class Second(OneProcess):
        rank, count = 1, 2

        def sum(self, values: Sequence[float]) -> list[float]:
            return [1.0 + values[0]]

    folders = [open_folder(str(write_folder()))]
    with pytest.raises(BadInputError, match="the first process found a fault"):
        checked_by_first(DataCheck(folders), Second(torch.device("cpu")), QUIET)
