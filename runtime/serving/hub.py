"""What the page shows and changes: the newest result per camera, its words, its numbers."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.runtime.flow import CameraReport, Run
from dedos_deploy.runtime.flow.stages import STALL_S, Call
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter import Segmenter, SegmenterView
from dedos_deploy.runtime.serving.decoder import MOST_SENT_PIXELS, PictureDecoder
from dedos_deploy.runtime.serving.recordings import Recordings
from dedos_deploy.runtime.sinks.overlay import tint
from dedos_deploy.runtime.sinks.palette import class_colour_bgr
from dedos_deploy.vocabulary import WORDS_PER_REQUEST, Vocabulary, parse_vocabulary

HISTORY = 240
"""Points of coverage that are kept per camera, one a second."""

HISTORY_EVERY_S = 1.0
JPEG_QUALITY = 80
DEFAULT_OPACITY = 0.5
WORDS_S = 10.0
"""Seconds that new words of one request may take to be encoded."""

Colour = tuple[int, int, int]


class Hub(Closing):
    """Between the results of a run and any number of web requests.

    `on_result` only stores references, so that watching costs the cameras nothing; pictures are
    encoded on the thread that asks, once per result and opacity.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        views: Mapping[str, SegmenterView],
        *,
        record_to: Path | None = None,
    ) -> None:
        """record_to: an existing folder for recordings that are asked for, None to refuse them.
        Raises BadInputError."""
        self.recordings = Recordings(record_to)
        self._decoder = PictureDecoder(most_pixels=MOST_SENT_PIXELS)
        self._colours: dict[str, dict[str, Colour]] = {name: {} for name in views}
        self._segmenter = segmenter
        self._views = dict(views)
        self._run: Run | None = None
        self._latest: dict[str, tuple[int, Frame, Segmentation]] = {}
        self._tell: dict[str, tuple[Callable[[], None], ...]] = dict.fromkeys(self._views, ())
        self._telling = threading.Lock()
        self._history: dict[str, deque[tuple[float, dict[str, float]]]] = {
            name: deque(maxlen=HISTORY) for name in self._views
        }
        self._encoding = threading.Lock()
        self._encoded: dict[str, tuple[int, float, bytes]] = {}
        self._imaging = threading.Lock()

    def watch(self, run: Run) -> None:
        """Show the numbers of this run."""
        self._run = run

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self._views)

    def on_result(self, name: str, frame: Frame, result: Segmentation) -> None:
        """Take a result; for Run."""
        count, *_ = self._latest.get(name, (0,))
        self._latest[name] = count + 1, frame, result
        for tell in self._tell[name]:
            tell()
        self.recordings.put(name, frame, result)
        history = self._history[name]
        now_s = time.monotonic()
        if not history or now_s - history[-1][0] >= HISTORY_EVERY_S:
            history.append((now_s, result.coverage))

    @contextlib.contextmanager
    def telling(self, name: str, tell: Callable[[], None]) -> Iterator[None]:
        """Call `tell` after every result of a camera inside the block; it must return at once."""
        self.view(name)
        with self._telling:
            self._tell[name] += (tell,)
        try:
            yield
        finally:
            with self._telling:
                self._tell[name] = tuple(one for one in self._tell[name] if one is not tell)

    def jpeg(
        self, name: str, *, newer_than: int = 0, opacity: float = DEFAULT_OPACITY
    ) -> tuple[int, bytes] | None:
        """Return the number and the overlay of the newest result, None if there is none newer."""
        self.view(name)
        newest = self._latest.get(name)
        if newest is None or newest[0] <= newer_than:
            return None
        count, frame, result = newest
        with self._encoding:
            kept = self._encoded.get(name)
            if kept is None or kept[:2] != (count, opacity):
                kept = count, opacity, encode_jpeg(self._painted(name, frame, result, opacity))
                self._encoded[name] = kept
        return count, kept[2]

    def _painted(
        self, name: str, frame: Frame, result: Segmentation, opacity: float
    ) -> NDArray[np.uint8]:
        # By name, since an id may stand for another word in the next result.
        chosen = self._colours[name]
        colours = {
            class_id: chosen[result.classes[class_id]]
            for class_id in result.class_ids
            if result.classes[class_id] in chosen
        }
        return tint(frame.frame_bgr, result, opacity, colours_bgr=colours)

    def set_colour(self, name: str, class_id: int, colour: str) -> None:
        """Give a class another colour in the pictures of a camera, for as long as it is one of its
        words. colour: as `#rrggbb`.

        Raises BadInputError.
        """
        words = {number: word for word, number, _ in self.view(name).entries}
        if class_id not in words:
            raise BadInputError(f"camera {name!r} has no class {class_id}; it has {sorted(words)}")
        if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
            raise BadInputError(f"{colour[:20]!r} is no colour; write #rrggbb, as #ff2626")
        red, green, blue = bytes.fromhex(colour[1:])
        kept = {word: bgr for word, bgr in self._colours[name].items() if word in words.values()}
        self._colours[name] = {**kept, words[class_id]: (blue, green, red)}
        with self._encoding:
            self._encoded.pop(name, None)

    def close(self) -> None:
        """End all recordings, and the processes that decode pictures."""
        try:
            self.recordings.close()
        finally:
            self._decoder.close()

    def view(self, name: str) -> SegmenterView:
        """Return the vocabulary of a camera. Raises BadInputError for an unknown name."""
        if name not in self._views:
            raise BadInputError(
                f"there is no camera {name[:80]!r}{nearest(name, self._views)}; there are "
                f"{', '.join(self._views)}"
            )
        return self._views[name]

    def set_classes(self, name: str, classes: str) -> int:
        """Replace a camera's words from its next frame on; return the vocabulary version.

        classes: at most 256 words separated by commas, never a file. Raises BadInputError, and
        UnfinishedError when new words take longer than `WORDS_S`: ask again then.
        """
        return self.view(name).set_classes(_words(classes), timeout_s=WORDS_S)

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
                    "colour": css_colour(class_id, self._colours[name].get(word)),
                }
                for word, class_id, entry in view.entries
            ],
            "negatives": list(view.negatives),
        }

    def state(self) -> dict[str, Any]:
        """Return all that the page shows besides pictures."""
        reports = {report.name: report for report in self.reports()}
        return {
            "can_record": self.recordings.are_possible,
            "cameras": [
                {
                    "name": name,
                    **(_numbers(reports[name]) if name in reports else {}),
                    "vocabulary": self.classes(name),
                    "recording": self.recordings.state(name),
                    "history": [
                        {"age_s": time.monotonic() - at_s, "coverage": coverage}
                        for at_s, coverage in list(self._history[name])
                    ],
                }
                for name in self._views
            ],
        }

    def reports(self) -> list[CameraReport]:
        """Return the numbers of all cameras."""
        return [] if self._run is None else self._run.reports()

    def stalled(self) -> list[Call]:
        """Return what is stuck now."""
        return [] if self._run is None else self._run.stages.busy_longer_than(STALL_S)

    def segment_picture(self, content: bytes, classes: str) -> Segmentation:
        """Label one JPEG or PNG with words of its own, between the cameras' frames.

        classes and what is raised: as for `set_classes`.
        """
        # A view of its own per request: ids start from 0, and no camera's words are touched.
        view = self._segmenter.share(_words(classes), timeout_s=WORDS_S)
        picture = self._decoder.decode(content)
        with self._imaging:
            return view.segment(picture)


def _words(classes: str) -> Vocabulary:
    return parse_vocabulary(classes, most_words=WORDS_PER_REQUEST)


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


def css_colour(class_id: int, colour_bgr: Colour | None = None) -> str:
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
