"""What every thread is busy with: for a trace of a run, and for a watchdog that sees what is stuck."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.sinks.outputs import GrowingFile, open_growing
from dedos_deploy.runtime.sources.contract import Outcome, Source

log = logging.getLogger(__name__)

Stage = Literal["open", "read", "label", "write"]
STAGES: tuple[Stage, ...] = get_args(Stage)
STALL_S = 10.0
"""A stage that is busy for longer with one thing counts as stalled."""
MOST_EVENTS = 1_000_000
"""Events of a trace, about 150 bytes each."""
LOOKS_PER_LIMIT = 4


@dataclass(eq=False)
class Call:
    """One call of one stage."""

    stage: Stage
    """`open` or `read` of a source, `label` of the segmenter, `write` of a sink."""

    subject: str
    """The camera or sink."""

    thread: int
    """Identity of the thread that calls."""

    begun_s: float
    """By `time.monotonic()`."""

    frame_id: int | None = None
    """Number of the frame, set once it is known."""

    parts_ms: Mapping[str, float] = field(default_factory=dict)
    """Durations of what the call consisted of, in order."""

    counts: bool = True
    """False for a call that gave nothing."""

    def __str__(self) -> str:
        return f"{self.stage} of {self.subject}"


class StageBoard:
    """Where threads say what they begin and end; costs about two microseconds a call."""

    def __init__(self, trace: TraceFile | None = None) -> None:
        """trace: takes every call that counts; who opened it closes it."""
        self._trace = trace
        self._busy: dict[int, Call] = {}

    @property
    def trace_error(self) -> str | None:
        """Why the trace is not complete, None when nothing is wrong with it."""
        return None if self._trace is None else self._trace.error

    @contextmanager
    def busy(self, stage: Stage, subject: str, frame_id: int | None = None) -> Iterator[Call]:
        """Say that this thread is busy inside the block."""
        call = Call(stage, subject, threading.get_ident(), time.monotonic(), frame_id)
        # One entry per thread, so that neither side needs a lock.
        self._busy[call.thread] = call
        try:
            yield call
        finally:
            self._busy.pop(call.thread, None)
            if self._trace is not None and call.counts:
                self._trace.add(call, time.monotonic())

    def busy_longer_than(self, limit_s: float) -> list[Call]:
        """Return the calls that have lasted longer, the oldest first."""
        now_s = time.monotonic()
        calls = [call for call in self._busy.copy().values() if now_s - call.begun_s > limit_s]
        return sorted(calls, key=lambda call: call.begun_s)


class ObservedSource(Source):
    """A source whose reads are told to a board; closing it closes the source."""

    def __init__(self, source: Source, board: StageBoard, *, subject: str | None = None) -> None:
        """subject: what to call it, its address if None."""
        self.source_id, self.live = source.source_id, source.live
        self.fps, self.frames = source.fps, source.frames
        self._source = source
        self._board = board
        self._subject = subject or source.source_id

    @property
    def drops(self) -> Mapping[str, int]:
        return self._source.drops

    @property
    def paused(self) -> bool:
        return self._source.paused

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._source.warnings

    def read(self, timeout_s: float) -> Frame | Outcome:
        with self._board.busy("read", self._subject) as call:
            item = self._source.read(timeout_s)
            if isinstance(item, Frame):
                call.frame_id = item.frame_id
            else:
                call.counts = False
        return item

    def close(self) -> None:
        self._source.close()


class TraceFile(Closing):
    """A trace in the Chrome format, which Perfetto and chrome://tracing open, also when it was cut off.

    One row per thread; a call of `label` holds its parts. Ends after MOST_EVENTS events, or when it
    cannot be written, which is said and ends nothing else; `error` has the sentence then.
    """

    def __init__(
        self,
        path: Path,
        *,
        overwrite: bool,
        most_events: int = MOST_EVENTS,
        protected: Sequence[Path] = (),
    ) -> None:
        """protected: files that are read, which it may not replace. Raises SinkError."""
        self.error: str | None = None
        self._path = path
        self._lock = threading.Lock()
        self._most = self._left = most_events
        self._rows: dict[tuple[int, str], int] = {}
        self._named = 0
        self._start_s = time.monotonic()
        self._file: GrowingFile | None = open_growing(
            path, overwrite=overwrite, protected=protected
        )
        self._first = True

    def add(self, call: Call, ended_s: float) -> None:
        """Write a call that has ended."""
        name = threading.current_thread().name
        with self._lock:
            events = []
            # Threads that end leave their identity to new ones; a row is one name only.
            row = self._rows.setdefault((call.thread, name), len(self._rows) + 1)
            if row == len(self._rows) > self._named:
                self._named = row
                events.append(_row_name(row, name))
            whole_ms = 1e3 * (ended_s - call.begun_s)
            events.append(self._event(call, row, call.stage, call.begun_s, whole_ms))
            begun_s = call.begun_s
            for part, part_ms in call.parts_ms.items():
                events.append(self._event(call, row, part, begun_s, part_ms))
                begun_s += part_ms / 1e3
            self._write(events)

    def close(self) -> None:
        """Complete the file; may be called twice."""
        with self._lock:
            self._end("]\n")

    def _write(self, events: list[dict[str, Any]]) -> None:
        if self._file is None:
            return
        try:
            for event in events:
                text = ("[\n" if self._first else ",\n") + json.dumps(event)
                self._file.write(text.encode())
                self._first = False
            self._file.flush()
        except OSError as error:
            self._fail(f"trace {self._path} ends here: {error.strerror or error}")
            self._file.raw.close()
            self._file = None
            return
        self._left -= len(events)
        if self._left <= 0:
            log.warning("trace %s is full after %d events and ends here", self._path, self._most)
            self._end("]\n")

    def _end(self, text: str) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            with file:
                file.write(("[]\n" if self._first else "\n" + text).encode())
        except (OSError, SinkError) as error:
            self._fail(f"trace {self._path} is incomplete: {error}")

    def _fail(self, sentence: str) -> None:
        self.error = sentence
        log.warning("%s", sentence)

    def _event(
        self, call: Call, row: int, name: str, begun_s: float, duration_ms: float
    ) -> dict[str, Any]:
        return {
            "name": name,
            "cat": call.stage,
            "ph": "X",
            "pid": os.getpid(),
            "tid": row,
            "ts": round(1e6 * (begun_s - self._start_s), 1),
            "dur": round(1e3 * duration_ms, 1),
            "args": {"subject": call.subject, "frame": call.frame_id},
        }


def _row_name(row: int, name: str) -> dict[str, Any]:
    return {
        "name": "thread_name",
        "ph": "M",
        "pid": os.getpid(),
        "tid": row,
        "args": {"name": name},
    }


class Watchdog(Closing):
    """Says which stage is stuck, once and with its stack, and when it goes on."""

    def __init__(self, board: StageBoard, *, limit_s: float = STALL_S) -> None:
        """limit_s: how long one call may take. Raises BadInputError."""
        if not limit_s > 0:
            raise BadInputError(f"the watchdog's limit must be positive, not {limit_s} s")
        self._board = board
        self._limit_s = limit_s
        self._said: dict[Call, None] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dedos-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; may be called twice."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._limit_s / LOOKS_PER_LIMIT):
            stalled = self._board.busy_longer_than(self._limit_s)
            for call in stalled:
                if call not in self._said:
                    self._said[call] = None
                    self._say(call)
            for call in [call for call in self._said if call not in stalled]:
                del self._said[call]
                seconds = time.monotonic() - call.begun_s
                log.warning("%s goes on after %.1f s", call, seconds, extra=_fields(call))

    def _say(self, call: Call) -> None:
        seconds = time.monotonic() - call.begun_s
        stack = stack_of(call.thread)
        log.warning(
            "%s is stuck for %.1f s in:\n%s",
            call,
            seconds,
            stack,
            extra={**_fields(call), "stack": stack},
        )


def _fields(call: Call) -> dict[str, Any]:
    return {"stage": call.stage, "subject": call.subject, "frame": call.frame_id}


def stack_of(thread: int) -> str:
    """Return where a thread is now, as a traceback has it; "" when it has ended."""
    frame = sys._current_frames().get(thread)
    return "" if frame is None else "".join(traceback.format_stack(frame)).rstrip()
