"""A labelled folder: `images/<split>/*.jpg`, `labels/<split>/*.png`, `classes.txt`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.evaluation.confusion import IGNORE
from dedos_deploy.vocabulary import BACKGROUND_WORDS, Entry, Vocabulary

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image with its labels.

    name: file stem; image_bgr: uint8 [H, W, 3]; labels: uint8 [H, W], line numbers of classes.txt
    from 0, 255 where nothing is known.
    """

    name: str
    image_bgr: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledFolder:
    """One split of a data set, with the names of all its files checked.

    root: the folder; split: for example `val`; classes: names by label value, in lower case with
    spaces for underscores; pairs: image and label file of every item, by name.
    """

    root: Path
    split: str
    classes: tuple[str, ...]
    pairs: tuple[tuple[Path, Path], ...]

    @classmethod
    def open(cls, root: str | os.PathLike[str], split: str) -> LabelledFolder:
        """Return a split of the data set in `root`.

        Raises BadInputError naming the first folder or file that is missing, and a classes.txt
        that cannot be used.
        """
        root = Path(root)
        classes = _read_classes(root / "classes.txt")
        images = _folder(root / "images" / split)
        labels = _folder(root / "labels" / split)
        files = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise BadInputError(f"{str(images)!r} has no {' or '.join(IMAGE_SUFFIXES)} file")
        pairs = tuple((path, labels / f"{path.stem}.png") for path in files)
        for image, label in pairs:
            if not label.is_file():
                raise BadInputError(f"image {str(image)!r} has no labels {str(label)!r}")
        return cls(root, split, classes, pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[LabelledImage]:
        """Yield every item in the order of names, read one at a time.

        Raises BadInputError naming the file that cannot be read or does not fit.
        """
        for image_path, label_path in self.pairs:
            yield self._read(image_path, label_path)

    def _read(self, image_path: Path, label_path: Path) -> LabelledImage:
        import cv2

        image = cv2.imread(str(image_path), cv2.IMREAD_COLOR)
        labels = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise BadInputError(f"image {str(image_path)!r} cannot be read; replace it")
        if labels is None or labels.dtype != np.uint8 or labels.ndim != 2:
            raise BadInputError(
                f"labels {str(label_path)!r} are not an 8-bit grey PNG without palette; convert them"
            )
        if labels.shape != image.shape[:2]:
            raise BadInputError(
                f"labels {str(label_path)!r} are {labels.shape[1]}x{labels.shape[0]}, but their "
                f"image is {image.shape[1]}x{image.shape[0]}; both must have one size"
            )
        highest = int(labels[labels != IGNORE].max(initial=0))
        if highest >= len(self.classes):
            raise BadInputError(
                f"labels {str(label_path)!r} hold the value {highest}, but classes.txt names "
                f"{len(self.classes)} classes, from 0; {IGNORE} means unknown"
            )
        return LabelledImage(
            image_path.stem, np.asarray(image, dtype=np.uint8), np.asarray(labels, dtype=np.uint8)
        )


def match_classes(
    folder_classes: tuple[str, ...], vocabulary: Vocabulary | None
) -> tuple[Vocabulary, NDArray[np.uint8] | NDArray[np.uint16]]:
    """Return the vocabulary to run with, and the class id in it of every label value.

    folder_classes: names by label value; vocabulary: None for all of them but BACKGROUND_WORDS.
    An entry stands for every class of the data that one of its words names, so `vehicle|car|bus`
    joins two, and `traffic sign|sign` renames one. The result, uint8 or uint16 [256], holds
    `ignore_id(vocabulary)` for what is not counted: unknown pixels and classes left out.

    Raises BadInputError for an entry that stands for no class.
    """
    if vocabulary is None:
        kept = [name for name in folder_classes if name not in BACKGROUND_WORDS]
        if not kept:
            raise BadInputError(f"classes.txt names only {', '.join(folder_classes)}: no class")
        vocabulary = Vocabulary(tuple(Entry(name) for name in kept))
    ignore = ignore_id(vocabulary)
    table = np.full(256, ignore, dtype=np.uint8 if ignore == IGNORE else np.uint16)
    for class_id, entry in enumerate(vocabulary.entries):
        words = {_canonical(word) for word in entry.words}
        values = [value for value, name in enumerate(folder_classes) if name in words]
        if not values:
            raise BadInputError(_no_class(entry, folder_classes))
        table[values] = class_id
    return vocabulary, table


def ignore_id(vocabulary: Vocabulary) -> int:
    """Return the label value for pixels that are not counted, which no class id of it takes."""
    return IGNORE if len(vocabulary) <= IGNORE else 65535


def _no_class(entry: Entry, folder_classes: tuple[str, ...]) -> str:
    hint = nearest(_canonical(entry.name), folder_classes)
    return (
        f"class {entry.name!r} is not in the data{hint}; it has {', '.join(folder_classes)}; "
        f"rename one with a synonym, as in '{entry.name}|{folder_classes[0]}'"
    )


def _folder(path: Path) -> Path:
    if path.is_dir():
        return path
    splits = sorted(p.name for p in path.parent.glob("*") if p.is_dir())
    known = f"; splits there: {', '.join(splits)}" if splits else ""
    raise BadInputError(f"data folder {str(path)!r} does not exist{known}")


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{str(path)!r} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise BadInputError(
            f"{str(path)!r} cannot be read ({error.strerror}); it names one class per line, the "
            f"first for label value 0"
        ) from error
    names = tuple(_canonical(line) for line in lines)
    for number, name in enumerate(names, 1):
        if not name:
            raise BadInputError(f"{str(path)!r} line {number} is empty; every line names a class")
        if name in names[: number - 1]:
            first = names.index(name) + 1
            raise BadInputError(f"{str(path)!r} names {name!r} on lines {first} and {number}")
    if len(names) > IGNORE:
        raise BadInputError(
            f"{str(path)!r} names {len(names)} classes, but 8-bit labels hold {IGNORE}"
        )
    return names


def _canonical(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
