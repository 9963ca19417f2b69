"""The newest result of every camera, for any number of watchers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.overlay import tint
from dedos_deploy.runtime.sinks.palette import Colour

HISTORY = 240
"""Points of coverage that are kept per camera, one a second."""

HISTORY_EVERY_S = 1.0
JPEG_QUALITY = 80
DEFAULT_OPACITY = 0.5

WordColours = Mapping[str, Colour]
"""Of some words, instead of the palette's."""


class Hub:
    """Between the results of a run and those who watch them.

    `on_result` only stores references, so that watching costs the cameras nothing; pictures are
    encoded on the thread that asks, once per result, opacity and colours. A name is always that of
    one of the cameras.
    """

    def __init__(self, cameras: Iterable[str], colours: Mapping[str, WordColours]) -> None:
        """colours: of each camera's words, read for every picture; a change replaces them."""
        self._colours = colours
        self._latest: dict[str, tuple[int, Frame, Segmentation] | None] = dict.fromkeys(cameras)
        self._tell: dict[str, tuple[Callable[[], None], ...]] = dict.fromkeys(self._latest, ())
        self._telling = threading.Lock()
        self._history: dict[str, deque[tuple[float, dict[str, float]]]] = {
            name: deque(maxlen=HISTORY) for name in self._latest
        }
        self._encoding = threading.Lock()
        self._encoded: dict[str, tuple[int, float, WordColours, bytes]] = {}

    def on_result(self, name: str, frame: Frame, result: Segmentation) -> None:
        """Take a result; for one thread."""
        newest = self._latest[name]
        self._latest[name] = 1 if newest is None else newest[0] + 1, frame, result
        for tell in self._tell[name]:
            tell()
        history = self._history[name]
        now_s = time.monotonic()
        if not history or now_s - history[-1][0] >= HISTORY_EVERY_S:
            history.append((now_s, result.coverage))

    @contextlib.contextmanager
    def telling(self, name: str, tell: Callable[[], None]) -> Iterator[None]:
        """Call `tell` after every result of a camera inside the block; it must return at once."""
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
        newest = self._latest[name]
        if newest is None or newest[0] <= newer_than:
            return None
        count, frame, result = newest
        with self._encoding:
            drawn = count, opacity, self._colours[name]
            kept = self._encoded.get(name)
            if kept is None or kept[:3] != drawn:
                kept = *drawn, self.picture(name, frame, result, opacity=opacity)
                self._encoded[name] = kept
        return count, kept[3]

    def newest(self, name: str) -> Segmentation | None:
        """Return the newest result of a camera, None before the first."""
        newest = self._latest[name]
        return None if newest is None else newest[2]

    def newest_frame(self, name: str) -> tuple[Frame, Segmentation] | None:
        """Return the frame of the newest result and the result, None before the first."""
        newest = self._latest[name]
        return None if newest is None else newest[1:]

    def picture(
        self, name: str, frame: Frame, result: Segmentation, *, opacity: float = DEFAULT_OPACITY
    ) -> bytes:
        """Return an overlay as `jpeg` does, of any frame of a camera and its result."""
        return encode_jpeg(self._painted(name, frame, result, opacity))

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return the coverage of a camera's classes lately: one point a second, with its age."""
        return [
            {"age_s": time.monotonic() - at_s, "coverage": coverage}
            for at_s, coverage in list(self._history[name])
        ]

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


def encode_jpeg(picture_bgr: NDArray[np.uint8]) -> bytes:
    """Return a JPEG of a picture."""
    import cv2

    _, encoded = cv2.imencode(".jpg", picture_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return encoded.tobytes()
