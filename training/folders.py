"""Reader of plain label folders: `images/<split>/*.jpg`, `labels/<split>/*.png`, `classes.txt`.

A label image has 8 bits (or 16) per pixel: the line number in `classes.txt` from 0, and 255 where
nothing is known. Everything is checked before the first step, and what is missing is named.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.targets import IGNORE, OTHER
from dedos_deploy.vocabulary import BACKGROUND_WORDS

FILE_IGNORE = 255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

DATA_ENVIRONMENT = "DEDOS_DATA"


@dataclass(frozen=True)
class LabelFolder:
    """One split of one checked label folder.

    name: the folder's own name; words: class words in file order; words[i] is None where line i
    is a background word; items: (image, label) paths; background: label of those pixels, IGNORE or
    OTHER; share: how often an epoch shows each item (1.0: once); credits: where the data comes from,
    the lines of the folder's `credits.txt`, or its name without one.
    """

    name: str
    words: tuple[str | None, ...]
    items: tuple[tuple[Path, Path], ...]
    background: int = IGNORE
    share: float = 1.0
    credits: tuple[str, ...] = ()

    @property
    def annotated(self) -> tuple[str, ...]:
        """The words this folder labels, background words left out."""
        return tuple(word for word in self.words if word is not None)

    def lookup(self, slots: dict[str, int]) -> NDArray[np.int64]:
        """Return int64 [65536]: file value -> slot, OTHER for a word without slot, or IGNORE.

        Values that the file must not contain map to `BAD_VALUE`.
        """
        table = np.full(65536, BAD_VALUE, dtype=np.int64)
        for value, word in enumerate(self.words):
            table[value] = self.background if word is None else slots.get(word, OTHER)
        if len(self.words) <= FILE_IGNORE:
            table[FILE_IGNORE] = IGNORE
        table[65535] = IGNORE
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
    words = _read_words(root / "classes.txt", background_words)
    images, labels = root / "images" / split, root / "labels" / split
    for folder in (images, labels):
        if not folder.is_dir():
            raise BadInputError(
                f"{root} has no folder {folder.relative_to(root)}; "
                f"splits found there: {_splits(folder.parent)}"
            )
    by_stem = {file.stem: file for file in sorted(labels.iterdir()) if file.suffix == ".png"}
    files = [f for f in sorted(images.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise BadInputError(f"{images} holds no image; expected {', '.join(IMAGE_SUFFIXES)}")
    for file in files:
        if file.stem not in by_stem:
            raise BadInputError(f"image {file} has no label {labels / (file.stem + '.png')}")
    items = tuple((file, by_stem[file.stem]) for file in files)
    return LabelFolder(root.name, words, items, background, share, _read_credits(root))


def _read_credits(root: Path) -> tuple[str, ...]:
    """Licences ask for credit, so what is trained on a folder carries its credits to the bundle."""
    path = root / "credits.txt"
    if not path.is_file():
        return (root.name,)
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line) or (root.name,)


def find_folder(path_or_name: str) -> Path:
    """Return the folder meant by `path_or_name`; see `open_folder`.

    Raises BadInputError that lists where it was looked for.
    """
    places = [Path(path_or_name).expanduser()]
    shelf = os.environ.get(DATA_ENVIRONMENT)
    if shelf and not places[0].is_absolute():
        places.append(Path(shelf).expanduser() / path_or_name)
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
    """Return one image, uint8 BGR [H, W, 3], and its raw label values, uint16 [H, W].

    Raises BadInputError naming the file that cannot be read, is of another size than its image, or
    holds a value that `classes.txt` has no line for.
    """
    import cv2

    image_path, label_path = folder.items[item]
    image = cv2.imread(str(image_path), cv2.IMREAD_COLOR)
    if image is None:
        raise BadInputError(f"{image_path} cannot be read as an image; replace or remove it")
    label = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
    if label is None or label.ndim != 2:
        raise BadInputError(f"{label_path} is not a one-channel label image; write it as 8-bit PNG")
    if label.shape != image.shape[:2]:
        raise BadInputError(
            f"{label_path} is {label.shape[1]}x{label.shape[0]} but its image is "
            f"{image.shape[1]}x{image.shape[0]}; both must have one size"
        )
    raw = label.astype(np.uint16)
    allowed = folder.lookup({}) != BAD_VALUE
    if not allowed[raw].all():
        value = int(raw[~allowed[raw]].flat[0])
        raise BadInputError(
            f"{label_path} holds the value {value}, but classes.txt has {len(folder.words)} lines; "
            f"values are line numbers from 0, and {FILE_IGNORE} means unlabelled"
        )
    return np.asarray(image, dtype=np.uint8), raw


def _read_words(path: Path, background_words: Sequence[str]) -> tuple[str | None, ...]:
    if not path.is_file():
        raise BadInputError(f"{path} is missing; it must hold one class name a line, from id 0")
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8"
        ) from error
    words = [" ".join(line.lower().replace("_", " ").split()) for line in lines]
    for number, word in enumerate(words):
        if not word:
            raise BadInputError(f"{path} line {number + 1} is empty; every line names one class")
        if word in words[:number]:
            first = words.index(word) + 1
            raise BadInputError(f"{path} names {word!r} on lines {first} and {number + 1}")
    if all(word in background_words for word in words):
        raise BadInputError(f"{path} names no class but background words; nothing can be learned")
    return tuple(None if word in background_words else word for word in words)


def _splits(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"
