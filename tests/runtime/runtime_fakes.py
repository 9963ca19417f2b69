"""A synthetic source, a recording sink, a fake labeller and engine, each obeying its contract."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime import Engine, Frame, Outcome, Segmentation, Sink, Source
from dedos_deploy.runtime.labelling import Done
from dedos_deploy.spec import GraphSpec

HW = (4, 6)


class SyntheticSource(Source):
    """`count` frames (None: for ever), whose pixels all hold the frame number modulo 200.

    fail_at: number of the frame whose read raises; blocked: read waits for this event instead of
    giving frames, in steps of its timeout.
    """

    def __init__(
        self,
        count: int | None = None,
        *,
        live: bool = False,
        fail_at: int | None = None,
        error: BaseException | None = None,
        blocked: bool = False,
        interval_s: float = 0.0,
    ) -> None:
        self.source_id = "synthetic"
        self.live = live
        self.reads = 0
        self._count, self._fail_at, self._error = count, fail_at, error
        self._blocked, self._interval_s = blocked, interval_s
        self._next = 0

    def read(self, timeout_s: float) -> Frame | Outcome:
        self.reads += 1
        if self._blocked:
            time.sleep(timeout_s)
            return Outcome.TIMEOUT
        if self._next == self._fail_at:
            assert self._error is not None
            raise self._error
        if self._next == self._count:
            return Outcome.END
        time.sleep(self._interval_s)
        index = self._next
        self._next += 1
        picture = np.full((*HW, 3), index % 200, dtype=np.uint8)
        return Frame(picture, index, time.monotonic(), self.source_id, f"{index:06d}")

    def close(self) -> None:
        self._next = self._count = 0


class FakeLabeller:
    """Labels the left half of every frame 0 and the rest unlabelled."""

    def __init__(self, *, seconds: float = 0.0, on_frame: Callable[[int], None] | None = None):
        self._seconds, self._on_frame = seconds, on_frame
        self.labelled = 0
        self.threads: set[int] = set()

    def submit(
        self, frame_bgr: NDArray[np.uint8], *, timestamp_s: float | None = None
    ) -> Done[Segmentation]:
        return Done(self.segment(frame_bgr, timestamp_s=timestamp_s))

    def segment(
        self, frame_bgr: NDArray[np.uint8], *, timestamp_s: float | None = None
    ) -> Segmentation:
        time.sleep(self._seconds)
        self.threads.add(threading.get_ident())
        if self._on_frame is not None:
            self._on_frame(int(frame_bgr[0, 0, 0]))
        self.labelled += 1
        return result_for(frame_bgr, timestamp_s or 0.0)


def result_for(
    frame_bgr: NDArray[np.uint8],
    timestamp_s: float = 0.0,
    *,
    classes: tuple[str, ...] = ("left",),
    version: int = 1,
) -> Segmentation:
    height, width = frame_bgr.shape[:2]
    label_map = np.full((height, width), 255, dtype=np.uint8)
    label_map[:, : width // 2] = 0
    counts = np.zeros(len(classes), dtype=np.int64)
    counts[0] = height * (width // 2)
    return Segmentation(
        label_map=label_map,
        confidence=label_map,
        classes=classes,
        class_ids=tuple(range(len(classes))),
        counts=counts,
        none_id=255,
        vocabulary_version=version,
        timestamp_s=timestamp_s,
        latency_ms={"pre": 1.0, "engine": 2.0, "post": 3.0},
    )


class RecordingSink(Sink):
    """Remembers frame ids; raises `error` at the frame `fail_at`, sleeps `seconds` a frame."""

    uri = "recording"

    def __init__(
        self,
        *,
        fail_at: int | None = None,
        error: BaseException | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.frame_ids: list[int] = []
        self.results: list[Segmentation] = []
        self._fail_at, self._error, self._seconds = fail_at, error, seconds

    def write(self, frame: Frame, result: Segmentation) -> None:
        if frame.frame_id == self._fail_at:
            assert self._error is not None
            raise self._error
        time.sleep(self._seconds)
        self.frame_ids.append(frame.frame_id)
        self.results.append(result)

    def close(self) -> None:
        """Nothing is held."""


class ConstantEngine(Engine):
    """An engine that gives the same scores whatever it sees; records what it was given."""

    def __init__(
        self, scores: NDArray[Any], *, max_slots: int | None = None, spec: GraphSpec | None = None
    ) -> None:
        self.spec = spec or GraphSpec(height=16, width=16, text_width=4)
        self.max_slots = max_slots
        self.inputs: dict[str, NDArray[Any]] = {}
        self.closed = 0
        self._scores = scores

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.inputs = {name: array.copy() for name, array in inputs.items()}
        return {"scores": self._scores[:, : len(inputs["valid"])]}

    def close(self) -> None:
        self.closed += 1


def encode(words: Any, **_: object) -> NDArray[np.float32]:
    return np.eye(4, dtype=np.float32)[[len(word) % 4 for word in words]]
