"""From a data set of labels to a folder in a format of others."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dedos_deploy.corpus.dataset import Corpus
from dedos_deploy.corpus.formats.choosing import Choice, FrameNames, least_certain
from dedos_deploy.corpus.formats.cityscapes import Cityscapes
from dedos_deploy.corpus.formats.coco import Coco
from dedos_deploy.corpus.formats.coco_panoptic import CocoPanoptic
from dedos_deploy.corpus.formats.contract import ExportFrame, Format, Task
from dedos_deploy.corpus.formats.cvat import Cvat
from dedos_deploy.corpus.formats.label_studio import LabelStudio
from dedos_deploy.corpus.formats.losses import ClassLoss, Losses
from dedos_deploy.corpus.formats.options import ExportSettings
from dedos_deploy.corpus.formats.pictures import PictureSource
from dedos_deploy.corpus.formats.voc import Voc
from dedos_deploy.corpus.formats.web_dataset import WebDataset
from dedos_deploy.corpus.formats.whole_folder import whole_folder, write_record
from dedos_deploy.corpus.formats.yolo_seg import YoloSeg
from dedos_deploy.corpus.records import CorpusInfo, LabelledFrame
from dedos_deploy.errors import BadInputError
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.version import __version__

FORMATS: dict[str, type[Format]] = {
    "coco": Coco,
    "coco-panoptic": CocoPanoptic,
    "yolo-seg": YoloSeg,
    "cvat": Cvat,
    "labelstudio": LabelStudio,
    "voc": Voc,
    "cityscapes": Cityscapes,
    "webdataset": WebDataset,
}
"""What writes each of `options.EXPORTS`."""

FRAMES_TABLE = "frames.csv"
FRAMES_LINES = "frames.jsonl"
"""Which frame of which source each picture is, in the order of the export: one table, twice."""

_COLUMNS = ("name", "key", "source", "frame", "time_s", "margin")


@dataclass(frozen=True)
class ExportReport:
    """What was exported."""

    to: str
    """The format."""

    frames: int
    classes: tuple[str, ...]
    exact: bool
    """Whether labels come back pixel for pixel."""

    losses: tuple[ClassLoss, ...]
    """Of polygons, the worst class first; empty where the export is exact."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values under stable keys."""
        return asdict(self)


def export_corpus(
    corpus: Corpus,
    dest: Path,
    settings: ExportSettings,
    *,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> ExportReport:
    """Write a data set as a folder in one format, which appears whole at the end.

    Beside the format's own files the folder has `frames.csv` and `frames.jsonl`, by which pictures are found
    again, and `dedos-label.json`.

    Raises BadInputError for settings that do not fit the data set, a frame that cannot be read, or a folder
    that is there already; SinkError where it cannot be written.
    """
    choice = Choice(corpus.info, settings)
    kind = FORMATS[settings.to]
    _check_count(len(choice.classes), kind, settings.to)
    losses = Losses([one.name for one in choice.classes])
    with whole_folder(dest, overwrite=overwrite) as folder:
        task = Task(folder, choice.classes, settings, _made_by(corpus.info), losses)
        frames = _written(corpus, choice, kind(task), progress)
        report = ExportReport(
            settings.to,
            frames,
            tuple(one.name for one in choice.classes),
            not settings.polygons,
            losses.by_class(),
        )
        made = {"made": "export", "dedos_deploy": __version__, "settings": asdict(settings)}
        hashes = {
            "bundle_sha256": corpus.info.bundle_sha256,
            "words_sha256": corpus.info.words_sha256,
        }
        write_record(folder, {**made, **hashes, "report": report.to_dict()})
    return report


def _check_count(count: int, kind: type[Format], name: str) -> None:
    if count > kind.most_classes:
        raise BadInputError(
            f"{name} has numbers for {kind.most_classes} classes, and there are {count}; name fewer with "
            "--classes"
        )


def _made_by(info: CorpusInfo) -> str:
    return f"dedos-deploy {__version__}, bundle {info.bundle_sha256[:12]}"


def _written(corpus: Corpus, choice: Choice, writer: Format, progress: Progress) -> int:
    """Write all frames, and return how many there are."""
    settings = writer.task.settings
    scratch = writer.task.folder.parent / "read_ahead"
    pictures = PictureSource(corpus, settings.pictures, writer.suffix, scratch)
    names = FrameNames()
    total = len(corpus)
    if settings.review is not None:
        total = min(total, settings.review)
    if total == 0:
        raise BadInputError(
            f"the data set {corpus.folder.address!r} has no frame; label some first"
        )
    with _FrameList(writer.task.folder) as listed, progress.part(1, 1, "writing frames"):
        rows: Iterable[LabelledFrame] = corpus
        if settings.review is not None:
            reviewed = least_certain(corpus, settings.review)
            pictures.read_ahead(reviewed)
            rows = _taken(reviewed)
        for number, row in enumerate(progress.counted(rows, total, "frame")):
            name = writer.frame_name(number, names.of(row))
            frame = ExportFrame(number, name, row.key, row.margin, choice.labels(row))
            writer.add(frame, pictures.of(row))
            listed.add(name, row)
        writer.finish()
    return number + 1


def _taken(rows: list[LabelledFrame]) -> Iterator[LabelledFrame]:
    """Yield and forget: a row that was asked for its label map keeps it."""
    rows.reverse()
    while rows:
        yield rows.pop()


class _FrameList:
    """The two files that say which frame each picture is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> _FrameList:
        self._table = (self._folder / FRAMES_TABLE).open("x", encoding="utf-8", newline="")
        self._lines = (self._folder / FRAMES_LINES).open("x", encoding="utf-8")
        self._writer = csv.writer(self._table, lineterminator="\n")
        self._writer.writerow(_COLUMNS)
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()
        self._lines.close()

    def add(self, name: str, row: LabelledFrame) -> None:
        values = (name, row.key, row.source, row.frame, row.time_s, round(row.margin, 6))
        self._writer.writerow(values)
        entry = dict(zip(_COLUMNS, values, strict=True))
        self._lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
