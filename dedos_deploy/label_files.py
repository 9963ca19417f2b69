"""Files of labelled data: class lists, splits, and an image with its label image.

A plain label folder has `images/<split>/*.jpg`, `labels/<split>/*.png` and `classes.txt`, which may
also lie beside the labels of a split, where `dedos-run --output masks:FOLDER` puts it. A label image
has 8 or 16 bits per pixel, the line number in `classes.txt` from 0, and 255 (in 16 bits also 65535)
where nothing is known. Training and evaluation read the same folders through this module.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.borders import foreign
from dedos_deploy.class_files import other_format
from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.files import read_regular
from dedos_deploy.pictures import IMAGE_SUFFIXES, decode_picture, open_turned
from dedos_deploy.vocabulary import canonical_word

UNLABELLED = 255
UNLABELLED_16 = 65535

SIDES_EXCHANGED = 5
"""From this EXIF orientation on a picture's sides are exchanged when it is shown."""

Items = tuple[tuple[Path, Path], ...]

_NO_CLASS = 65534
_TURNS: dict[int, Callable[[NDArray[np.uint16]], NDArray[np.uint16]]] = {
    5: np.transpose,
    6: lambda labels: np.rot90(labels, -1),
    7: lambda labels: np.rot90(labels, 2).T,
    8: np.rot90,
}
"""From stored to shown, by those EXIF orientations that exchange the sides."""

_MAX_TEXT = 16 << 20
_PNG_PALETTE = 3


def class_word(name: str) -> str:
    """Return a class name of a data set as the word that stands for it everywhere.

    >>> class_word(" Traffic_Light")
    'traffic light'
    """
    return canonical_word(name.replace("_", " "))


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the class words of a `classes.txt`, indexed by label value.

    Raises BadInputError for a file that is missing or not UTF-8, and as `parse_classes`.
    """
    text = read_text(path, advice="it names one class per line, the first for label value 0")
    return parse_classes(text, path)


def parse_classes(text: str, path: Path) -> tuple[str, ...]:
    """Return the class words in the text of a `classes.txt`; path: of the file, for messages.

    Raises BadInputError for what looks like another format than a word a line, and for lines that are
    empty, repeated or no text.
    """
    lines = text.rstrip().split("\n")
    other = other_format(lines)
    if other is not None:
        raise BadInputError(
            f"{str(path)!r} looks like {other}, its first line is {shown(lines[0])}; a line holds one "
            "word alone and stands for the label value of its place, the first for 0: write the words "
            "in that order, 'background' or 'void' where a value has no class"
        )
    lines_of: dict[str, int] = {}
    for number, word in enumerate(map(class_word, lines), 1):
        if not word:
            raise BadInputError(f"{str(path)!r} line {number} is empty; every line names a class")
        if word.startswith("#") or any(unicodedata.category(letter) == "Cc" for letter in word):
            raise BadInputError(
                f"{str(path)!r} line {number} is {shown(word)}, which is a comment or no text; every "
                "line names a class"
            )
        first = lines_of.setdefault(word, number)
        if first != number:
            raise BadInputError(f"{str(path)!r} names {word!r} on lines {first} and {number}")
    return tuple(lines_of)


def class_file(root: Path, split: str) -> Path:
    """Return the `classes.txt` of a label folder: its own, or else that beside the labels of `split`."""
    own, beside = root / "classes.txt", root / "labels" / split / "classes.txt"
    return beside if beside.is_file() and not own.exists() else own


def read_text(path: Path, *, advice: str) -> str:
    """Return a text file that a user wrote, with every line break as a line feed.

    advice: what the file should hold. Raises BadInputError for one that is missing, longer than
    16 MiB, no regular file, or not UTF-8.
    """
    try:
        # "utf-8-sig" also accepts the byte order mark that some editors write.
        text = read_regular(path, limit=_MAX_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{str(path)!r} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise BadInputError(f"{str(path)!r} cannot be read ({error.strerror}); {advice}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_items(root: Path, split: str) -> Items:
    """Return image and label file of every item of a split, by name.

    Raises BadInputError naming the first folder or file that is missing.
    """
    images, labels = root / "images" / split, root / "labels" / split
    for folder in (images, labels):
        if not folder.is_dir():
            known = ", ".join(splits(root, folder.parent.name))
            raise BadInputError(
                f"data folder {str(folder)!r} does not exist; splits there: {known or 'none'}"
            )
    return paired(images, labels)


def splits(root: Path, part: str = "images") -> tuple[str, ...]:
    """Return the names of the splits that a label folder has."""
    return tuple(sorted(path.name for path in (root / part).glob("*") if path.is_dir()))


def paired(images: Path, labels: Path, *, all_labelled: bool = True) -> Items:
    """Return every image of one folder with the PNG of its name in the other.

    all_labelled: whether an image without a PNG is an error; otherwise it is left out.

    Raises BadInputError when there is no image, or one without labels.
    """
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise BadInputError(
            f"{str(images)!r} has no {' or '.join(IMAGE_SUFFIXES)} file; put the images there"
        )
    # One listing, not a question per file: a network disk answers those slowly.
    found = {path.stem: path for path in labels.iterdir() if path.suffix.lower() == ".png"}
    missing = [image for image in files if image.stem not in found]
    if missing and (all_labelled or len(missing) == len(files)):
        raise BadInputError(
            f"image {str(missing[0])!r} has no labels "
            f"{str(labels / (missing[0].stem + '.png'))!r}; add them or remove the image"
        )
    return tuple((image, found[image.stem]) for image in files if image.stem in found)


def read_item(
    item: tuple[Path, Path], count: int, values: tuple[int, ...] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Return an image, uint8 BGR [H, W, 3], and its classes, uint16 [H, W].

    count: number of classes; values: what the file holds for each of them, None for 0, 1, 2, ...
    Classes are counted from 0, unlabelled pixels are `unlabelled(count)`.

    Raises BadInputError naming the file that cannot be read, is of another size than its image, or
    holds a value that stands for nothing.
    """
    image, labels = read_values(item)
    return image, _classes(labels, item[1], count, values)


