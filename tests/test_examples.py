"""The programs in examples/ do what their first lines say, in at most 40 lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def ran(name: str, *arguments: object, folder: Path) -> list[str]:
    """Return the lines that an example prints, run in `folder`."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40


def test_a_robot_walks_through_a_bag_with_other_words_half_way(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("mcap")
    from dedos_deploy.cli.run import main

    hall, bag = "scene:hall?frames=8&size=96x128", str(tmp_path / "hall.mcap")
    assert main(["--source", hall, "--classes", "floor", "--output", bag, "--quiet"]) == 0
    (tmp_path / "walked").mkdir()  # as after a walk before
    lines = ran("robot_loop.py", f"{bag}?topic=/image", "walked", folder=tmp_path)
    first, then = "('floor', 'wall')", "('floor', 'wall', 'door', 'chair')"
    assert [line.partition(", among ")[2] for line in lines] == [first] * 4 + [then] * 4
    assert {line.split()[1] for line in lines} <= {"go,", "stop,"}
    pictures = [cv2.imread(str(path)) for path in sorted((tmp_path / "walked").glob("*.jpg"))]
    assert [picture.shape for picture in pictures] == [(96, 128, 3)] * 8
    # What is free is drawn in green: the floor before the robot's feet, never the ceiling.
    green = pictures[-1][..., 1].astype(int) - pictures[-1][..., (0, 2)].max(axis=-1)
    assert green[-10:, 50:78].min() > 20 and green[:20].max() < 40


def test_a_folder_is_labelled(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    from dedos_deploy.runtime import open_source

    (tmp_path / "photos").mkdir()
    with open_source("scene:street?frames=3&size=96x128") as source:
        for frame in source:
            cv2.imwrite(str(tmp_path / "photos" / f"{frame.name}.jpg"), frame.frame_bgr)
    lines = ran("label_folder.py", "photos", "road,car|truck,sky", "labels", folder=tmp_path)
    assert lines[0].startswith("3 pictures, ") and len(lines) == 4
    assert len(list((tmp_path / "labels").glob("*.png"))) == 3
    classes = json.loads((tmp_path / "labels" / "classes.json").read_text())
    assert classes["classes"] == ["road", "car", "sky"]
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 3
