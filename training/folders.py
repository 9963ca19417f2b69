"""Label folders as training reads them: one split, its words, and what its background teaches.

A plain folder has `images/<split>/*.jpg`, `labels/<split>/*.png` and `classes.txt` (see
`dedos_deploy.label_files`). Other data sets become the same `LabelFolder` in modules of their own.
Everything is checked before the first step, and what is missing is named.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.label_files import (
    class_file,
    read_classes,
    read_item,
    read_label_classes,
    read_text,
    split_items,
    unlabelled,
)
from dedos_deploy.training.targets import IGNORE, OTHER
from dedos_deploy.vocabulary import BACKGROUND_WORDS

DATA_ENVIRONMENT = "DEDOS_DATA"


@dataclass(frozen=True)
class LabelFolder:
    """One split of one checked data set."""

    name: str
    """The folder's own name."""
    words: tuple[str | None, ...]
    """Class words by class number; words[i] is None where class i is a background word."""
    items: tuple[tuple[Path, Path], ...]
    """(image, label) paths."""
    background: int = IGNORE
    """Label of the pixels of background words, IGNORE or OTHER."""
    share: float = 1.0
    """How often an epoch shows each item (1.0: once)."""
    credits: tuple[str, ...] = ()
    """Where the data comes from, the lines of the folder's `credits.txt`, or its name without
    one."""
    values: tuple[int, ...] | None = None
    """What the label files hold for each class, None for the class number itself."""

    @property
    def annotated(self) -> tuple[str, ...]:
        """The words this folder labels, background words left out."""
        return tuple(word for word in self.words if word is not None)

    def lookup(self, slots: dict[str, int]) -> NDArray[np.int64]:
        """Return int64 [65536]: class of `read_pair` -> slot, OTHER without slot, or IGNORE.

        Numbers that `read_pair` never gives map to `BAD_VALUE`.
        """
        table = np.full(65536, BAD_VALUE, dtype=np.int64)
        for number, word in enumerate(self.words):
            table[number] = self.background if word is None else slots.get(word, OTHER)
        table[unlabelled(len(self.words))] = IGNORE
        return table


BAD_VALUE = -3


def open_folder(
    path_or_name: str,
    *,
    split: str = "train",
    background_words: Sequence[str] = BACKGROUND_WORDS,
    background: int = IGNORE,
    share: float = 1.0,
) -> LabelFolder:
    """Return the checked split of a label folder.

    path_or_name: a folder, or a bare name looked up in the current folder and then in
    $DEDOS_DATA. Raises BadInputError naming the first thing that is missing.
    """
    root = find_folder(path_or_name)
    path = class_file(root, split)
    classes = read_classes(path)
    words = tuple(None if word in background_words else word for word in classes)
    if not any(words):
        raise BadInputError(
            f"{str(path)!r} names no class but background words; nothing can be learned"
        )
    items = split_items(root, split)
    return LabelFolder(root.name, words, items, background, share, read_credits(root))


def read_credits(root: Path) -> tuple[str, ...]:
    """Licences ask for credit, so what is trained on a folder carries its credits to the bundle."""
    path = root / "credits.txt"
    if not path.is_file():
        return (root.name,)
    lines = (
        line.strip() for line in read_text(path, advice="it has one credit per line").splitlines()
    )
    return tuple(line for line in lines if line) or (root.name,)


def find_folder(path_or_name: str) -> Path:
    """Return the folder meant by `path_or_name`; see `open_folder`.

    Raises BadInputError that lists where it was looked for.
    """
    places = [Path(os.path.expanduser(path_or_name))]
    shelf = os.environ.get(DATA_ENVIRONMENT)
    if shelf and not places[0].is_absolute():
        places.append(Path(os.path.expanduser(shelf)) / path_or_name)
    for place in places:
        if place.is_dir():
            return place.resolve()
    looked = " and ".join(str(place.absolute()) for place in places)
    hint = "" if shelf else f", or set {DATA_ENVIRONMENT} to the folder that holds it"
    raise BadInputError(
        f"there is no data set folder {path_or_name!r} (looked at {looked}); give the path of a "
        f"folder with images/, labels/ and classes.txt{hint}"
    )


def union_words(folders: Sequence[LabelFolder]) -> tuple[str, ...]:
    """Return every annotated word once, in the order met: classes are unified by their text."""
    return tuple(dict.fromkeys(word for folder in folders for word in folder.annotated))


def read_pair(folder: LabelFolder, item: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Return one image, uint8 BGR [H, W, 3], and the class number of its pixels, uint16 [H, W].

    Unlabelled pixels are 255, or 65535 where there are more than 255 classes.

    Raises BadInputError naming the file that cannot be read, is of another size than its image, or
    holds a value that stands for no class.
    """
    return read_item(folder.items[item], len(folder.words), folder.values)


def read_labels(folder: LabelFolder, item: int) -> NDArray[np.uint16]:
    """Return the class numbers of `read_pair` without reading the image, uint16 [H, W].

    Raises BadInputError naming the file that cannot be read or holds a value that stands for no class.
    """
    return read_label_classes(folder.items[item][1], len(folder.words), folder.values)
