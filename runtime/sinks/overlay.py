"""Overlays: the frame tinted by class, with a legend."""

from __future__ import annotations

import threading
import unicodedata
from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.palette import class_colour_bgr, palette_bgr

OPACITY = 0.5
LEGEND_HEIGHT = 0.035
"""Height of a legend line as a fraction of the frame's height."""
SMALLEST_LINE = 14
"""Pixels; below this the letters cannot be read."""
KEPT = 2
"""Overlays that are kept, for sinks that are not at the same result."""
FONT_UNIT = 22.0
"""Pixels that a letter of OpenCV's Hershey font takes at scale 1."""


class OverlayPainter:
    """Paints overlays, once per result however many sinks want it, from any thread.

    opacity: how much of the class colour covers the frame, in [0, 1]. Unlabelled pixels stay as
    they are.
    """

    def __init__(self, opacity: float = OPACITY) -> None:
        if not 0.0 <= opacity <= 1.0:
            raise BadInputError(f"opacity must lie in [0, 1], not {opacity}")
        self._opacity = opacity
        self._lock = threading.Lock()
        self._painted: deque[tuple[Segmentation, NDArray[np.uint8]]] = deque(maxlen=KEPT)

    def paint(self, frame_bgr: NDArray[np.uint8], result: Segmentation) -> NDArray[np.uint8]:
        """Return the overlay uint8 [H, W, 3]; it is shared, do not write to it."""
        with self._lock:
            for known, overlay in self._painted:
                if known is result:
                    return overlay
            overlay = tint(frame_bgr, result, self._opacity)
            draw_legend(overlay, result)
            self._painted.append((result, overlay))
            return overlay


def tint(
    frame_bgr: NDArray[np.uint8],
    result: Segmentation,
    opacity: float,
    *,
    colours_bgr: Mapping[int, tuple[int, int, int]] | None = None,
) -> NDArray[np.uint8]:
    """Return `frame_bgr` with every labelled pixel mixed with its class colour.

    colours_bgr: colours of class ids that differ from the palette's.
    """
    import cv2

    # One row more than there are classes: unlabelled pixels index it and are put back after.
    palette = np.concatenate([palette_bgr(len(result.classes)), np.zeros((1, 3), np.uint8)])
    for class_id, colour in (colours_bgr or {}).items():
        if class_id < len(result.classes):
            palette[class_id] = colour
    colours = palette[np.minimum(result.label_map, len(result.classes))]
    mixed = cv2.addWeighted(frame_bgr, 1.0 - opacity, colours, opacity, 0.0)
    unlabelled = (result.label_map == result.none_id).view(np.uint8)
    cv2.copyTo(frame_bgr, unlabelled, mixed)
    return np.asarray(mixed, dtype=np.uint8)


def draw_legend(overlay: NDArray[np.uint8], result: Segmentation) -> None:
    """Draw a box into `overlay` with the classes that occur, most pixels first.

    Lines that do not fit are summed up as "+ n more". Letters outside ASCII are written without
    their accents, or as `?`: OpenCV's fonts have no others.
    """
    import cv2

    height, width = overlay.shape[:2]
    line = max(SMALLEST_LINE, round(LEGEND_HEIGHT * height))
    entries = legend_entries(result, most=max(0, (height - line) // line))
    scale, thickness = 0.7 * line / FONT_UNIT, max(1, round(line / 20))
    font = cv2.FONT_HERSHEY_SIMPLEX
    widths = [cv2.getTextSize(text, font, scale, thickness)[0][0] for text, _ in entries]
    if not entries or max(widths) + 2 * line > width:
        return
    margin = line // 4
    right, bottom = max(widths) + line + 3 * margin, len(entries) * line + 2 * margin
    overlay[margin:bottom, margin:right] //= 4
    for row, (text, colour) in enumerate(entries):
        top = margin + row * line + margin
        if colour is not None:
            corner = 2 * margin, top
            opposite = 2 * margin + line // 2, top + line // 2
            cv2.rectangle(overlay, corner, opposite, colour, cv2.FILLED)
            cv2.rectangle(overlay, corner, opposite, (255, 255, 255), 1)
        origin = 2 * margin + line, top + line // 2 + margin // 2
        cv2.putText(overlay, text, origin, font, scale, (255, 255, 255), thickness, cv2.LINE_AA)


def legend_entries(
    result: Segmentation, *, most: int
) -> list[tuple[str, tuple[int, int, int] | None]]:
    """Return at most `most` legend lines, (text, BGR colour or None)."""
    present = [class_id for class_id in result.class_ids if result.counts[class_id] > 0]
    present.sort(key=lambda class_id: -int(result.counts[class_id]))
    shown = present if len(present) <= most else present[: max(0, most - 1)]
    lines: list[tuple[str, tuple[int, int, int] | None]] = [
        (_ascii(result.classes[class_id]), class_colour_bgr(class_id)) for class_id in shown
    ]
    if len(shown) < len(present) and most > 0:
        lines.append((f"+ {len(present) - len(shown)} more", None))
    return lines


def _ascii(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text)
    letters = "".join(part for part in parts if not unicodedata.combining(part))
    return letters.encode("ascii", "replace").decode("ascii")
