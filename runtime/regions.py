"""Connected regions of a label map and their outlines.

A run is a longest piece of a row with one id. Runs of neighbouring rows that touch, corners counted, are
joined; a frame has some thousands of them where it has hundreds of thousands of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.runtime.arguments import as_finite

_Ints = NDArray[np.int64]
_Contour = NDArray[Any]


@dataclass(frozen=True)
class Region:
    """Pixels of one class that hang together, corners counted."""

    name: str
    """Of the class."""

    class_id: int
    """What its pixels are in the label map."""

    area: int
    """Pixels."""

    box_xyxy: tuple[int, int, int, int]
    """Smallest box around them: first column and row, and the first ones beyond it."""

    centroid_xy: tuple[float, float]
    """Mean column and row; the centre of the top left pixel is (0, 0)."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """Outline of a region, through the centres of its own border pixels, and outlines of its holes.

    At tolerance 0, `cv2.fillPoly` of the exterior without the insides of the holes is the region.
    """

    name: str
    """Of the class."""

    class_id: int
    """What its pixels are in the label map."""

    exterior_xy: NDArray[np.int32]
    """int32 [N, 2] columns and rows; fewer than 3 points where the region is a dot or a line."""

    holes_xy: tuple[NDArray[np.int32], ...]
    """The same of every hole, through the centres of the region's pixels around it."""


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of equal ids in reading order: where each begins and ends in the flat map."""

    ids: NDArray[Any]
    starts: _Ints
    lengths: _Ints
    width: int


def regions_of(
    label_map: NDArray[Any], names: Sequence[str], class_ids: Sequence[int], *, min_area: int = 1
) -> tuple[Region, ...]:
    """Return the regions of some classes, the largest first, equal ones in reading order.

    label_map: uint8 or uint16 [H, W]; names: of every id; class_ids: which of them; min_area: pixels
    of the smallest that counts. Raises BadInputError for a `min_area` below 1.
    """
    _check_min_area(min_area)
    runs = _runs(label_map)
    component = _joined(len(runs.starts), *_touching(runs))
    order = np.argsort(component, kind="stable")
    first = np.flatnonzero(np.diff(component[order], prepend=-1))
    rows, columns = np.divmod(runs.starts[order], runs.width)
    lengths = runs.lengths[order]
    area = np.add.reduceat(lengths, first)
    ids = runs.ids[order[first]]
    wanted = np.flatnonzero(np.isin(ids, class_ids) & (area >= min_area))
    boxes = _boxes(columns, rows, lengths, first)
    # Of a run, columns add up to its length times the column in its middle.
    across = np.add.reduceat(lengths * (2 * columns + lengths - 1), first) / (2 * area)
    down = np.add.reduceat(lengths * rows, first) / area
    return tuple(
        Region(
            names[int(ids[index])],
            int(ids[index]),
            int(area[index]),
            boxes[index],
            (float(across[index]), float(down[index])),
        )
        for index in wanted[np.argsort(-area[wanted], kind="stable")]
    )


def polygons_of(
    label_map: NDArray[Any],
    names: Sequence[str],
    class_ids: Sequence[int],
    *,
    tolerance: float = 0.0,
    min_area: int = 1,
) -> tuple[Polygon, ...]:
    """Return the outlines of the regions of some classes, in the classes' order.

    tolerance: pixels that an outline may be off (Ramer-Douglas-Peucker), 0 for exact; the rest as
    `regions_of`. Raises BadInputError for a negative tolerance or a `min_area` below 1.
    """
    pixels = as_finite(tolerance)
    if pixels is None or pixels < 0:
        raise BadInputError(f"tolerance is 0 or more pixels, not {shown(tolerance)}")
    _check_min_area(min_area)
    pixels = min(pixels, float(sum(label_map.shape)))  # OpenCV refuses what is astronomical
    boxes = _boxes_of_ids(_runs(label_map))
    return tuple(
        Polygon(
            names[class_id],
            class_id,
            _simplified(exterior, pixels),
            tuple(_simplified(hole, pixels) for hole in holes),
        )
        for class_id in class_ids
        if class_id in boxes
        for exterior, holes in _outlines(label_map, class_id, boxes[class_id])
        if _is_large(exterior, holes, min_area)
    )


def _check_min_area(min_area: float) -> None:
    pixels = as_finite(min_area)
    if pixels is None or pixels < 1:
        raise BadInputError(f"min_area is at least 1 pixel, not {shown(min_area)}")


def _boxes(
    columns: _Ints, rows: _Ints, lengths: _Ints, first: _Ints
) -> list[tuple[int, int, int, int]]:
    """Return the boxes around groups of runs: left, top, and the ends beyond.

    columns, rows: where the runs begin, group by group; first: which run is the first of each.
    """
    sides = (
        np.minimum.reduceat(columns, first),
        np.minimum.reduceat(rows, first),
        np.maximum.reduceat(columns + lengths, first),
        np.maximum.reduceat(rows, first) + 1,
    )
    return list(zip(*(side.tolist() for side in sides), strict=True))


def _boxes_of_ids(runs: _Runs) -> dict[int, tuple[int, int, int, int]]:
    """Return the box around all pixels of each id."""
    order = np.argsort(runs.ids, kind="stable")
    ids = runs.ids[order]
    first = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    rows, columns = np.divmod(runs.starts[order], runs.width)
    boxes = _boxes(columns, rows, runs.lengths[order], first)
    return dict(zip(ids[first].tolist(), boxes, strict=True))


def _outlines(
    label_map: NDArray[Any], class_id: int, box_xyxy: tuple[int, int, int, int]
) -> Iterator[tuple[_Contour, list[_Contour]]]:
    """Yield the exact outline of every region of an id, and those of its holes, int32 [N, 1, 2]."""
    import cv2

    left, top, right, bottom = box_xyxy
    mask = (label_map[top:bottom, left:right] == class_id).view(np.uint8)
    contours, hierarchy = cv2.findContours(
        mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
    )
    parents = hierarchy[0, :, 3].tolist()
    inner: dict[int, list[_Contour]] = {}
    for index, parent in enumerate(parents):
        inner.setdefault(parent, []).append(contours[index])
    for index, parent in enumerate(parents):
        if parent < 0:
            yield contours[index], inner.get(index, [])


def _is_large(exterior: _Contour, holes: Sequence[_Contour], min_area: int) -> bool:
    import cv2

    _, _, width, height = cv2.boundingRect(exterior)
    if min_area <= 1 or width * height < min_area:
        return min_area <= 1
    # Outlines through centres enclose less than the pixels' squares do, and holes more.
    least = cv2.contourArea(exterior) - sum(map(cv2.contourArea, holes))
    return least >= min_area or _area(exterior, holes) >= min_area


def _area(exterior: _Contour, holes: Sequence[_Contour]) -> int:
    """Return the pixels of a region from its exact outlines (Pick's theorem).

    Both kinds of outline run through pixels of the region: those on the exterior are inside, those on a
    hole's are not in the hole.
    """
    inside = _lattice(exterior, border=1)
    return inside - sum(_lattice(hole, border=-1) for hole in holes)


def _lattice(contour: _Contour, *, border: int) -> int:
    """Return the pixels within a closed outline, those on it counted (1) or not (-1)."""
    import cv2

    steps = np.abs(np.diff(contour[:, 0], axis=0, append=contour[:1, 0])).max(axis=1)
    return round(float(cv2.contourArea(contour) + border * steps.sum() / 2 + 1))


def _simplified(contour: _Contour, tolerance: float) -> NDArray[np.int32]:
    import cv2

    if tolerance:
        contour = cv2.approxPolyDP(contour, tolerance, closed=True)
    return contour.reshape(-1, 2)


def _runs(label_map: NDArray[Any]) -> _Runs:
    width = label_map.shape[1]
    flat = np.ascontiguousarray(label_map).reshape(-1)
    begins = np.empty(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[::width] = True
    starts = np.flatnonzero(begins)
    return _Runs(flat[starts], starts, np.diff(starts, append=flat.size), width)


def _touching(runs: _Runs) -> tuple[_Ints, _Ints]:
    """Return pairs of runs of one id in neighbouring rows that share a side or a corner."""
    # Where two runs touch, one of them begins at, or one column after, a column of the other.
    size = int(runs.starts[-1] + runs.lengths[-1])
    own = np.arange(len(runs.starts))
    inner = np.flatnonzero(runs.starts % runs.width)
    corners = runs.starts[inner] - 1
    places = (runs.starts, corners)
    mine, queries = [], []
    for who, place in zip((own, inner), places, strict=True):
        above = np.searchsorted(place, runs.width)
        below = np.searchsorted(place, size - runs.width)
        mine += [who[above:], who[:below]]
        queries += [place[above:] - runs.width, place[:below] + runs.width]
    first = np.concatenate(mine)
    second = np.searchsorted(runs.starts, np.concatenate(queries), side="right") - 1
    same = runs.ids[first] == runs.ids[second]
    return first[same], second[same]


def _joined(count: int, first: _Ints, second: _Ints) -> _Ints:
    """Return the component of each of `count` items that pairs join, numbered in their order."""
    parent = np.arange(count)
    while len(first):
        # Of several pairs with one root any may hook it now; the others come again.
        parent[np.maximum(first, second)] = np.minimum(first, second)
        grand = parent[parent]
        while not np.array_equal(grand, parent):
            parent, grand = grand, grand[grand]
        first, second = parent[first], parent[second]
        apart = first != second
        first, second = first[apart], second[apart]
    roots = parent == np.arange(count)
    return (np.cumsum(roots) - 1)[parent]
