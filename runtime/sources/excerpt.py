"""Part of a recording: from one time to another, and of that every n-th frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.sources.contract import Outcome, Source


@dataclass(frozen=True)
class Part:
    """Which frames of a recording are wanted. Raises BadInputError for what can be no part."""

    every: int = 1
    """The first frame and every so many-th after it, at least 1."""

    start_s: float = 0.0
    """Position of the earliest frame in seconds, at least 0."""

    end_s: float | None = None
    """Position from which on no frame is wanted, in seconds, None for all."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise BadInputError(f"--every must be at least 1, not {self.every}")
        if not (math.isfinite(self.start_s) and self.start_s >= 0):
            raise BadInputError(f"--start must be 0 seconds or more, not {self.start_s:g}")
        if self.end_s is not None and not (math.isfinite(self.end_s) and self.end_s > self.start_s):
            raise BadInputError(
                f"--end must lie after --start, which is {self.start_s:g} seconds, not at "
                f"{self.end_s:g}"
            )

    @property
    def is_all(self) -> bool:
        return self == Part()

    @property
    def has_times(self) -> bool:
        return self.start_s > 0 or self.end_s is not None

    def of(self, source: Source) -> Source:
        """Return the wanted part of a recording, and close it with that.

        Raises BadInputError, having closed the source, for one that is live.
        """
        if self.is_all:
            return source
        if source.live:
            source.close()
            self.check_live(repr(source.source_id))
        return Excerpt(source, self)

    def check_live(self, what: str) -> None:
        """Raise BadInputError unless all frames of a live source are wanted. what: how to call it."""
        if not self.is_all:
            raise BadInputError(
                f"{what} is live, and --every, --start and --end choose frames of a recording; leave "
                "them out"
            )


class Excerpt(Source):
    """The wanted part of a recording; its frames keep their numbers, names and positions.

    The source is read from its beginning, since seeking lands on other frames with other decoders.
    """

    def __init__(self, source: Source, part: Part) -> None:
        self.source_id = source.source_id
        self.fps = None if source.fps is None else source.fps / part.every
        if source.frames is not None and not part.has_times:
            self.frames = math.ceil(source.frames / part.every)
        self._source = source
        self._part = part
        self._seen = 0
        self._last_s = 0.0
        self._ended = False

    @property
    def drops(self) -> Mapping[str, int]:
        return self._source.drops

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._source.warnings

    def read(self, timeout_s: float) -> Frame | Outcome:
        if self._ended:
            return Outcome.END
        item = self._source.read(timeout_s)
        if isinstance(item, Frame):
            # What is not wanted counts as a wait, so that a stop is heeded between two frames.
            return item if self._is_wanted(item) else Outcome.TIMEOUT
        if item is Outcome.END:
            self._ended = True
            self._check_any("its last one")
        return item

    def _is_wanted(self, frame: Frame) -> bool:
        if self._part.has_times and not self._is_in_time(frame):
            return False
        self._seen += 1
        return (self._seen - 1) % self._part.every == 0

    def _check_any(self, latest: str) -> None:
        if self._seen == 0:
            end_s = self._part.end_s
            to = (
                "on, where --start is" if end_s is None else f"to {end_s:g} s, by --start and --end"
            )
            raise SourceError(
                f"{self.source_id!r} has no frame from {self._part.start_s:g} s {to}; {latest} is at "
                f"{self._last_s:g} s"
            )

    def _is_in_time(self, frame: Frame) -> bool:
        if frame.media_s is None:
            raise BadInputError(
                f"{self.source_id!r} has no times that --start and --end could mean; use --every "
                "and --max-frames, or name the pictures wanted by a glob"
            )
        self._last_s = frame.media_s
        if self._part.end_s is not None and frame.media_s >= self._part.end_s:
            self._ended = True
            self._check_any("the next one")
            return False
        return frame.media_s >= self._part.start_s

    def close(self) -> None:
        self._ended = True
        self._source.close()
