"""Sources, labellers and sinks that misbehave on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.labelling import Done
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink
from dedos_deploy.runtime.sources.contract import Outcome, Source

PICTURE = np.zeros((8, 8, 3), np.uint8)


def frame_of(number: int, name: str = "fake") -> Frame:
    return Frame(PICTURE, number, time.monotonic(), name, f"{number:06d}")


class ScriptedSource(Source):
    """Yields what a script yields: numbers are frames, seconds (float) are waits, errors are raised."""

    def __init__(self, script: Iterator[Any], *, live: bool = False) -> None:
        self.source_id = "scripted"
        self.live = live
        self.closed = 0
        self._script = script

    def read(self, timeout_s: float) -> Frame | Outcome:
        step = next(self._script, None)
        if step is None:
            return Outcome.END
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            time.sleep(min(step, timeout_s))
            return Outcome.TIMEOUT
        return frame_of(step)

    def close(self) -> None:
        self.closed += 1


class BlockedSource(Source):
    """A driver that never comes back, until it is let go."""

    source_id = "blocked"
    live = True

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def read(self, timeout_s: float) -> Frame | Outcome:
        self.let_go.wait()
        return Outcome.END

    def close(self) -> None:
        """Nothing."""


class SleepyLabeller:
    """Labels nothing, in a given time; keeps the numbers it has seen."""

    def __init__(
        self, seconds: float = 0.0, *, fails: Callable[[int], bool] = lambda n: False
    ) -> None:
        self.seconds, self.fails = seconds, fails
        self.calls = 0

    def submit(
        self, frame_bgr: NDArray[np.uint8], *, timestamp_s: float | None = None
    ) -> Done[Segmentation]:
        return Done(self.segment(frame_bgr, timestamp_s=timestamp_s))

    def segment(
        self, frame_bgr: NDArray[np.uint8], *, timestamp_s: float | None = None
    ) -> Segmentation:
        self.calls += 1
        time.sleep(self.seconds)
        if self.fails(self.calls):
            raise SourceError("no luck")
        size = frame_bgr.shape[:2]
        return Segmentation(
            label_map=np.zeros(size, np.uint8),
            confidence=np.zeros(size, np.uint8),
            classes=("a",),
            class_ids=(0,),
            counts=np.array([size[0] * size[1]]),
            none_id=255,
            vocabulary_version=1,
            timestamp_s=timestamp_s or 0.0,
            latency_ms={"pre": 0.0, "engine": 1e3 * self.seconds, "post": 0.0},
        )


class ListSink(Sink):
    """Keeps frame ids; may be slow, blocked or broken."""

    uri = "list"

    def __init__(
        self, *, seconds: float = 0.0, fails_at: int | None = None, error: Exception | None = None
    ) -> None:
        self.ids: list[int] = []
        self.seconds, self.fails_at = seconds, fails_at
        self.error = error or SourceError("the disk is full")
        self.gate = threading.Event()
        self.gate.set()

    def write(self, frame: Frame, result: Segmentation) -> None:
        self.gate.wait()
        time.sleep(self.seconds)
        if len(self.ids) == self.fails_at:
            raise self.error
        self.ids.append(frame.frame_id)

    def close(self) -> None:
        """Nothing."""
