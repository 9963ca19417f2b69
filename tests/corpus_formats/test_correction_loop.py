"""The whole way: label, export, correct, import, tune words, label again, and the number that rises."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy.cli.label import main as label
from dedos_deploy.cli.train import main as train
from dedos_deploy.corpus import open_corpus
from dedos_deploy.scenes import class_names, render_image

pytest.importorskip("torch")

SIZE = (144, 192)
CALLED = {"river": "road", "pillar": "tree", "sky": "sky", "table": "car"}
"""Words of somebody's own, three of which mislead the model, and what they are used for."""

CORRECTED = 6
Truth = dict[str, NDArray[np.uint8]]


def write_scenes(folder: Path, count: int) -> Truth:
    """Write pictures; the labels of the words by their names."""
    folder.mkdir()
    numbers = [class_names("street").index(name) for name in CALLED.values()]
    table = np.full(256, 255, np.uint8)
    table[numbers] = range(len(numbers))
    found = {}
    for seed in range(count):
        picture, labels = render_image("street", seed=seed, size_hw=SIZE)
        cv2.imwrite(str(folder / f"{seed:03}.png"), picture)
        found[f"{seed:03}"] = table[labels]
    return found


def correct(annotations: Path, truth: Truth) -> None:
    """Draw every mask anew, as an annotator would who sees what is there."""
    tree = ET.parse(annotations)
    for image in tree.getroot().iter("image"):
        for shape in list(image):
            image.remove(shape)
        labels = truth[str(image.get("name")).partition(".")[0]]
        for place, name in enumerate(CALLED):
            flat = (labels == place).ravel().tolist()
            runs = [0] * flat[0] + [len(list(group)) for _, group in groupby(flat)]
            box = {"left": "0", "top": "0", "width": str(SIZE[1]), "height": str(SIZE[0])}
            rle = ", ".join(map(str, runs))
            ET.SubElement(image, "mask", label=name, rle=rle, z_order="0", **box)
    tree.write(annotations)


def mean_iou(data: Path, truth: Truth, names: set[str]) -> float:
    """Mean IoU over the words, on the named pictures."""
    shared, either = np.zeros((2, len(CALLED)))
    with open_corpus(data) as corpus:
        for row in corpus:
            if (name := Path(row.source).stem) in names:
                words = np.arange(len(CALLED))[:, None, None]
                labelled, true = words == row.label_map, words == truth[name]
                shared += (labelled & true).sum(axis=(1, 2))
                either += (labelled | true).sum(axis=(1, 2))
    return float(np.mean(shared / either))


def test_corrections_of_few_frames_make_the_labels_of_others_better(tmp_path: Path) -> None:
    truth = write_scenes(tmp_path / "pictures", CORRECTED + 3)
    paths = {name: str(tmp_path / name) for name in ("before", "cvat", "yard", "words", "after")}
    pictures, quiet = str(tmp_path / "pictures"), ("--workers", "1", "--quiet")

    assert (
        label([pictures, "--classes", ",".join(CALLED), "--output", paths["before"], *quiet]) == 0
    )
    more = ("--review", str(CORRECTED), "--output", paths["cvat"])
    assert label(["export", paths["before"], "--to", "cvat", *more]) == 0
    annotations = tmp_path / "cvat/annotations.xml"
    correct(annotations, truth)
    assert label(["import", str(annotations), "--from", "cvat", "--output", paths["yard"]]) == 0

    words = f"{paths['words']}.words"
    tune = ["tune-words", "--init", "embedded", "--data", paths["yard"], "--output", words]
    assert train([*tune, "--size", "144x192", "--frames", str(CORRECTED), "--threads", "1"]) == 0
    assert label([pictures, "--classes", words, "--output", paths["after"], *quiet]) == 0

    corrected = {path.stem for path in (tmp_path / "yard/labels/train").iterdir()}
    assert len(corrected) == CORRECTED
    others = set(truth) - corrected
    before, after = (mean_iou(Path(paths[name]), truth, others) for name in ("before", "after"))
    print(f"mean IoU of {len(others)} frames that nobody corrected: {before:.3f}, then {after:.3f}")
    assert before < 0.5 < after and after > before + 0.2
