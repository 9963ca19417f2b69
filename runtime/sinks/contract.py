"""The contract of all sinks, and what the sinks of a run share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dedos_deploy.closing import Closing
from dedos_deploy.errors import SinkError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.overlay import OverlayPainter
from dedos_deploy.spec import Codec

SinkErrors = Literal["stop", "continue"]
"""What an error of one sink means for the rest of a run."""


class StopRequested(Exception):
    """Raised by a sink or callback to end a pipeline as if its source had ended."""


@dataclass(frozen=True)
class SinkOptions:
    """What all sinks of a run share."""

    fps: float | None = None
    """Rate of the source, None if unknown."""

    live: bool = False
    """Frames of the source come in their own time."""

    overwrite: bool = False
    """Replace files that exist."""

    painter: OverlayPainter = field(default_factory=OverlayPainter)
    """Draws the overlays."""

    codec: Codec = "auto"
    """Of overlay MP4s: `h264`; `vp8`, whose pictures each stand alone; `jpeg`, the least work; or what
    plays in browsers and chats as far as this machine can (of live sources JPEG)."""

    protected: tuple[Path, ...] = ()
    """Files and folders that the source is read from, which no output may replace."""


def checked_time(uri: str, clock_ns: int, seconds: range) -> int:
    """Return a frame's time if messages can hold it. seconds: since 1970. Raises SinkError."""
    if clock_ns // 10**9 in seconds:
        return clock_ns
    raise SinkError(
        f"output {uri!r}: its messages hold times from {seconds[0]} to {seconds[-1]} s after 1970 began, "
        f"and a frame's is {clock_ns // 10**9} s; correct the clock of what sent or recorded it"
    )


class Sink(Closing):
    """Takes results in order, on one thread; `close` completes and checks what was written.

    on_callers_thread: whether `write` must come from the thread that runs the pipeline, as a window
    demands; all others get one of their own.
    """

    uri: str
    on_callers_thread: bool = False

    @abstractmethod
    def write(self, frame: Frame, result: Segmentation) -> None:
        """Take one result. Raises SinkError when it cannot be stored, StopRequested to end."""

    @abstractmethod
    def close(self) -> None:
        """Complete and release the output; may be called twice.

        Raises SinkError unless everything that was written is there.
        """

    @property
    def written(self) -> str | None:
        """What there is now, for the summary, for example "out.mp4 (120 frames)"; None: nothing."""
        return None

    @property
    def codec(self) -> str | None:
        """How pictures are encoded where that depends on the machine, and by whom, for the summary."""
        return None
