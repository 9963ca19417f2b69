"""Small data sets of labels with what formats may stumble over, and the two commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dedos_deploy.cli.label import main
from dedos_deploy.corpus import CorpusClass, CorpusInfo, LabelledFrame
from dedos_deploy.corpus.records import INFO_FILE, part_name, write_part

NAMES = ("road", "traffic light", "car", "my pallet")
NONE = 255
HASH = "a" * 64


@dataclass(frozen=True)
class Labelled:
    """One frame of a data set that a test writes."""

    source: Path | str
    label_map: NDArray[np.uint8]
    margin: float = 0.5
    confidence: NDArray[np.uint8] | None = None
    frame: int = 0


def png(array: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", array)[1])


def row_of(frame: Labelled) -> LabelledFrame:
    ids, counts = np.unique(frame.label_map[frame.label_map != NONE], return_counts=True)
    height, width = frame.label_map.shape
    return LabelledFrame(
        key=f"{frame.source}#{frame.frame}",
        source=str(frame.source),
        frame=frame.frame,
        time_s=None,
        width=width,
        height=height,
        label_map_png=png(frame.label_map),
        confidence_png=None if frame.confidence is None else png(frame.confidence),
        margin=frame.margin,
        class_ids=tuple(ids.tolist()),
        counts=tuple(counts.tolist()),
        bundle_sha256=HASH,
        words_sha256=HASH,
    )


def write_corpus(
    root: Path, frames: Sequence[Labelled], names: Sequence[str] = NAMES, none_id: int = NONE
) -> Path:
    classes = (
        CorpusClass(i, name, f"#{(16 * i + 16) % 256:02x}a0f0", name)
        for i, name in enumerate(names)
    )
    info = CorpusInfo(1, "demo", HASH, HASH, tuple(classes), none_id, {})
    (root / "labels").mkdir(parents=True)
    (root / INFO_FILE).write_text(info.to_json(), encoding="utf-8")
    write_part(root / part_name(0), 0, map(row_of, frames))
    return root


def blobs(seed: int, size_hw: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """Regions of all classes with holes, bays, single pixels and a tenth of nothing."""
    random = np.random.default_rng(seed)
    fields = [cv2.GaussianBlur(random.random(size_hw), (0, 0), 3) for _ in NAMES]
    label_map = np.argmax(fields, axis=0).astype(np.uint8)
    strongest = np.max(fields, axis=0)
    label_map[strongest < np.quantile(strongest, 0.1)] = NONE
    # Dots in the corners of a plain field, a line, and an island in a lake.
    label_map[:6, :12] = 0
    label_map[0, 0] = label_map[2, 9] = 1
    label_map[4, 2:8] = 2
    label_map[20:31, 20:31] = 3
    label_map[22:29, 22:29] = NONE
    label_map[24:27, 24:27] = 2
    return label_map


def write_pictures(folder: Path, count: int, size_hw: tuple[int, int] = (48, 64)) -> list[Path]:
    """Pictures of noise, some PNG and some JPEG, with names that are none for files elsewhere."""
    folder.mkdir()
    random = np.random.default_rng(3)
    found = []
    for number in range(count):
        path = folder / f"Bild {number} ü.{('png', 'jpg')[number % 2]}"
        picture = random.integers(0, 255, (*size_hw, 3), dtype=np.uint8)
        path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())
        found.append(path)
    return found


def export(data: Path, to: str, output: Path, *more: str) -> Path:
    assert main(["export", str(data), "--to", to, "--output", str(output), *more]) == 0
    return output


def bring_in(file: Path, source: str, output: Path, *more: str) -> Path:
    assert main(["import", str(file), "--from", source, "--output", str(output), *more]) == 0
    return output


def labels_of(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Label images of a label folder by the names of their pictures."""
    paths = sorted((folder / "labels/train").glob("*.png"))
    return {path.stem: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths}
