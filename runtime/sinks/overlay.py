"""Overlays: the frame tinted by class, with a legend."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.legend import legend_beside, legend_inside
from dedos_deploy.runtime.sinks.palette import Colour
from dedos_deploy.spec import LEGENDS, Legend

OPACITY = 0.5
KEPT = 2
"""Overlays that are kept, for sinks that are not at the same result."""
CONTOUR = 1 / 400
"""Width of a contour as a part of the shorter side of the frame, on either side of a border."""
HIDDEN = 0.2
"""Largest part of a class that a legend hides where another corner hides less."""

_Corner = tuple[bool, bool]
"""Whether at the bottom, and at the right."""


class OverlayPainter:
    """Paints overlays, once per result however many sinks want it, from any thread."""

    def __init__(
        self, opacity: float = OPACITY, *, legend: Legend = "on", contours: bool = False
    ) -> None:
        """opacity: how much of the class colour covers the frame, in [0, 1]; unlabelled pixels stay as
        they are. legend: `on` lays it over a corner of the frame, where it hides little of any class
        and where there is room; `beside` makes the picture wider, to stand at its right; `off`.
        contours: draw the borders of the classes, in their colours.

        Raises BadInputError.
        """
        if not 0.0 <= opacity <= 1.0:
            raise BadInputError(f"opacity must lie in [0, 1], not {opacity}")
        if legend not in LEGENDS:
            raise BadInputError(f"a legend is one of {', '.join(LEGENDS)}, not {legend!r}")
        self._opacity = opacity
        self._legend = legend
        self._contours = contours
        self._lock = threading.Lock()
        self._painted: deque[tuple[Segmentation, NDArray[np.uint8]]] = deque(maxlen=KEPT)
        self._corner: tuple[tuple[int, ...], _Corner] | None = None

    def paint(self, frame_bgr: NDArray[np.uint8], result: Segmentation) -> NDArray[np.uint8]:
        """Return the overlay uint8 [H, W, 3], wider with a legend beside it; it is shared, do not write
        to it."""
        with self._lock:
            for known, overlay in self._painted:
                if known is result:
                    return overlay
            overlay = tint(frame_bgr, result, self._opacity)
            if self._contours:
                draw_contours(overlay, result)
            overlay = self._with_legend(overlay, result)
            self._painted.append((result, overlay))
            return overlay

    def _with_legend(self, overlay: NDArray[np.uint8], result: Segmentation) -> NDArray[np.uint8]:
        if self._legend == "beside":
            panel = legend_beside(result)
            return overlay if panel is None else np.hstack([overlay, panel[..., :3]])
        panel = legend_inside(result) if self._legend == "on" else None
        if panel is not None:
            _lay_over(overlay, panel, self._corner_for(panel, result))
        return overlay

    def _corner_for(self, panel: NDArray[np.uint8], result: Segmentation) -> _Corner:
        # Chosen once for a size, so that it stays where it is through a video.
        sizes = result.label_map.shape
        if self._corner is None or self._corner[0] != sizes:
            self._corner = sizes, _quiet_corner(panel, result)
        return self._corner[1]


def tint(
    frame_bgr: NDArray[np.uint8],
    result: Segmentation,
    opacity: float,
    *,
    colours_bgr: Mapping[int, Colour] | None = None,
) -> NDArray[np.uint8]:
    """Return `frame_bgr` with every labelled pixel mixed with its class colour.

    colours_bgr: colours of class ids that differ from the result's.
    """
    import cv2

    colours = _palette(result, colours_bgr)[np.minimum(result.label_map, len(result.classes))]
    mixed = cv2.addWeighted(frame_bgr, 1.0 - opacity, colours, opacity, 0.0)
    unlabelled = (result.label_map == result.none_id).view(np.uint8)
    cv2.copyTo(frame_bgr, unlabelled, mixed)
    return np.asarray(mixed, dtype=np.uint8)


def draw_contours(overlay: NDArray[np.uint8], result: Segmentation) -> None:
    """Draw the borders between classes into `overlay`, on either side in the colour of its class."""
    import cv2

    labels = result.label_map
    border = np.zeros(labels.shape, np.bool_)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    border[1:] |= down
    border[:-1] |= down
    border[:, 1:] |= across
    border[:, :-1] |= across
    side = 2 * max(1, round(CONTOUR * min(labels.shape))) - 1
    wide = cv2.dilate(border.view(np.uint8), np.ones((side, side), np.uint8))
    drawn = (np.asarray(wide) > 0) & (labels != result.none_id)
    overlay[drawn] = _palette(result, None)[labels[drawn]]


def _palette(result: Segmentation, others: Mapping[int, Colour] | None) -> NDArray[np.uint8]:
    """Return the colours of class ids, uint8 [classes + 1, 3]."""
    # One row more than there are classes: unlabelled pixels index it and are put back after.
    palette = np.array([*result.colours_bgr, (0, 0, 0)], np.uint8)
    for class_id, colour in (others or {}).items():
        if class_id < len(result.classes):
            palette[class_id] = colour
    return palette


def _quiet_corner(panel: NDArray[np.uint8], result: Segmentation) -> _Corner:
    """Return the first corner in which a panel hides no more than HIDDEN of any class, or else the
    one in which it hides least."""
    hidden: dict[_Corner, float] = {}
    for corner in ((False, False), (False, True), (True, False), (True, True)):
        covered = result.label_map[_place(result.label_map.shape, panel.shape, corner)]
        counts = np.bincount(covered.ravel(), minlength=len(result.classes))
        shares = counts[: len(result.classes)] / np.maximum(result.counts, 1)
        hidden[corner] = float(shares.max())
        if hidden[corner] <= HIDDEN:
            return corner
    return min(hidden, key=lambda corner: hidden[corner])


def _place(
    whole_hw: tuple[int, ...], panel_hw: tuple[int, ...], corner: _Corner
) -> tuple[slice, slice]:
    margin = min(panel_hw[:2]) // 12
    rows, columns = (
        slice(whole - part - margin, whole - margin) if at_end else slice(margin, margin + part)
        for whole, part, at_end in zip(whole_hw[:2], panel_hw[:2], corner, strict=True)
    )
    return rows, columns


def _lay_over(overlay: NDArray[np.uint8], panel: NDArray[np.uint8], corner: _Corner) -> None:
    place = _place(overlay.shape, panel.shape, corner)
    covers = panel[..., 3:].astype(np.uint16)
    mixed = panel[..., :3] * covers + overlay[place] * (255 - covers)
    overlay[place] = (mixed + 127) // 255
