"""Reader of DAVIS 2016 with a noun per sequence: `davis:FOLDER`.

    images/<sequence>/*.jpg, labels/<sequence>/*.png   0, and 1 on the object
    JPEGImages/480p/<sequence>/*.jpg, Annotations/480p/<sequence>/*.png   as published: 0 and 255
    sequences.tsv                                      sequence, tab, noun of its object

The object's pixels are labelled with the noun. The rest is ignored unless background words teach
negatively: the masks mark one object, and another car behind the marked one is background in them.
So a run needs a second data set from which it learns where the nouns are not.
"""

from __future__ import annotations

from pathlib import Path

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.label_files import Items, class_word, paired, read_text
from dedos_deploy.training.folders import LabelFolder, read_credits

NOUNS = "sequences.tsv"

_LAYOUTS: tuple[tuple[str, str, tuple[int, int] | None], ...] = (
    ("images", "labels", None),
    ("JPEGImages/480p", "Annotations/480p", (0, 255)),
)
"""Folder of images, folder of masks, and the values of background and object in them."""


def is_davis(root: Path) -> bool:
    """Whether a folder can be nothing else: it has nouns and no split called train."""
    return (root / NOUNS).is_file() and not (root / "images" / "train").is_dir()


def davis_splits(root: Path) -> tuple[str, ...]:
    """Return the splits: `train` is all sequences, and every sequence is one by its name.

    There is no `val`: with one word known per image, an IoU would always be 1.
    """
    return "train", *_read_nouns(root)


def open_davis(root: Path, split: str, background: int) -> list[LabelFolder]:
    """Return one folder per noun, as each image knows about its own noun only.

    split: `train` or the name of a sequence; background: label of what is not the object.

    Raises BadInputError naming the first thing that is missing.
    """
    nouns = _read_nouns(root)
    if split != "train" and split not in nouns:
        raise BadInputError(
            f"{root} has no sequence {split!r}{nearest(split, nouns)}; its splits are train and "
            f"{', '.join(nouns)}"
        )
    images, labels, values = _layout(root)
    items: dict[str, Items] = {}
    for sequence in nouns if split == "train" else (split,):
        for folder in (images / sequence, labels / sequence):
            if not folder.is_dir():
                raise BadInputError(
                    f"{NOUNS} of {root} names {sequence!r}, but {str(folder)!r} does not exist; "
                    "add it or remove that line"
                )
        noun = nouns[sequence]
        items[noun] = items.get(noun, ()) + paired(images / sequence, labels / sequence)
    credits = read_credits(root)
    return [
        LabelFolder(f"{root.name} {noun}", (None, noun), of_noun, background, 1.0, credits, values)
        for noun, of_noun in items.items()
    ]


def _layout(root: Path) -> tuple[Path, Path, tuple[int, int] | None]:
    for images, labels, values in _LAYOUTS:
        if (root / images).is_dir():
            return root / images, root / labels, values
    raise BadInputError(
        f"{root} has neither {' nor '.join(images for images, _, _ in _LAYOUTS)}; unpack "
        "DAVIS-data.zip of davischallenge.org (DAVIS 2016) there"
    )


def _read_nouns(root: Path) -> dict[str, str]:
    path = root / NOUNS
    if not path.is_file():
        raise BadInputError(
            f"{str(path)!r} is missing; write a line for each sequence: its folder's name, a tab, "
            "and a noun for the object"
        )
    nouns: dict[str, str] = {}
    for number, line in enumerate(
        read_text(
            path, advice="it has a line for each sequence: its folder, a tab, and a noun"
        ).splitlines(),
        1,
    ):
        if not line.strip():
            continue
        sequence, _, noun = line.partition("\t")
        if not class_word(noun):
            raise BadInputError(
                f"{str(path)!r} line {number} has no noun; write the sequence, a tab and the noun"
            )
        nouns[sequence.strip()] = class_word(noun)
    if not nouns:
        raise BadInputError(f"{str(path)!r} is empty; name a sequence and its noun in each line")
    return nouns
