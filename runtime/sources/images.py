"""Images as a source: one file, a folder, or a glob."""

from __future__ import annotations

import glob
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.pictures import STRETCHED, read_picture
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.sources.contract import UNREADABLE, Outcome, Source

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"(\d+)")


def find_images(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the image files of a folder or glob in natural order: 2 comes before 10.

    Raises SourceError when there is none.
    """
    found = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    images = [item for item in found if item.suffix.lower() in suffixes and item.is_file()]
    if not images:
        raise SourceError(f"{str(path)!r} holds no image; image files end in {', '.join(suffixes)}")
    return sorted(images, key=natural_order)


def natural_order(path: str | Path) -> list[tuple[int, str]]:
    """Return what sorts file names so that 2 comes before 10."""
    parts = _NUMBER.split(str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


class ImageSource(Source):
    """Every image of a list; those that cannot be read are skipped, counted and warned about.

    EXIF orientation is applied, alpha is dropped, grey becomes BGR, 16 bits become 8 (see
    `pictures.eight_bits`).
    """

    def __init__(self, images: Sequence[Path], *, source_id: str) -> None:
        self.source_id = source_id
        self.frames = len(images)
        self._images = list(images)
        stems = [path.stem for path in images]
        self._names = (
            stems
            if len(set(stems)) == len(stems)
            else [f"{index:06d}_{stem}" for index, stem in enumerate(stems)]
        )
        self._next = 0
        self._unreadable: list[Path] = []
        self._why: str | None = None
        self._stretched = False

    @property
    def drops(self) -> Mapping[str, int]:
        return {UNREADABLE: len(self._unreadable)} if self._unreadable else {}

    @property
    def warnings(self) -> tuple[str, ...]:
        said = [f"{STRETCHED}, as of {self.source_id!r}"] if self._stretched else []
        if self._unreadable:
            said.append(
                f"{len(self._unreadable)} of {len(self._images)} images could not be read and were "
                f"skipped, the first is {str(self._unreadable[0])!r}"
            )
        return (*said, *([] if self._why is None else [self._why]))

    def read(self, timeout_s: float) -> Frame | Outcome:
        while self._next < len(self._images):
            index = self._next
            self._next += 1
            try:
                frame_bgr = read_picture(self._images[index], on_stretch=self._note_stretch)
            except BadInputError as error:
                frame_bgr = None
                self._why = str(error)
            if frame_bgr is not None:
                name = self._names[index]
                picture = str(self._images[index])
                now_s = time.monotonic()
                return Frame(frame_bgr, index, now_s, self.source_id, name, picture=picture)
            self._unreadable.append(self._images[index])
            log.warning("image %s cannot be read and is skipped", self._images[index])
        if self._images and len(self._unreadable) == len(self._images):
            if self._why is not None:
                others = len(self._images) - 1
                nor = f", nor can any of {others} others be labelled" if others else ""
                raise SourceError(self._why + nor)
            raise SourceError(
                f"{str(self._images[0])!r} is not a readable image"
                + (f", nor is any other of {len(self._images)}" if len(self._images) > 1 else "")
                + "; convert it to JPEG or PNG"
            )
        return Outcome.END

    def _note_stretch(self) -> None:
        self._stretched = True

    def close(self) -> None:
        self._next = len(self._images)
