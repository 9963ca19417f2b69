"""COCO instances, as pycocotools, CVAT and many others write them: polygons, and both kinds of RLE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    whole,
)
from dedos_deploy.corpus.formats.json_file import read_json
from dedos_deploy.corpus.formats.run_lengths import (
    DamagedRunsError,
    coco_run_lengths,
    mask_from_run_lengths,
)


def read_coco(path: Path) -> Annotations:
    """Return what a COCO file holds. Raises BadInputError."""
    top = Place(path, "the file")
    values = record(read_json(path), top)
    if "segments_info" in str(items(values, "annotations", top)[:1]):
        raise top.refused("is of COCO panoptic, and instances are read")
    names = _categories(values, path)
    left_out: dict[str, int] = {}
    return Annotations(
        tuple(dict.fromkeys(names.values())), _pictures(values, path, names, left_out), left_out
    )


def _categories(values: dict[str, Any], path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for number, one in enumerate(items(values, "categories", Place(path, "the file"))):
        place = Place(path, f"category {number}")
        entry = record(one, place)
        found[_id(entry, "id", place)] = text_of(entry.get("name"), "name", place)
    return found


def _id(entry: dict[str, Any], key: str, place: Place) -> int:
    number = whole(entry.get(key))
    if number is None:
        raise place.refused(f"has no whole number {key!r}")
    return number


def _pictures(
    values: dict[str, Any], path: Path, names: dict[int, str], left_out: dict[str, int]
) -> Iterator[AnnotatedPicture]:
    images: dict[int, dict[str, Any]] = {}
    for number, one in enumerate(items(values, "images", Place(path, "the file"))):
        place = Place(path, f"image {number}")
        entry = record(one, place)
        images[_id(entry, "id", place)] = entry
    shapes_of: dict[int, list[dict[str, Any]]] = {key: [] for key in images}
    for number, one in enumerate(items(values, "annotations", Place(path, "the file"))):
        place = Place(path, f"annotation {number}")
        entry = record(one, place)
        image = _id(entry, "image_id", place)
        if image not in shapes_of:
            raise place.refused(f"is of image {image}, which is not listed")
        if _id(entry, "category_id", place) not in names:
            raise place.refused(f"has category {entry['category_id']}, which is not listed")
        shapes_of[image].append(entry)
    for key, entry in images.items():
        name = text_of(entry.get("file_name"), "file_name", Place(path, f"image {key}"))
        place = Place(path, f"image {name!r}")
        size = size_of(entry.get("width"), entry.get("height"), place)
        shapes = _shapes(shapes_of[key], size, names, place, left_out)
        yield AnnotatedPicture(name, size, list(shapes))


def _shapes(
    entries: list[dict[str, Any]],
    size_hw: tuple[int, int],
    names: dict[int, str],
    place: Place,
    left_out: dict[str, int],
) -> Iterator[Shape]:
    for entry in entries:
        segmentation = entry.get("segmentation")
        if not segmentation:
            counted(left_out, "annotations without a segmentation")
            continue
        label = names[_id(entry, "category_id", place)]
        yield Shape(label, _drawing(segmentation, size_hw, place))


def _drawing(segmentation: object, size_hw: tuple[int, int], place: Place) -> Callable[[], Mask]:
    if isinstance(segmentation, list):
        return lambda: polygon_mask(segmentation, size_hw, place)
    runs = record(segmentation, place)
    if runs.get("size") != list(size_hw):
        raise place.refused("has an RLE of another size than its own")
    return decoded(lambda: _decoded_runs(runs.get("counts"), size_hw), place)


def _decoded_runs(counts: object, size_hw: tuple[int, int]) -> Mask:
    lengths = coco_run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(isinstance(one, int) for one in lengths):
        raise DamagedRunsError("its counts are neither a text nor a list of numbers")
    # One column after the other.
    return np.ascontiguousarray(mask_from_run_lengths(lengths, size_hw[::-1]).T)
