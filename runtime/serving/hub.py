"""What the page shows and changes: the newest result per camera, its words, its numbers."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
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
from dedos_deploy.runtime.sink_lane import SinkLane
from dedos_deploy.runtime.sinks import SinkOptions
from dedos_deploy.runtime.stages import STALL_S, Work
from dedos_deploy.runtime.video_sink import GrowingVideo

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

    def __init__(
        self, segmenter: Segmenter, views: Mapping[str, SegmenterView],
        *, record_to: Path | None = None,
    ) -> None:  # fmt: skip
        """record_to: an existing folder for recordings that are asked for, None to refuse them.
        Raises BadInputError."""
        if record_to is not None and not record_to.is_dir():
            raise BadInputError(
                f"folder {str(record_to)!r} for recordings does not exist; create it"
            )
        self._record_to = record_to
        self._recordings: dict[str, _Recording] = {}
        self._recording = threading.Lock()
        self._colours: dict[str, dict[int, tuple[int, int, int]]] = {name: {} for name in views}
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
        recording = self._recordings.get(name)
        if recording is not None:
            recording.lane.put(frame, result)
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
                kept = count, opacity, encode_jpeg(self._painted(name, frame, result, opacity))
                self._encoded[name] = kept
        return count, kept[2]

    def _painted(
        self, name: str, frame: Frame, result: Segmentation, opacity: float
    ) -> NDArray[np.uint8]:
        return tint(frame.frame_bgr, result, opacity, colours_bgr=dict(self._colours[name]))

    def set_colour(self, name: str, class_id: int, colour: str) -> None:
        """Give a class another colour in the pictures of a camera. colour: as `#rrggbb`.

        Raises BadInputError.
        """
        if class_id not in (known := {number for _, number, _ in self.view(name).entries}):
            raise BadInputError(f"camera {name!r} has no class {class_id}; it has {sorted(known)}")
        if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
            raise BadInputError(f"{colour[:20]!r} is no colour; write #rrggbb, as #ff2626")
        red, green, blue = bytes.fromhex(colour[1:])
        self._colours[name][class_id] = blue, green, red
        with self._encoding:
            self._encoded.pop(name, None)

    def record(self, name: str, *, on: bool) -> str | None:
        """Begin or end the recording of a camera's overlay; return its file, None if there is none.

        Raises BadInputError without a folder, SinkError when the file cannot be written.
        """
        self.view(name)
        with self._recording:
            current = self._recordings.get(name)
            if on and (current is None or current.lane.error is not None):
                self._end(name)
                current = self._recordings[name] = self._begin(name)
            elif not on:
                self._end(name)
        return None if current is None else current.sink.uri

    def close(self) -> None:
        """End all recordings."""
        with self._recording:
            for name in list(self._recordings):
                self._end(name)

    def _begin(self, name: str) -> _Recording:
        if self._record_to is None:
            raise BadInputError(
                "there is no folder for recordings; start with --record-to FOLDER to have some"
            )
        at = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        sink = GrowingVideo(self._record_to / f"{stem}-{at}.mp4", SinkOptions(live=True))
        return _Recording(sink, SinkLane(sink, when_full="drop_oldest"))

    def _end(self, name: str) -> None:
        recording = self._recordings.pop(name, None)
        if recording is not None:
            recording.lane.close()
            recording.sink.close()

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
                {
                    "name": word,
                    "entry": entry,
                    "id": class_id,
                    "colour": css_colour(class_id, self._colours[name].get(class_id)),
                }
                for word, class_id, entry in view.entries
            ],
            "negatives": list(view.negatives),
        }

    def state(self) -> dict[str, Any]:
        """Return all that the page shows besides pictures."""
        reports = {report.name: report for report in self.reports()}
        return {
            "can_record": self._record_to is not None,
            "cameras": [
                {
                    "name": name,
                    **(_numbers(reports[name]) if name in reports else {}),
                    "vocabulary": self.classes(name),
                    "recording": self._recording_of(name),
                    "history": [
                        {"age_s": time.monotonic() - at_s, "coverage": coverage}
                        for at_s, coverage in list(self._history[name])
                    ],
                }
                for name in self._views
            ],
        }

    def _recording_of(self, name: str) -> dict[str, Any] | None:
        recording = self._recordings.get(name)
        if recording is None:
            return None
        error = recording.lane.error
        return {
            "file": recording.sink.uri, "frames": recording.lane.written,
            "error": None if error is None else str(error),
        }  # fmt: skip

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


@dataclass(frozen=True)
class _Recording:
    sink: GrowingVideo
    lane: SinkLane


def css_colour(class_id: int, colour_bgr: tuple[int, int, int] | None = None) -> str:
    """Return the colour of a class, the palette's or its own, as CSS has it.

    >>> css_colour(0)
    '#ff2626'
    """
    blue, green, red = colour_bgr or class_colour_bgr(class_id)
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
