"""From an annotation tool's file and the pictures to a label folder that training and tuning read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.corpus.formats.annotated_pictures import PictureFiles
from dedos_deploy.corpus.formats.annotations import AnnotatedPicture, Annotations, counted
from dedos_deploy.corpus.formats.options import ImportSettings
from dedos_deploy.corpus.formats.read_coco import read_coco
from dedos_deploy.corpus.formats.read_cvat import read_cvat
from dedos_deploy.corpus.formats.read_label_studio import read_label_studio
from dedos_deploy.corpus.formats.whole_folder import whole_folder, write_record
from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.label_files import UNLABELLED, class_word, unlabelled
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.sinks.files import WORDS_FILE, encode_picture
from dedos_deploy.version import __version__
from dedos_deploy.vocabulary import Entry, parse_vocabulary, typed_vocabulary

READERS: dict[str, Callable[[Path], Annotations]] = {
    "cvat": read_cvat,
    "coco": read_coco,
    "labelstudio": read_label_studio,
}
"""What reads each of `options.IMPORTS`."""

LabelImage = NDArray[np.uint8] | NDArray[np.uint16]

WITHOUT_SHAPE = "pictures without a shape"


@dataclass(frozen=True)
class ImportReport:
    """What was imported."""

    pictures: int
    classes: tuple[str, ...]
    """Words of the label folder, by label value."""

    overlaps: int
    """Pixels that shapes of several classes claimed; the one on top has them."""

    overlapping: int
    """Pictures that have such pixels."""

    left_out: dict[str, int]
    """What was not taken over, and how many of it."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values under stable keys."""
        return asdict(self)


def import_annotations(
    settings: ImportSettings,
    dest: Path,
    *,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> ImportReport:
    """Write annotations and their pictures as a label folder, which appears whole at the end.

    Raises BadInputError for a damaged file, labels that no class stands for, and pictures that are not there
    or of another size; SinkError where the folder cannot be written.
    """
    annotations = READERS[settings.source](settings.file)
    classes = _Classes(annotations.labels, settings)
    files = PictureFiles(settings)
    left_out = annotations.left_out
    with whole_folder(dest, overwrite=overwrite) as folder:
        writer = _LabelFolder(folder, settings.split, classes, files)
        with progress.part(1, 1, "reading annotations"):
            for picture in annotations.pictures:
                if picture.shapes:
                    writer.add(picture)
                    progress.note(f"picture {writer.pictures}")
                else:
                    counted(left_out, WITHOUT_SHAPE)
        if writer.pictures == 0:
            raise BadInputError(
                f"{str(settings.file)!r} has no picture with a mask or polygon; draw some"
            )
        report = ImportReport(
            writer.pictures, classes.words, writer.overlaps, writer.overlapping, left_out
        )
        (folder / WORDS_FILE).write_text("".join(f"{word}\n" for word in classes.words), "utf-8")
        made = {"made": "import", "dedos_deploy": __version__, "from": settings.source}
        write_record(folder, {**made, "report": report.to_dict()})
    return report


class _Classes:
    """The words of the label folder, and what each label of the file becomes."""

    def __init__(self, labels: tuple[str, ...], settings: ImportSettings) -> None:
        self._file = settings.file
        ignored = () if settings.ignore is None else parse_vocabulary(settings.ignore).words
        self._ignored = set(map(class_word, ignored))
        if settings.classes is not None:
            entries = typed_vocabulary(settings.classes).entries
        else:
            # Labels that differ in case or underscores alone are one word.
            words = dict.fromkeys(map(class_word, labels))
            entries = tuple(Entry(word) for word in words if word not in self._ignored)
        if not entries:
            raise BadInputError(
                f"{str(self._file)!r} names no label that is a class; name them with --classes"
            )
        self.words = tuple(class_word(entry.name) for entry in entries)
        self.none_id = unlabelled(len(entries))
        self._value_of = {
            class_word(word): value for value, entry in enumerate(entries) for word in entry.words
        }

    def value(self, label: str) -> int:
        """Return the label value of a shape. Raises BadInputError for a label that stands for nothing."""
        word = class_word(label)
        if word in self._ignored:
            return self.none_id
        if word not in self._value_of:
            raise BadInputError(
                f"label {label!r} of {str(self._file)!r} stands for no class{nearest(word, self._value_of)}; "
                f"name it with --classes, as a class or a synonym ('{Entry(self.words[0], (word,)).spelled}'), "
                "or leave its pixels unlabelled with --ignore"
            )
        return self._value_of[word]


class _LabelFolder:
    """Writes pictures and label images of one split."""

    def __init__(self, folder: Path, split: str, classes: _Classes, files: PictureFiles) -> None:
        self.pictures = self.overlaps = self.overlapping = 0
        self._classes = classes
        self._files = files
        self._images, self._labels = folder / "images" / split, folder / "labels" / split
        for path in (self._images, self._labels):
            path.mkdir(parents=True)

    def add(self, picture: AnnotatedPicture) -> None:
        """Write one picture and its labels."""
        found = self._files.of(picture.name)
        size_hw = found.size_hw
        stated = picture.size_hw
        if stated is not None and stated != size_hw:
            raise BadInputError(
                f"picture {str(found.path)!r} is {size_hw[1]}x{size_hw[0]}, and was {stated[1]}x{stated[0]} when it "
                "was annotated; give the folder of the pictures that were, with --images"
            )
        (self._images / f"{found.stem}{found.suffix}").write_bytes(found.content)
        labels = encode_picture(".png", self._painted(picture, size_hw))
        (self._labels / f"{found.stem}.png").write_bytes(labels)
        self.pictures += 1

    def _painted(self, picture: AnnotatedPicture, size_hw: tuple[int, int]) -> LabelImage:
        none_id = self._classes.none_id
        labels = np.full(size_hw, none_id, np.uint8 if none_id == UNLABELLED else np.uint16)
        claimed = np.zeros(size_hw, np.bool_)
        for shape in sorted(picture.shapes, key=lambda shape: shape.layer):
            value, mask = self._classes.value(shape.label), shape.draw()
            claimed |= mask & (labels != none_id) & (labels != value)
            labels[mask] = value
        overlap = int(np.count_nonzero(claimed))
        self.overlaps += overlap
        self.overlapping += overlap > 0
        return labels
