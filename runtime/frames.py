"""What every source gives: frames with an identity and a time, and an end that is not an error."""

from __future__ import annotations

import enum
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing

POLL_S = 0.1
"""Longest wait between two looks at a stop request."""

SUPERSEDED = "superseded"
"""Cause of a drop: a newer frame came before this one was asked for."""


class Outcome(enum.Enum):
    """What a read gives when it gives no frame; a failure is an exception."""

    END = "end"
    TIMEOUT = "timeout"


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture on its way through the pipeline.

    frame_bgr: uint8 [H, W, 3]; frame_id: 0, 1, 2, ... in the order the source produced them, so a
    gap is a dropped frame; timestamp_s: `time.monotonic()` when it was read; source_id: the
    source's address without credentials; name: stem for files made from this frame;
    media_s: position in a recording, None for live sources and pictures; clock_ns: nanoseconds since
    1970 by the clock of whoever recorded it, None where none is known.
    """

    frame_bgr: NDArray[np.uint8]
    frame_id: int
    timestamp_s: float
    source_id: str
    name: str
    media_s: float | None = None
    clock_ns: int | None = None

    @property
    def captured_ns(self) -> int:
        """Nanoseconds since 1970 of the capture: `clock_ns`, or this machine's clock as it is now."""
        if self.clock_ns is not None:
            return self.clock_ns
        return time.time_ns() - int(1e9 * (time.monotonic() - self.timestamp_s))

    def __repr__(self) -> str:
        height, width = self.frame_bgr.shape[:2]
        return f"Frame({self.source_id!r}, id={self.frame_id}, {height}x{width})"


class Source(Closing):
    """A camera, stream, video, set of pictures or scene; iterate over it or call `read`.

    source_id: address without credentials; live: frames come in their own time, the newest wins
    and older ones are dropped; fps: nominal rate, None if unknown; frames: how many there will be,
    None if unknown; drops: number of frames lost, by cause; warnings: sentences about what was
    wrong although reading went on; first_id: of the first frame, where the source counts them
    itself: one that is opened again goes on with the numbers.
    """

    source_id: str
    first_id: int = 0
    live: bool = False
    fps: float | None = None
    frames: int | None = None

    @property
    def drops(self) -> Mapping[str, int]:
        return {}

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def read(self, timeout_s: float) -> Frame | Outcome:
        """Return the next frame, Outcome.TIMEOUT if none came in time, or Outcome.END.

        Files take the time a read takes, whatever `timeout_s`. Raises SourceError when the
        source failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the device or file; may be called twice."""

    def __iter__(self) -> Iterator[Frame]:
        while (item := self.read(POLL_S)) is not Outcome.END:
            if isinstance(item, Frame):
                yield item
