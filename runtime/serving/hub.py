"""What the page shows and changes: the newest result per camera, its words, its numbers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.runtime.cameras import CameraReport, Fleet
from dedos_deploy.runtime.frames import Frame
from dedos_deploy.runtime.overlay import tint
from dedos_deploy.runtime.palette import class_colour_bgr
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter import Segmenter, SegmenterView
from dedos_deploy.runtime.stages import STALL_S, Work

HISTORY = 240
"""Points of coverage that are kept per camera, one a second."""

HISTORY_EVERY_S = 1.0
JPEG_QUALITY = 80
DEFAULT_OPACITY = 0.5


class Hub:
    """Between a fleet's labelling thread and any number of web requests.

    `on_result` only stores references, so that watching costs the cameras nothing; pictures are
    encoded on the thread that asks, once per result and opacity.
    """

    def __init__(self, segmenter: Segmenter, views: Mapping[str, SegmenterView]) -> None:
        self._segmenter = segmenter
        self._views = dict(views)
        self._fleet: Fleet | None = None
        self._new = threading.Condition()
        self._latest: dict[str, tuple[int, Frame, Segmentation]] = {}
        self._counts = dict.fromkeys(self._views, 0)
        self._history: dict[str, deque[tuple[float, dict[str, float]]]] = {
            name: deque(maxlen=HISTORY) for name in self._views
        }
        self._encoding = threading.Lock()
        self._encoded: dict[str, tuple[int, float, bytes]] = {}
        self._imaging = threading.Lock()

    def watch(self, fleet: Fleet) -> None:
        """Show the numbers of this fleet."""
        self._fleet = fleet

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self._views)

    def on_result(self, name: str, frame: Frame, result: Segmentation) -> None:
        """Take a result; for Fleet."""
        with self._new:
            self._counts[name] += 1
            self._latest[name] = self._counts[name], frame, result
            self._new.notify_all()
        history = self._history[name]
        now_s = time.monotonic()
        if not history or now_s - history[-1][0] >= HISTORY_EVERY_S:
            history.append((now_s, result.coverage))

    def jpeg(
        self, name: str, *, newer_than: int = 0, timeout_s: float = 0.0,
        opacity: float = DEFAULT_OPACITY,
    ) -> tuple[int, bytes] | None:  # fmt: skip
        """Return the number and the overlay of the newest result, None if there is none newer."""
        self.view(name)
        with self._new:
            self._new.wait_for(lambda: self._counts[name] > newer_than, timeout_s)
            found = self._latest.get(name)
        if found is None or found[0] <= newer_than:
            return None
        count, frame, result = found
        with self._encoding:
            kept = self._encoded.get(name)
            if kept is None or kept[:2] != (count, opacity):
                kept = count, opacity, encode_jpeg(tint(frame.frame_bgr, result, opacity))
                self._encoded[name] = kept
        return count, kept[2]

    def view(self, name: str) -> SegmenterView:
        """Return the vocabulary of a camera. Raises BadInputError for an unknown name."""
        if name not in self._views:
            raise BadInputError(
                f"there is no camera {name[:80]!r}{nearest(name, self._views)}; there are "
                f"{', '.join(self._views)}"
            )
        return self._views[name]

    def set_classes(self, name: str, classes: str) -> int:
        """Replace a camera's words from its next frame on; return the vocabulary version."""
        return self.view(name).set_classes(classes)

    def classes(self, name: str) -> dict[str, Any]:
        """Return the words of a camera: version, and per class name, spelling, id and colour."""
        view = self.view(name)
        return {
            "version": view.vocabulary_version,
            "classes": [
                {"name": word, "entry": entry, "id": class_id, "colour": css_colour(class_id)}
                for word, class_id, entry in view.entries
            ],
            "negatives": list(view.negatives),
        }

    def state(self) -> dict[str, Any]:
        """Return all that the page shows besides pictures."""
        reports = {report.name: report for report in self.reports()}
        return {
            "cameras": [
                {
                    "name": name,
                    **(_numbers(reports[name]) if name in reports else {}),
                    "vocabulary": self.classes(name),
                    "history": [
                        {"age_s": time.monotonic() - at_s, "coverage": coverage}
                        for at_s, coverage in list(self._history[name])
                    ],
                }
                for name in self._views
            ]
        }

    def reports(self) -> list[CameraReport]:
        """Return the numbers of all cameras."""
        return [] if self._fleet is None else self._fleet.reports()

    def stalled(self) -> list[Work]:
        """Return what is stuck now."""
        return [] if self._fleet is None else self._fleet.stages.busy_longer_than(STALL_S)

    def segment_image(self, picture: NDArray[np.uint8], classes: str) -> Segmentation:
        """Label one picture with words of its own, between the cameras' frames."""
        with self._imaging:
            # A view of its own per request: ids start from 0, and no camera's words are touched.
            return self._segmenter.share(classes).segment(picture)


def _numbers(report: CameraReport) -> dict[str, Any]:
    results = report.results
    return {
        "state": report.source.state.value,
        "since_s": report.source.since_s,
        "reconnects": report.source.reconnects,
        "error": report.source.error,
        "frames": results.frames,
        "fps": results.fps_now,
        "latency_ms": {"p50": results.latency_p50_ms, "p99": results.latency_p99_ms},
        "age_ms": {"p50": results.age_p50_ms, "p99": results.age_p99_ms},
        "drops": results.drops,
        "outputs": report.outputs,
    }


def css_colour(class_id: int) -> str:
    """Return the colour of a class as CSS has it.

    >>> css_colour(0)
    '#ff2626'
    """
    blue, green, red = class_colour_bgr(class_id)
    return f"#{red:02x}{green:02x}{blue:02x}"


def encode_jpeg(picture_bgr: NDArray[np.uint8]) -> bytes:
    """Return a JPEG of a picture."""
    import cv2

    _, encoded = cv2.imencode(".jpg", picture_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return encoded.tobytes()


def decode_picture(content: bytes, *, most_pixels: int) -> NDArray[np.uint8]:
    """Return the picture in the bytes of a JPEG or PNG, uint8 [H, W, 3].

    Its size is read before it is decoded, so that a small file cannot fill the memory. Raises
    BadInputError.
    """
    import cv2

    size = _size_of(content)
    if size is None:
        raise BadInputError("the body is no JPEG or PNG picture; send one as it is")
    if size[0] * size[1] > most_pixels:
        raise BadInputError(
            f"the picture has {size[0]}x{size[1]} pixels, at most {most_pixels} are allowed; "
            "make it smaller"
        )
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise BadInputError("the picture is damaged; send a whole JPEG or PNG")
    return np.asarray(picture, np.uint8)


def _size_of(content: bytes) -> tuple[int, int] | None:
    """Return height and width that a PNG or JPEG states."""
    if content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) >= 24:
        return int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big")
    if content[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(content):
        if content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if marker in (
            *range(0xC0, 0xC4),
            *range(0xC5, 0xC8),
            *range(0xC9, 0xCC),
            *range(0xCD, 0xD0),
        ):
            return (
                int.from_bytes(content[at + 5 : at + 7], "big"),
                int.from_bytes(content[at + 7 : at + 9], "big"),
            )
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None
