"""A recording that is watched: played in its own time, paused at its end, and moved about."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.sources.contract import POLL_S, Outcome, Source

CATCHES_UP_S = 0.5
"""Who is later than that goes on from there, instead of playing faster until it is made up."""


@dataclass(frozen=True)
class PlaybackState:
    """Where a recording is."""

    paused: bool
    ended: bool
    """Whether it is paused because its last frame was given."""

    loop: bool
    position: float | None
    """Of the newest frame, in [0, 1]; None while the number of frames is not known."""

    seconds: float | None
    """Of the newest frame, None where frames have no times."""

    duration_s: float | None
    """Of the whole, as far as it is known."""


class Playback(Source):
    """A recording whose end is a pause.

    No frame is given before its time, and none is left out: where labelling is slower than the
    recording, that is played slower. Frames without times come as fast as they are taken. A frame is
    gone to by reading on, or from the beginning, since seeking lands on other frames with other decoders.
    `change` and `state` are for any thread, the rest for that which reads.
    """

    def __init__(self, source: Source, open_again: Callable[[], Source]) -> None:
        """source: open, closed with this; open_again: opens the same from its beginning."""
        self.source_id, self.fps, self.frames = source.source_id, source.fps, source.frames
        self._source = source
        self._open_again = open_again
        self._changed = threading.Event()
        self._changing = threading.Lock()
        self._paused = self._ended = self._loop = self._closed = False
        self._again = False
        self._target: int | None = None
        self._read = 0
        self._given: Frame | None = None
        self._given_index = 0
        self._held: Frame | None = None
        self._clock_s: float | None = None
        self._duration_s = self.frames / self.fps if self.frames and self.fps else None
        self._last_s: float | None = None
        self._drops: Counter[str] = Counter()
        self._warnings: tuple[str, ...] = ()
        self._warned_at = -1

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def drops(self) -> Mapping[str, int]:
        return self._drops + Counter(self._source.drops)

    @property
    def warnings(self) -> tuple[str, ...]:
        # Those of whichever time it was read furthest: each counts what it met from the beginning.
        return self._warnings if self._warned_at >= self._read else self._source.warnings

    @property
    def state(self) -> PlaybackState:
        """Return where it is."""
        with self._changing:
            given, last = self._given, max(1, (self.frames or 1) - 1)
            index = self._given_index if self._target is None else self._target
            return PlaybackState(
                self._paused,
                self._ended,
                self._loop,
                None if self.frames is None else min(1.0, index / last),
                None if given is None else given.media_s,
                None if given is None or given.media_s is None else self._duration_s,
            )

    def change(
        self,
        *,
        paused: bool | None = None,
        position: float | None = None,
        loop: bool | None = None,
    ) -> None:
        """Pause or play, go to a position in [0, 1], and begin again at the end or not; None for as
        it is. Played on from its end, it begins again; one that is gone to shows its frame also while
        it is paused.

        Raises BadInputError for a position other than 0 while the number of frames is not known.
        """
        with self._changing:
            if position and self.frames is None:
                raise BadInputError(
                    f"how many frames {self.source_id!r} has is not known before it was played to its "
                    "end; until then it can only go to 0"
                )
            if position is not None:
                self._target = round(position * ((self.frames or 1) - 1))
            elif paused is False and self._ended:
                self._target = 0
            self._ended = self._ended and self._target is None
            self._paused = self._paused if paused is None else paused
            self._loop = self._loop if loop is None else loop
            self._clock_s = None
        self._changed.set()

    def repeat(self) -> None:
        """Give the newest frame once more if it is paused: what labels it has changed."""
        self._again = True
        self._changed.set()

    def read(self, timeout_s: float) -> Frame | Outcome:
        if self._closed:
            return Outcome.END
        if (target := self._target) is not None:
            return self._towards(target)
        wait_s = min(timeout_s, POLL_S)
        if self._paused:
            return self._rest(wait_s)
        frame = self._held
        if frame is None:
            item = self._source.read(timeout_s)
            if not isinstance(item, Frame):
                return self._at_end(None) if item is Outcome.END else item
            frame = item
            self._hold(frame)
        due_in_s = self._due_in_s(frame)
        is_cut_short = self._wait(min(wait_s, due_in_s))
        # What was changed meanwhile is heeded before the frame is given.
        if is_cut_short or due_in_s > wait_s or self._target is not None or self._paused:
            return Outcome.TIMEOUT
        return self._give(frame)

    def close(self) -> None:
        self._closed = True
        self._source.close()

    def _rest(self, wait_s: float) -> Frame | Outcome:
        if not self._again or self._given is None:
            self._wait(wait_s)
            return Outcome.TIMEOUT
        self._again = False
        return _now(self._given)

    def _hold(self, frame: Frame) -> None:
        self._read += 1
        self._held, self._last_s = frame, frame.media_s

    def _wait(self, seconds: float) -> bool:
        """Wait, and return whether something was changed before the time was over."""
        if seconds <= 0 or not self._changed.wait(seconds):
            return False
        self._changed.clear()
        return True

    def _due_in_s(self, frame: Frame) -> float:
        """Return how long it is until a frame's time, 0 for one that is late or has none."""
        if frame.media_s is None:
            return 0.0
        now_s, clock_s = time.monotonic(), self._clock_s
        if clock_s is None or now_s - (clock_s + frame.media_s) > CATCHES_UP_S:
            # By this clock the recording began then.
            clock_s = self._clock_s = now_s - frame.media_s
        return max(0.0, clock_s + frame.media_s - now_s)

    def _give(self, frame: Frame) -> Frame:
        # What labels it is what was asked for until now.
        self._again = False
        with self._changing:
            self._held = None
            self._given, self._given_index = frame, self._read - 1
        return _now(frame)

    def _towards(self, target: int) -> Frame | Outcome:
        """Read one frame on the way to the one that is gone to, and give that."""
        if self._held is not None and target == self._read - 1:
            return self._arrive(self._held, target)
        if target < self._read:
            self._begin_again()
        item = self._source.read(POLL_S)
        if item is Outcome.END:
            return self._short_of(target)
        if not isinstance(item, Frame):
            return item
        self._hold(item)
        return self._arrive(item, target) if target == self._read - 1 else Outcome.TIMEOUT

    def _arrive(self, frame: Frame, target: int) -> Frame:
        with self._changing:
            self._clock_s = None
            # Unless it is to go elsewhere by now.
            if self._target == target:
                self._target = None
            self._ended = self._paused and self._target is None and self._read == self.frames
        return self._give(frame)

    def _short_of(self, target: int) -> Frame | Outcome:
        """The recording ends before the frame that is gone to: its last one stands for that."""
        last = self._held
        outcome = self._at_end(target)
        return outcome if last is None else self._arrive(last, target)

    def _at_end(self, target: int | None) -> Outcome:
        """Pause, or begin again, unless it is to go elsewhere than to `target` by now."""
        if self._read == 0:
            return Outcome.END
        with self._changing:
            self.frames = self._read
            if self._last_s is not None:
                self._duration_s = self._last_s + (1 / self.fps if self.fps else 0.0)
            if self._target == target:
                self._target = 0 if self._loop else None
                self._paused = self._ended = not self._loop
        return Outcome.TIMEOUT

    def _begin_again(self) -> None:
        self._drops.update(self._source.drops)
        self._warnings = self.warnings
        self._warned_at = max(self._warned_at, self._read)
        self._source.close()
        self._source = self._open_again()
        self._read, self._held = 0, None


def _now(frame: Frame) -> Frame:
    """Return a frame that counts from now on, however long it had to wait for its time.

    The recorder's clock, which stands still and goes back with the recording, is no time for what is
    recorded of it.
    """
    return replace(frame, timestamp_s=time.monotonic(), clock_ns=None)
