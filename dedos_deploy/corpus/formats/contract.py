"""What every format is written by: classes, frames and pictures in, files of its own in a folder out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.corpus.formats.losses import Losses
from dedos_deploy.corpus.formats.options import ExportSettings

UNLABELLED = 65535
"""Of the labels of a frame that is exported."""

Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class ExportClass:
    """A class that is exported; frames' labels are indices into the list of them."""

    name: str
    """As in the data set."""

    colour_rgb: tuple[int, int, int]
    """Its colour in pictures, each part in [0, 255]."""

    is_thing: bool
    """Whether each of its connected regions is an object of its own."""


@dataclass(frozen=True, eq=False)
class ExportFrame:
    """One frame as every format takes it."""

    number: int
    """From 0, in the order of the export."""

    name: str
    """Unique in the export: ASCII letters, digits, - and _, of which file names are made."""

    key: str
    """Of the row of the data set."""

    margin: float
    """Of the row: the lower, the less sure its labels are."""

    labels: Labels
    """uint16 [H, W], indices of the classes, or UNLABELLED."""


@dataclass(frozen=True)
class ExportPicture:
    """The picture of a frame, as it gets into an export."""

    suffix: str
    """Of its file, such as `.jpg`."""

    content: bytes | None = None
    """The file's bytes."""

    target: Path | None = None
    """A file to link to instead; with neither, there is a name of a picture and no picture."""


@dataclass(frozen=True)
class Task:
    """What a format is opened with."""

    folder: Path
    """An empty folder, which the caller gives its name when all is written."""

    classes: tuple[ExportClass, ...]
    """At least one."""

    settings: ExportSettings

    made_by: str
    """Of which bundle and words the labels are, in a few words."""

    losses: Losses
    """Counts what polygons lose."""


class Format(ABC):
    """Writes frames in one format, one after the other; `finish` ends it.

    Raises BadInputError for classes that the format cannot hold, and OSError.
    """

    suffix: ClassVar[str | None] = None
    """What pictures are, where the format's readers take nothing else."""

    most_classes: ClassVar[int] = UNLABELLED
    """That the format has numbers for."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @staticmethod
    def frame_name(number: int, name: str) -> str:
        """Return the name that a frame has in this format. number: from 0; name: its own."""
        return name

    @abstractmethod
    def add(self, frame: ExportFrame, picture: ExportPicture) -> None:
        """Write one frame."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is known at the end alone."""

    def place(self, stem: str, picture: ExportPicture) -> str:
        """Put a picture where the format wants it, and return its name there.

        stem: path within the folder, without the suffix.
        """
        name = stem + picture.suffix
        if picture.content is not None:
            self.write(name, picture.content)
        elif picture.target is not None:
            os.symlink(picture.target, self._made(name))
        return name

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the folder, which must not be there."""
        with self._made(name).open("xb") as file:
            file.write(content)

    def write_text(self, name: str, lines: Sequence[str]) -> None:
        """Write a text file with a line for each of `lines`."""
        self.write(name, "".join(f"{line}\n" for line in lines).encode())

    def _made(self, name: str) -> Path:
        path = self.task.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
