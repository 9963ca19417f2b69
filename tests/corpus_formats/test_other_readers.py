"""What other people's readers make of exports: the very pixels, or of polygons the loss that was printed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ci_environments import environment
from corpora import NAMES, Labelled, export
from numpy.typing import NDArray
from wheels import ROOT

from dedos_deploy.corpus.formats.whole_folder import RECORD

EXACT = {
    "datumaro coco": ("coco", "--things", "car"),
    "datumaro coco_panoptic": ("coco-panoptic", "--things", "car,my pallet"),
    "datumaro cvat": ("cvat", "--things", "car"),
    "datumaro voc": ("voc",),
    "datumaro cityscapes": ("cityscapes",),
    "pillow": ("cityscapes",),
    "label_studio_sdk": ("labelstudio", "--things", "car"),
    "webdataset": ("webdataset", "--shard-frames", "2"),
}
"""Readers of masks, and the export for each."""

OUTLINED = {
    "pycocotools": ("coco", "--shapes", "polygons"),
    "datumaro cvat polygons": ("cvat", "--shapes", "polygons"),
    "label_studio_sdk polygons": ("labelstudio", "--shapes", "polygons"),
    "supervision": ("yolo-seg",),
}

# What a reader numbers otherwise: VOC has a background first, and void as its last class; Cityscapes its
# own ids for road, traffic light and car, and ours after those.
NUMBERS = {
    "datumaro voc": {1: 0, 2: 1, 3: 2, 4: 3, 5: 65535},
    "datumaro cityscapes": {7: 0, 19: 1, 26: 2, 34: 3, 65535: 65535},
    "pillow": {0: 0, 6: 1, 13: 2, 19: 3, 65535: 65535},
}
CALLED = {
    "datumaro voc": ["background", *NAMES, "ignored"],
    "pillow": [],
}


@pytest.fixture(scope="session")
def formats_python() -> Iterator[Path]:
    """Python of the environment with the readers."""
    with environment("formats", "wheels") as folder:
        yield folder / "bin/python"


Read = dict[str, dict[str, NDArray[Any]]]


@pytest.fixture(scope="session")
def exported(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder for each reader."""
    root = tmp_path_factory.mktemp("exported")
    found = {}
    for number, (reader, (to, *more)) in enumerate({**EXACT, **OUTLINED}.items()):
        found[reader] = export(data, to, root / str(number), *more)
    # Where there are train ids datumaro takes them, and passes over the first.
    for path in found["datumaro cityscapes"].rglob("*labelTrainIds.png"):
        path.unlink()
    return found


@pytest.fixture(scope="session")
def read(formats_python: Path, exported: dict[str, Path]) -> Read:
    """What each reader found, all in one process: libraries take longer to load than files."""
    root = exported["pillow"].parent
    jobs = [[name, str(path), f"{root}/{name}.npz"] for name, path in exported.items()]
    (root / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("read_by_others.py")
    command = [formats_python, script, root / "jobs.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: dict(np.load(file)) for name, _, file in jobs}


def named(reader: str, number: int) -> str:
    if reader in ("datumaro cityscapes", "pillow"):
        return f"dedos_{number:06d}_000019"
    return f"Bild_{number}"


@pytest.mark.parametrize("reader", EXACT)
def test_labels_come_back_pixel_for_pixel(reader: str, read: Read, frames: list[Labelled]) -> None:
    found = read[reader]
    called = found.pop("#names").tolist()
    if reader == "datumaro cityscapes":
        assert [called[place] for place in (7, 19, 26, 34)] == [
            "road",
            "traffic_light",
            "car",
            "my_pallet",
        ]
    else:
        assert called == CALLED.get(reader, list(NAMES))
    assert set(found) == {named(reader, number) for number in range(len(frames))}
    numbers = NUMBERS.get(reader, {value: value for value in (0, 1, 2, 3, 65535)})
    table = np.full(65536, 9, np.uint16)
    table[list(numbers)] = list(numbers.values())
    for number, frame in enumerate(frames):
        expected = np.where(frame.label_map == 255, 65535, frame.label_map.astype(np.uint16))
        np.testing.assert_array_equal(table[found[named(reader, number)]], expected)


@pytest.mark.parametrize("reader", OUTLINED)
def test_polygons_lose_what_is_said(
    reader: str, read: Read, frames: list[Labelled], exported: dict[str, Path]
) -> None:
    found = read[reader]
    assert found["#names"].tolist() == list(NAMES)
    report = json.loads((exported[reader] / RECORD).read_text())["report"]
    losses = {loss["name"]: loss for loss in report["losses"]}
    shared, either = np.zeros((2, 3, len(NAMES)))
    for number, frame in enumerate(frames):
        labelled = np.arange(len(NAMES))[:, None, None] == frame.label_map
        seen = found[named(reader, number)]
        shared[number] = (labelled & seen).sum(axis=(1, 2))
        either[number] = (labelled | seen).sum(axis=(1, 2))
    for place, name in enumerate(NAMES):
        iou = shared[:, place].sum() / either[:, place].sum()
        assert losses[name]["iou"] == pytest.approx(iou, abs=1e-12)
        worst = (shared / either)[:, place]
        assert losses[name]["worst_iou"] == pytest.approx(worst.min(), abs=1e-12)
        assert losses[name]["worst_frame"] == named(reader, int(worst.argmin()))
    assert 0.5 < min(loss["iou"] for loss in losses.values()) < 0.98, "holes were lost"


def test_a_finished_environment_is_taken_without_a_network(formats_python: Path) -> None:
    """As it is said in the script, which tests call before each use."""
    folder = formats_python.parent.parent
    before = (folder / ".wheels").stat().st_mtime_ns
    environment = {**os.environ, "PATH": "/usr/bin:/bin", "UV_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    command = [ROOT / ".ci/formats", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert (folder / ".wheels").stat().st_mtime_ns == before


def test_the_environment_takes_nobodys_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    command = [ROOT / ".ci/formats", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "holds something else" in done.stderr
    assert os.listdir(tmp_path) == ["mine.txt"]
