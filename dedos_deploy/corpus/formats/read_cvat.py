"""CVAT for images 1.1, as CVAT exports it: polygons and masks, read from a stream, picture by picture.

Nobody's entities are followed: a file with a document type, which CVAT never writes, is refused before any of
its declarations are read, so that none can grow or reach for files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import ParseError, XMLParser

import numpy as np

from dedos_deploy.corpus.formats.annotations import (
    AnnotatedPicture,
    Annotations,
    Mask,
    Place,
    Shape,
    counted,
    decoded,
    polygon_mask,
    size_of,
    text_of,
    whole,
)
from dedos_deploy.corpus.formats.run_lengths import DamagedRunsError, mask_from_run_lengths
from dedos_deploy.errors import BadInputError
from dedos_deploy.files import open_regular

_CHUNK = 1 << 20
_LEFT_OUT = ("box", "cuboid", "ellipse", "points", "polyline", "skeleton", "tag")
_LABELS = {
    ("annotations", "meta", owner, "labels", "label", "name")
    for owner in ("job", "project", "task")
}


Draw = Callable[[], Mask]


def read_cvat(path: Path) -> Annotations:
    """Return what a file of CVAT holds; pictures are read as they are asked for. Raises BadInputError."""
    reader = _Reader(path)
    pictures = reader.pictures()
    # What the labels are called stands before the first picture.
    first = next(pictures, None)
    return Annotations(
        tuple(dict.fromkeys(reader.labels)), _chained(first, pictures), reader.left_out
    )


def _chained(
    first: AnnotatedPicture | None, others: Iterator[AnnotatedPicture]
) -> Iterator[AnnotatedPicture]:
    if first is not None:
        yield first
    yield from others


class _Reader:
    """A target of the XML parser that gathers pictures."""

    def __init__(self, path: Path) -> None:
        self.labels: list[str] = []
        self.left_out: dict[str, int] = {}
        self._path = path
        self._open: list[str] = []
        self._text: list[str] = []
        self._image: Mapping[str, str] = {}
        self._place = Place(path, "the file")
        self._shapes: list[Shape] = []
        self._done: deque[AnnotatedPicture] = deque()

    def pictures(self) -> Iterator[AnnotatedPicture]:
        """Yield the pictures of the file."""
        parser = XMLParser(target=self)
        try:
            with open_regular(self._path) as file:
                for chunk in _chunks(file):
                    parser.feed(chunk)
                    while self._done:
                        yield self._done.popleft()
            parser.close()
        except BadInputError:
            raise
        except (ParseError, LookupError, ValueError) as error:  # the latter for unknown encodings
            raise BadInputError(
                f"annotations {str(self._path)!r} are no XML ({error}); give the annotations.xml of "
                "'CVAT for images 1.1', out of its ZIP"
            ) from error
        except OSError as error:
            raise BadInputError(
                f"annotations {str(self._path)!r} cannot be read ({error.strerror})"
            ) from error

    # What the parser calls.

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise self._place.refused("has a document type, which CVAT never writes")

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if not self._open and tag != "annotations":
            raise self._place.refused(f"is no file of CVAT: it begins with <{tag[:40]}>")
        self._open.append(tag)
        self._text = []
        if len(self._open) == 2 and tag == "track":
            raise self._place.refused("has tracks; export it as 'CVAT for images 1.1'")
        if len(self._open) == 2 and tag == "image":
            self._begin_image(attributes)
        elif len(self._open) == 3 and self._open[1] == "image":
            self._take(tag, attributes)

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        if tuple(self._open) in _LABELS:
            self.labels.append(text_of("".join(self._text), "name of a label", self._place))
        if len(self._open) == 2 and tag == "image":
            self._done.append(AnnotatedPicture(self._image["name"], self._size_hw, self._shapes))
            self._place = Place(self._path, "the file")
        self._open.pop()

    def close(self) -> None:
        pass

    def _begin_image(self, attributes: Mapping[str, str]) -> None:
        name = text_of(attributes.get("name"), "name of a picture", self._place)
        self._place = Place(self._path, f"image {name!r}")
        self._image, self._shapes = attributes, []
        self._size_hw = size_of(attributes.get("width"), attributes.get("height"), self._place)

    def _take(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag in _LEFT_OUT:
            counted(self.left_out, {"box": "boxes"}.get(tag, f"{tag} shapes"))
        elif tag in ("polygon", "mask"):
            label = text_of(attributes.get("label"), "label of a shape", self._place)
            layer = whole(attributes.get("z_order", "0"))
            if layer is None:
                raise self._place.refused("has a shape whose z_order is no whole number")
            draw = self._polygon(attributes) if tag == "polygon" else self._mask(attributes)
            self._shapes.append(Shape(label, draw, layer))

    def _polygon(self, attributes: Mapping[str, str]) -> Draw:
        place, size_hw = self._place, self._size_hw
        text = attributes.get("points", "").replace(";", ",")
        numbers = [_number(part) for part in text.split(",")]
        return lambda: polygon_mask([numbers], size_hw, place)

    def _mask(self, attributes: Mapping[str, str]) -> Draw:
        place, size_hw = self._place, self._size_hw
        sides = [whole(attributes.get(key)) for key in ("left", "top", "width", "height")]
        runs = attributes.get("rle", "")
        return decoded(lambda: _placed_mask(runs, sides, size_hw), place)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _placed_mask(runs: str, sides: list[int | None], size_hw: tuple[int, int]) -> Mask:
    left, top, width, height = sides
    if left is None or top is None or width is None or height is None:
        raise DamagedRunsError("its box has no whole numbers")
    if min(left, top, width, height) < 0 or left + width > size_hw[1] or top + height > size_hw[0]:
        raise DamagedRunsError("its box is not within the picture")
    lengths = [length for part in runs.split(",") if (length := whole(part)) is not None]
    if len(lengths) < 1 + runs.count(","):
        raise DamagedRunsError("its rle is no list of whole numbers")
    found = np.zeros(size_hw, np.bool_)
    found[top : top + height, left : left + width] = mask_from_run_lengths(lengths, (height, width))
    return found


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
