"""Connected regions of a label map and their outlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.runtime.arguments import as_finite


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


def regions_of(
    label_map: NDArray[Any], names: Sequence[str], class_ids: Sequence[int], *, min_area: int = 1
) -> tuple[Region, ...]:
    """Return the regions of some classes, the largest first, equal ones in reading order.

    label_map: uint8 or uint16 [H, W]; names: of every id; class_ids: which of them; min_area: pixels
    of the smallest that counts. Raises BadInputError for a `min_area` below 1.
    """
    _check_min_area(min_area)
    from dedos_deploy import _native

    measured = _native.connect(np.ascontiguousarray(label_map))
    measured = measured[np.isin(measured[:, 0], class_ids) & (measured[:, 1] >= min_area)]
    measured = measured[np.argsort(-measured[:, 1], kind="stable")]
    return tuple(
        Region(
            names[class_id],
            class_id,
            area,
            (left, top, right, bottom),
            (columns / area, rows / area),
        )
        for class_id, area, left, top, right, bottom, columns, rows in measured.tolist()
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
    from dedos_deploy import _native

    wanted = np.zeros(max(class_ids, default=0) + 1, np.uint8)
    wanted[list(class_ids)] = True
    smallest = math.ceil(min(min_area, label_map.size + 1))
    points, lines = _native.outline(np.ascontiguousarray(label_map), wanted, smallest)
    rows = lines.tolist()
    outlines = [_simplified(points[begin:end], pixels) for _, _, begin, end in rows]
    exteriors = [at for at, (_, is_hole, _, _) in enumerate(rows) if not is_hole]
    ends = [*exteriors, len(rows)][1:]
    polygons = [
        Polygon(names[rows[at][0]], rows[at][0], outlines[at], tuple(outlines[at + 1 : after]))
        for at, after in zip(exteriors, ends, strict=True)
    ]
    return tuple(sorted(polygons, key=lambda polygon: class_ids.index(polygon.class_id)))


def _check_min_area(min_area: float) -> None:
    pixels = as_finite(min_area)
    if pixels is None or pixels < 1:
        raise BadInputError(f"min_area is at least 1 pixel, not {shown(min_area)}")


def _simplified(outline: NDArray[np.int32], tolerance: float) -> NDArray[np.int32]:
    """Return an outline of its own memory, int32 [N, 2], within a tolerance of one."""
    import cv2

    if not tolerance:
        return np.array(outline)
    simple = cv2.approxPolyDP(outline, tolerance, closed=True)
    return simple.reshape(-1, 2).astype(np.int32, copy=False)
