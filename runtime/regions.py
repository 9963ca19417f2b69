"""Connected regions of a label map and their outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.runtime.arguments import as_finite

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


def regions_of(
    label_map: NDArray[Any], names: Sequence[str], class_ids: Sequence[int], *, min_area: int = 1
) -> tuple[Region, ...]:
    """Return the regions of some classes, the largest first, equal ones in reading order.

    label_map: uint8 or uint16 [H, W]; names: of every id; class_ids: which of them; min_area: pixels
    of the smallest that counts. Raises BadInputError for a `min_area` below 1.
    """
    _check_min_area(min_area)
    measured, _ = _connected(label_map, class_ids, min_area)
    measured = measured[np.argsort(-measured[:, 1], kind="stable")]
    return tuple(
        Region(
            names[class_id],
            class_id,
            area,
            (left, top, right, bottom),
            (columns / area, rows / area),
        )
        for class_id, area, left, top, right, bottom, columns, rows in measured[:, :-1].tolist()
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
    measured, region_of_pixel = _connected(label_map, class_ids, min_area)
    outlines = [
        (class_id, *_outline(region_of_pixel, number, (left, top, right, bottom)))
        for class_id, _, left, top, right, bottom, _, _, number in measured.tolist()
    ]
    return tuple(
        Polygon(
            names[class_id],
            class_id,
            _simplified(exterior, pixels),
            tuple(_simplified(hole, pixels) for hole in holes),
        )
        for class_id, exterior, holes in sorted(
            outlines, key=lambda outline: class_ids.index(outline[0])
        )
    )


def _check_min_area(min_area: float) -> None:
    pixels = as_finite(min_area)
    if pixels is None or pixels < 1:
        raise BadInputError(f"min_area is at least 1 pixel, not {shown(min_area)}")


def _connected(
    label_map: NDArray[Any], class_ids: Sequence[int], min_area: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return what `_native.connect` tells of the regions that are asked for, with their numbers in a
    ninth column, and the number of every pixel's region, int32 [H, W]."""
    from dedos_deploy import _native

    region_of_pixel = np.empty(label_map.shape, np.int32)
    measured = _native.connect(np.ascontiguousarray(label_map), region_of_pixel)
    numbers = np.flatnonzero(np.isin(measured[:, 0], class_ids) & (measured[:, 1] >= min_area))
    return np.column_stack([measured[numbers], numbers]), region_of_pixel


def _outline(
    region_of_pixel: NDArray[np.int32], number: int, box_xyxy: tuple[int, int, int, int]
) -> tuple[_Contour, Sequence[_Contour]]:
    """Return the exact outline of a region, and those of its holes, int32 [N, 1, 2]."""
    import cv2

    left, top, right, bottom = box_xyxy
    mask = (region_of_pixel[top:bottom, left:right] == number).view(np.uint8)
    contours, hierarchy = cv2.findContours(
        mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
    )
    if len(contours) == 1:
        return contours[0], ()
    exterior = int(np.flatnonzero(hierarchy[0, :, 3] < 0)[0])
    return contours[exterior], contours[:exterior] + contours[exterior + 1 :]


def _simplified(contour: _Contour, tolerance: float) -> NDArray[np.int32]:
    import cv2

    if tolerance:
        contour = cv2.approxPolyDP(contour, tolerance, closed=True)
    return contour.reshape(-1, 2)
