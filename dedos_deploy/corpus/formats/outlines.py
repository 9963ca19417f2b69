"""Outlines of a frame's regions as formats take them, and what their readers make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.corpus.formats.contract import ExportFrame, Labels, Task
from dedos_deploy.errors import require
from dedos_deploy.runtime.regions import polygons_of

Points = NDArray[np.float64]
"""float64 [N, 2], N at least 3: columns and rows."""

TOLERANCE = 0.5
"""Pixels that polygons may be off where none is asked for: at 1, things two pixels wide are halved."""

_FEWEST_POINTS = 3
_INSET = 0.25


@dataclass(frozen=True, eq=False)
class Outline:
    """The outer edge of one connected region; its holes are lost."""

    class_index: int
    """Of the exported classes."""

    points_xy: Points
    """In pixels, the top left corner of the picture at (0, 0)."""

    area: float
    """That it encloses, in pixels."""


def filled(outlines: Iterable[Points], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return, bool [H, W], the pixels whose middle lies within outlines, as COCO's tools fill them."""
    masks = require("pycocotools.mask", extra="formats", purpose="polygons")
    flat = [points.ravel().tolist() for points in outlines]
    runs = masks.merge(masks.frPyObjects(flat, *size_hw))
    return np.asarray(masks.decode(runs), np.bool_)


def drawn(outlines: Iterable[Points], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return, bool [H, W], what OpenCV fills: the pixels that outlines go through belong to them, too."""
    import cv2

    canvas = np.zeros(size_hw, np.uint8)
    for points in outlines:
        cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
    return canvas.view(np.bool_)


def edge_outlines(frame: ExportFrame, task: Task) -> list[Outline]:
    """Return outlines along the outer edges of pixels, the largest first, and count what they lose.

    For readers that take the pixels whose middle lies within, as pycocotools, CVAT and Label Studio.
    """
    # The picture at twice its size has the middles of its pixels a quarter of a pixel within the edges.
    twice = np.repeat(np.repeat(frame.labels, 2, axis=0), 2, axis=1)
    found = _outlines(twice, task, scale=2)
    moved = [Outline(one.class_index, (one.points_xy + 0.5) / 2, one.area / 4) for one in found]
    return _counted(moved, frame, task, filled)


def centre_outlines(frame: ExportFrame, task: Task) -> list[Outline]:
    """Return outlines through the middles of border pixels, the largest first, and count what they lose.

    For readers that draw with OpenCV, as those of YOLO's files. A quarter of a pixel is added: then the
    pixel is the same whether they cut off or round.
    """
    found = _outlines(frame.labels, task, scale=1)
    moved = [Outline(one.class_index, one.points_xy + _INSET, one.area) for one in found]
    return _counted(moved, frame, task, drawn)


def _outlines(labels: Labels, task: Task, *, scale: int) -> list[Outline]:
    import cv2

    given = task.settings.tolerance
    polygons = polygons_of(
        labels,
        [one.name for one in task.classes],
        range(len(task.classes)),
        tolerance=scale * (TOLERANCE if given is None else given),
    )
    found = [
        Outline(one.class_id, _closed(one.exterior_xy), cv2.contourArea(one.exterior_xy))
        for one in polygons
    ]
    return sorted(found, key=lambda outline: -outline.area)


def _closed(points: NDArray[np.int32]) -> Points:
    """Return at least three points: a dot or a line goes there and back."""
    missing = max(0, _FEWEST_POINTS - len(points))
    return np.concatenate([points, np.repeat(points[-1:], missing, axis=0)]).astype(np.float64)


def _counted(
    outlines: list[Outline],
    frame: ExportFrame,
    task: Task,
    read: Callable[[Iterable[Points], tuple[int, int]], NDArray[np.bool_]],
) -> list[Outline]:
    for class_index in sorted({one.class_index for one in outlines}):
        own = [one.points_xy for one in outlines if one.class_index == class_index]
        height, width = frame.labels.shape
        seen = read(own, (height, width))
        task.losses.count(class_index, frame.name, frame.labels == class_index, seen)
    return outlines
