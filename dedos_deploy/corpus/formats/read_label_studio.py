"""Label Studio's JSON export: brushes and polygons of the annotations that people submitted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from dedos_deploy.corpus.formats.annotations import (
    AnnotatedPicture,
    Annotations,
    Mask,
    Place,
    Shape,
    counted,
    decoded,
    items,
    polygon_mask,
    record,
    size_of,
    text_of,
)
from dedos_deploy.corpus.formats.json_file import read_json
from dedos_deploy.corpus.formats.label_studio import NAME
from dedos_deploy.corpus.formats.run_lengths import mask_from_brush

# An uploaded file gets eight digits before its name.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")


def read_label_studio(path: Path) -> Annotations:
    """Return what an export of Label Studio holds; predictions are not taken over. Raises BadInputError."""
    values = read_json(path)
    place = Place(path, "the file")
    if not isinstance(values, list):
        raise place.refused("is no list of tasks; it is to be exported as JSON")
    left_out: dict[str, int] = {}
    pictures = []
    for number, value in enumerate(values, 1):
        place = Place(path, f"task {number}")
        found = _picture(record(value, place), place, left_out)
        if found is not None:
            pictures.append(found)
    labels = (shape.label for picture in pictures for shape in picture.shapes)
    return Annotations(tuple(dict.fromkeys(labels)), pictures, left_out)


def _picture(
    task: dict[str, Any], place: Place, left_out: dict[str, int]
) -> AnnotatedPicture | None:
    data = record(task.get("data"), place)
    name = _name(data, place)
    place = Place(place.file, f"the task of {name!r}")
    submitted = [
        one
        for value in items(task, "annotations", place)
        if not (one := record(value, place)).get("was_cancelled")
    ]
    if not submitted:
        counted(left_out, "tasks that nobody submitted")
        return None
    for _ in submitted[1:]:
        counted(left_out, "annotations of pictures that have a later one")
    results = [record(one, place) for one in items(submitted[-1], "result", place)]
    shapes, sizes = [], set()
    for result in results:
        value = result.get("value")
        if not isinstance(value, dict) or not {"rle", "points"} & set(value):
            counted(left_out, f"results of the kind {str(result.get('type'))[:40]!r}")
            continue
        size = size_of(result.get("original_width"), result.get("original_height"), place)
        sizes.add(size)
        if len(sizes) > 1 or result.get("image_rotation"):
            raise place.refused("was turned while it was annotated, or has shapes of several sizes")
        shapes.append(Shape(_label(result, value, place), _drawing(value, size, place)))
    return AnnotatedPicture(name, sizes.pop() if sizes else None, shapes)


def _name(data: dict[str, Any], place: Place) -> str:
    """Return the name of a task's picture: our own, or the end of its address."""
    if NAME in data:
        return text_of(data[NAME], f"text {NAME!r}", place)
    address = text_of(data.get("image"), "address 'image' in its data", place)
    path = unquote(address.rpartition("?d=")[2])
    name = path.rpartition("/")[2]
    return _UPLOADED.sub("", name) if "/upload/" in path else name


def _label(result: dict[str, Any], value: dict[str, Any], place: Place) -> str:
    kind = result.get("type")
    labels = value.get(kind) if isinstance(kind, str) else None
    if not isinstance(labels, list) or len(labels) != 1:
        raise place.refused("has a shape that has not one label")
    return text_of(labels[0], "label of a shape", place)


def _drawing(value: dict[str, Any], size_hw: tuple[int, int], place: Place) -> Callable[[], Mask]:
    if "rle" in value:
        rle = value["rle"]
        return decoded(lambda: mask_from_brush(rle, size_hw), place)
    return lambda: polygon_mask([_in_pixels(value["points"], size_hw, place)], size_hw, place)


def _in_pixels(points: object, size_hw: tuple[int, int], place: Place) -> list[float]:
    """Return x, y, x, y, … in pixels; Label Studio has points in percent of the picture's sides."""
    height, width = size_hw
    try:
        percents = np.asarray(points, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise place.refused("has a polygon whose points are no numbers") from None
    found: list[float] = (percents * (width, height) / 100).ravel().tolist()
    return found
