"""A labelled folder: `images/<split>/*.jpg`, `labels/<split>/*.png`, `classes.txt` (also beside the labels)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, listed, nearest
from dedos_deploy.evaluation.confusion import IGNORE, Ids
from dedos_deploy.label_files import class_file, class_word, read_classes, read_item, split_items
from dedos_deploy.spec import MAX_CLASSES
from dedos_deploy.vocabulary import BACKGROUND_WORDS, Entry, Vocabulary


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image with its labels."""

    name: str
    """Unique in its data."""
    image_bgr: NDArray[np.uint8]
    """uint8 [H, W, 3]."""
    labels: Ids
    """uint8 or uint16 [H, W], class ids of the data it is read from, or its value for pixels that
    are not counted."""


@dataclass(frozen=True)
class LabelledFolder:
    """One split of a data set, with the names of all its files checked."""

    root: Path
    """The folder."""
    split: str
    """For example `val`."""
    classes: tuple[str, ...]
    """Names by label value, in lower case with spaces for underscores."""
    pairs: tuple[tuple[Path, Path], ...]
    """Image and label file of every item, by name."""

    @classmethod
    def open(cls, root: str | os.PathLike[str], split: str) -> LabelledFolder:
        """Return a split of the data set in `root`.

        Raises BadInputError naming the first folder or file that is missing, and a classes.txt
        that cannot be used.
        """
        root = Path(root)
        path = class_file(root, split)
        classes = read_classes(path)
        if len(classes) > MAX_CLASSES:
            raise BadInputError(
                f"{str(path)!r} names {len(classes)} classes, but label images of 16 bits hold "
                f"{MAX_CLASSES}; leave some out"
            )
        return cls(root, split, classes, split_items(root, split))

    def __len__(self) -> int:
        return len(self.pairs)

    def image(self, index: int) -> LabelledImage:
        """Return one item, its labels the line numbers of classes.txt from 0.

        255 is for unknown, 65535 where there are more than 255 classes, whose label images have 16 bits.
        Raises BadInputError naming the file that cannot be read or does not fit.
        """
        pair = self.pairs[index]
        image, labels = read_item(pair, len(self.classes))
        narrow = len(self.classes) <= IGNORE
        return LabelledImage(pair[0].stem, image, labels.astype(np.uint8) if narrow else labels)

    def __iter__(self) -> Iterator[LabelledImage]:
        """Yield every item in the order of names, read one at a time; raises as `image`."""
        return map(self.image, range(len(self)))


def match_classes(
    folder_classes: tuple[str, ...], vocabulary: Vocabulary | None
) -> tuple[Vocabulary, NDArray[np.uint8] | NDArray[np.uint16]]:
    """Return the vocabulary to run with, and the class id in it of every label value.

    folder_classes: names by label value; vocabulary: None for all of them but BACKGROUND_WORDS.
    An entry stands for every class of the data that one of its words names, so `vehicle|car|bus`
    joins two, and `traffic sign|sign` renames one. The result, uint8 or uint16 [256], [65536] for more
    than 255 classes of the data, holds `ignore_id(vocabulary)` for what is not counted: unknown pixels
    and classes left out.

    Raises BadInputError for an entry that stands for no class.
    """
    if vocabulary is None:
        kept = [name for name in folder_classes if name not in BACKGROUND_WORDS]
        if not kept:
            raise BadInputError(f"classes.txt names only {', '.join(folder_classes)}: no class")
        vocabulary = Vocabulary(tuple(Entry(name) for name in kept))
    ignore = ignore_id(vocabulary)
    values_held = 256 if len(folder_classes) <= IGNORE else 65536
    table = np.full(values_held, ignore, dtype=np.uint8 if ignore == IGNORE else np.uint16)
    for class_id, entry in enumerate(vocabulary.entries):
        words = {class_word(word) for word in entry.words}
        values = [value for value, name in enumerate(folder_classes) if name in words]
        if not values:
            raise BadInputError(_no_class(entry, folder_classes))
        table[values] = class_id
    return vocabulary, table


def ignore_id(vocabulary: Vocabulary) -> int:
    """Return the label value for pixels that are not counted, which no class id of it takes."""
    return IGNORE if len(vocabulary) <= IGNORE else 65535


def _no_class(entry: Entry, folder_classes: tuple[str, ...]) -> str:
    hint = nearest(class_word(entry.name), folder_classes)
    return (
        f"class {entry.name!r} is not in the data{hint}; it has {listed(folder_classes)}; "
        f"rename one with a synonym, as in '{entry.name}|{folder_classes[0]}'"
    )
