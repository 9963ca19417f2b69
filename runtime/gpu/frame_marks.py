"""Events around the parts of one frame."""

from __future__ import annotations

from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.gpu.cuda import Cuda, Event, close_all


class FrameMarks:
    """Where resize, engine and label map of a frame begin and end on the stream."""

    def __init__(self, cuda: Cuda) -> None:
        self.started, self.resized, self.inferred, self.done = new_events(cuda, 4)

    @property
    def events(self) -> tuple[Event, ...]:
        return self.started, self.resized, self.inferred, self.done

    def latency_ms(self, upload_ms: float) -> dict[str, float]:
        """Return the milliseconds of all parts once the frame is done.

        upload_ms: that it took to the device, counted with the resizing.
        """
        return {
            "pre": upload_ms + self.resized.ms_since(self.started),
            "engine": self.inferred.ms_since(self.resized),
            "post": self.done.ms_since(self.inferred),
        }


def new_events(cuda: Cuda, count: int) -> list[Event]:
    """Return so many events, or none where one cannot be made. Raises EngineError."""
    made: list[Event] = []
    try:
        while len(made) < count:
            made.append(cuda.event())
    except EngineError:
        close_all(made)
        raise
    return made
