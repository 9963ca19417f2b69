"""What an evaluation keeps: one line per image, enough to add up, resume, merge and resample.

The file is JSON lines. The first one says what was evaluated on what; each of the others is an
`ImageRecord`. It is only ever appended to, so what a killed run leaves is a shorter file, at worst
with half a line at its end, which the next run cuts off.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.reliability import ClassCells
from dedos_deploy.files import read_regular, write_atomically

FORMAT = "dedos-eval-1"

Header = dict[str, Any]

MADE = "made"
"""Key of a header that says when and by which command line: parts and resumed runs differ in it."""


@dataclass(frozen=True)
class ImageRecord:
    """The pixels of one image by label and prediction.

    An image without a pixel that counts has no cells.
    """

    name: str
    size: tuple[int, int]
    """Height and width."""
    cells: tuple[tuple[int, int, int], ...]
    """(label, prediction, pixels), the prediction `classes` meaning none."""
    boundary: tuple[tuple[int, int, int], ...]
    """(class, pixels in both bands, pixels in either), empty when boundaries were not measured."""
    seconds: float
    """Spent in the predictor."""
    reliability: tuple[tuple[int, int, int, int], ...] = ()
    """(bin, pixels, right ones, sum of confidences in 255ths) of the pixels that got a class, empty
    when scores are not known; see `reliability.py`."""
    moves: tuple[int, ...] = ()
    """What happens to some of its pixels when words move, kind, index, bin, count, kind, ...; empty when
    scores are not known; see `moves.py`."""

    calibration: tuple[ClassCells, ClassCells] = ((), ())
    """What `reliability` has, by class that was answered: of confidences as they are given, and of the
    scores behind them where those are something else; empty when it was not measured."""

    @property
    def skipped(self) -> bool:
        """Whether no pixel of the image counts."""
        return not self.cells

    def matrix(self, classes: int) -> NDArray[np.int64]:
        """Return int64 [classes, classes + 1], pixels by label and prediction."""
        return confusion_of([self], classes).matrix

    def to_json(self) -> str:
        return json.dumps(
            {
                "name": self.name,
                "size": self.size,
                "cells": self.cells,
                "boundary": self.boundary,
                "seconds": round(self.seconds, 6),
                "reliability": self.reliability,
                "moves": self.moves,
                **({"calibration": self.calibration} if any(self.calibration) else {}),
            }
        )

    @staticmethod
    def from_json(text: str) -> ImageRecord:
        """Return the record of a line; raises ValueError, KeyError or TypeError for another one."""
        values = json.loads(text)
        height, width = values["size"]
        return ImageRecord(
            values["name"],
            (height, width),
            tuple((label, prediction, pixels) for label, prediction, pixels in values["cells"]),
            tuple((index, both, either) for index, both, either in values["boundary"]),
            float(values["seconds"]),
            # Earlier releases kept none.
            tuple(
                (b, pixels, right, total)
                for b, pixels, right, total in values.get("reliability", ())
            ),
            _move_cells(values.get("moves", ())),
            _calibration(values.get("calibration", ((), ()))),
        )


def _calibration(values: Sequence[Sequence[Sequence[int]]]) -> tuple[ClassCells, ClassCells]:
    given, scores = (tuple((c, b, n, r, s) for c, b, n, r, s in cells) for cells in values)
    return given, scores


def _move_cells(values: Sequence[int]) -> tuple[int, ...]:
    cells = tuple(map(int, values))
    if len(cells) % 4:
        raise ValueError(f"moves has {len(cells)} numbers, not four a cell")
    return cells


def confusion_of(records: Iterable[ImageRecord], classes: int) -> Confusion:
    """Return the pixels of all records by label and prediction."""
    confusion = Confusion(classes)
    for record in records:
        for label, prediction, pixels in record.cells:
            confusion.matrix[label, prediction] += pixels
    return confusion


def cells_of(matrix: NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """Return the cells of a confusion matrix that are not zero."""
    rows, columns = matrix.nonzero()
    values = matrix[rows, columns]
    return tuple(zip(rows.tolist(), columns.tolist(), values.tolist(), strict=True))


def read_records(path: Path) -> tuple[Header, list[ImageRecord]]:
    """Return the header and the images of a record file; half a line at its end is left out.

    Raises BadInputError when the file cannot be read, is of another format, or is damaged.
    """
    try:
        text = read_regular(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{str(path)!r} is no record of an evaluation ({error}); run the evaluation again"
        ) from error
    whole = text[: text.rfind("\n") + 1].splitlines()
    try:
        header = json.loads(whole[0])
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']!r}")
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(
            f"{str(path)!r} is no record of an evaluation of this version ({error!r}); run the "
            "evaluation again in another folder"
        ) from error
    records = []
    for number, line in enumerate(whole[1:], 2):
        try:
            records.append(ImageRecord.from_json(line))
        except (ValueError, KeyError, TypeError) as error:
            raise BadInputError(
                f"line {number} of {str(path)!r} is damaged ({error!r}); remove the file and run "
                "the evaluation again"
            ) from error
    return header, records


class RecordWriter(Closing):
    """Appends records to a file, creating it with its header; `done` holds those it had already.

    resume: go on with a file that is there. Raises BadInputError when one is there and was made
    with another header or `resume` is False, and when the file cannot be written.
    """

    def __init__(self, path: Path, header: Header, *, resume: bool) -> None:
        self.path = path
        self.done: tuple[ImageRecord, ...] = ()
        header = json.loads(json.dumps({"format": FORMAT, **header}))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._take_over(header, resume)
            else:
                write_atomically(path, (json.dumps(header) + "\n").encode())
            # Unbuffered: what a full disk refused must not be tried again on closing.
            self._file: IO[bytes] = path.open("ab", buffering=0)
        except OSError as error:
            raise BadInputError(
                f"cannot write {str(path)!r} ({error.strerror}); choose another --output"
            ) from error

    def _take_over(self, header: Header, resume: bool) -> None:
        if not resume:
            raise BadInputError(
                f"{str(self.path.parent)!r} already holds an evaluation; add --resume to go on "
                "with it, or choose another --output"
            )
        found, records = read_records(self.path)
        for key, value in header.items():
            if key != MADE and found.get(key) != value:
                raise BadInputError(
                    f"the evaluation in {str(self.path.parent)!r} has {key} {shown(found.get(key))}, not "
                    f"{shown(value)}; choose another --output"
                )
        self.done = tuple(records)
        with self.path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)

    def add(self, record: ImageRecord) -> None:
        """Append one record; raises BadInputError when the disk is full."""
        try:
            line = (record.to_json() + "\n").encode()
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise BadInputError(
                f"cannot write {str(self.path)!r} ({error.strerror}); make room and go on with "
                "--resume"
            ) from error

    def close(self) -> None:
        """Close the file; what was added is on its way to the disk already."""
        self._file.close()


def merged(parts: Iterable[tuple[Header, Sequence[ImageRecord]]]) -> list[ImageRecord]:
    """Return the images of several processes that shared one data set, by name.

    Raises BadInputError when they evaluated something else, or an image twice.
    """
    found: dict[str, ImageRecord] = {}
    first: Header | None = None
    for header, records in parts:
        first = first or header
        keys = {**first, **header}.keys() - {MADE}
        different = sorted(key for key in keys if first.get(key) != header.get(key))
        if different:
            raise BadInputError(
                f"parts of different evaluations cannot be merged: {', '.join(different)} differ"
            )
        for record in records:
            if record.name in found:
                raise BadInputError(
                    f"image {record.name!r} was evaluated twice; give every process another --part"
                )
            found[record.name] = record
    return [found[name] for name in sorted(found)]
