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


def test_a_robot_goes_where_the_floor_is_free(tmp_path: Path) -> None:
    lines = ran("robot_loop.py", "scene:hall?frames=12&size=96x128", folder=tmp_path)
    assert len(lines) == 12
    assert all(line.startswith(f"frame {number}: ") for number, line in enumerate(lines))
    assert {line.split()[2] for line in lines} <= {"go,", "stop,"}


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
