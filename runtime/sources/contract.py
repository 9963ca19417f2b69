"""What every source gives: frames with an identity and a time, and an end that is not an error."""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Iterator, Mapping

from dedos_deploy.closing import Closing
from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.frame import Frame

POLL_S = 0.1
"""Longest wait between two looks at a stop request."""

SUPERSEDED = "superseded"
"""Cause of a drop: a newer frame came before this one was asked for."""

UNREADABLE = "unreadable"
"""Cause of a drop: the picture cannot be decoded."""


class Outcome(enum.Enum):
    """What a read gives when it gives no frame; a failure is an exception."""

    END = "end"
    TIMEOUT = "timeout"


class Drops:
    """Messages that gave no frame: how many, by cause, and what was wrong with the first of the unreadable."""

    def __init__(self, *causes: str) -> None:
        """causes: those that are told from the beginning, with 0."""
        self.counts = dict.fromkeys(causes, 0)
        self.damage = ""

    def add(self, cause: str, number: int = 1) -> None:
        """Count messages; none is no drop."""
        if number:
            self.counts[cause] = self.counts.get(cause, 0) + number

    def skip(self, error: SourceError) -> None:
        """Count a message that is no picture."""
        self.add(UNREADABLE)
        self.damage = self.damage or str(error)

    def warnings(self, source_id: str) -> list[str]:
        """Return a sentence of the unreadable ones, if there are any."""
        if not self.damage:
            return []
        return [
            f"{self.counts[UNREADABLE]} messages of {source_id!r} were skipped, the first because "
            f"{self.damage}"
        ]


class Source(Closing):
    """A camera, stream, video, set of pictures or scene; iterate over it or call `read`.

    source_id: address without credentials; live: frames come in their own time, the newest wins
    and older ones are dropped; fps: nominal rate, None if unknown; frames: how many there will be,
    None if unknown; drops: number of frames lost, by cause; warnings: sentences about what was
    wrong although reading went on; first_id: of the first frame, where the source counts them
    itself: one that is opened again goes on with the numbers; paused: whether no frame is to be
    expected, since somebody holds it.
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
    def paused(self) -> bool:
        return False

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