def read_label_classes(
    path: Path, count: int, values: tuple[int, ...] | None = None
) -> NDArray[np.uint16]:
    """Return the classes of a label file without its image, else like `read_item`."""
    return _classes(read_label_values(path), path, count, values)


def _classes(
    labels: NDArray[np.uint16], path: Path, count: int, values: tuple[int, ...] | None
) -> NDArray[np.uint16]:
    classes = _class_of_value(count, values)[labels]
    unknown = classes == _NO_CLASS
    if unknown.any():
        raise BadInputError(_unknown_value(path, int(labels[unknown][0]), count, values))
    return classes


def read_values(item: tuple[Path, Path]) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Return an image, uint8 BGR [H, W, 3], and what its label file holds, uint16 [H, W].

    An image that is turned by its EXIF orientation is turned here, and so are labels that have its
    size as it is stored.

    Raises BadInputError naming the file that cannot be read or is of another size than its image,
    and an image whose orientation leaves open what its labels were drawn on.
    """
    image, orientation = open_turned(item[0])
    labels = read_label_values(item[1])
    shown = image.shape[:2]
    stored = shown[::-1] if orientation >= SIDES_EXCHANGED else shown
    if orientation != 1 and labels.shape == shown == stored:
        raise BadInputError(
            f"picture {str(item[0])!r} has EXIF orientation {orientation}, and its labels may have "
            "been drawn on it as it is stored or as it is shown; store it upright (mogrify "
            "-auto-orient FILE), or, if they fit it as stored, drop the tag (exiftool -Orientation= FILE)"
        )
    if labels.shape == stored != shown:
        return image, _TURNS[orientation](labels)
    if labels.shape != shown:
        raise BadInputError(
            f"labels {str(item[1])!r} are {labels.shape[1]}x{labels.shape[0]}, but their image is "
            f"{image.shape[1]}x{image.shape[0]}; both must have one size"
        )
    return image, labels


def unlabelled(count: int) -> int:
    """Return what `read_item` gives for a pixel of which nothing is known."""
    return UNLABELLED if count <= UNLABELLED else UNLABELLED_16


def read_label_values(path: Path) -> NDArray[np.uint16]:
    """Return what a label image holds, uint16 [H, W]: grey of up to 16 bits, or a palette's indices.

    Raises BadInputError when it cannot be read or is no label image.
    """
    import cv2

    try:
        content = read_regular(path)
    except OSError as error:
        raise BadInputError(f"labels {str(path)!r} cannot be read ({error.strerror})") from error
    labels = decode_picture(
        np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED, name=f"labels {str(path)!r}"
    )
    depth, colour = _png_kind(content)
    if labels is not None and labels.ndim == 3 and colour == _PNG_PALETTE:
        # OpenCV gives the colours of a palette, and what counts are the indices into it.
        labels = _palette_indices(path, content)
    elif labels is not None and depth < 8:
        # OpenCV spreads 1, 2 and 4 bits of grey over 0..255, where class 1 of 2 would read as 255.
        labels = labels // (255 // (2**depth - 1))
    if labels is None or labels.dtype not in (np.uint8, np.uint16) or labels.ndim != 2:
        raise BadInputError(
            f"labels {str(path)!r} are not an 8-bit grey PNG (16 bits, TIFF and palettes are read, too); "
            "convert them"
        )
    return labels.astype(np.uint16)


def _palette_indices(path: Path, content: bytes) -> NDArray[Any]:
    from PIL import Image

    def refusal(reason: str) -> BadInputError:
        return BadInputError(f"labels {str(path)!r} are damaged ({reason}); replace them")

    with foreign(refusal), Image.open(io.BytesIO(content)) as file:
        return np.asarray(file)


def _png_kind(content: bytes) -> tuple[int, int]:
    """Return bits per channel and colour type of a PNG file; (8, 0) of any other."""
    header = content[:26]
    is_png = header[1:4] == b"PNG" and len(header) == 26
    return (header[24], header[25]) if is_png else (8, 0)


@lru_cache(maxsize=16)
def _class_of_value(count: int, values: tuple[int, ...] | None) -> NDArray[np.uint16]:
    """Return uint16 [65536], file value -> class, `unlabelled(count)` or _NO_CLASS."""
    table = np.full(65536, _NO_CLASS, dtype=np.uint16)
    table[[UNLABELLED, UNLABELLED_16]] = unlabelled(count)
    # After the above: where there are more than 255 classes, 255 is one of them.
    table[np.arange(count) if values is None else list(values)] = np.arange(count)
    return table


def _unknown_value(path: Path, value: int, count: int, values: tuple[int, ...] | None) -> str:
    if values is None:
        return (
            f"labels {str(path)!r} hold the value {value}, but classes.txt names {count} classes, "
            f"from 0; {UNLABELLED} means unlabelled"
        )
    return (
        f"labels {str(path)!r} hold the value {value}, which stands for no class of this data set; "
        "they were converted otherwise or are of another release"
    )
