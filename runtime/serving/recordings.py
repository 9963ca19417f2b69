"""Recordings that somebody asks for while cameras run: one per camera at a time."""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.flow.lanes import SinkLane
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import SinkOptions
from dedos_deploy.runtime.sinks.video import GrowingVideo


@dataclass(frozen=True)
class Recorded:
    """A recording, as far as it has got."""

    file: str | None
    """Where the recording lies, None when there is none."""

    frames: int
    """Frames in the file, more and more while it is recorded."""


@dataclass(frozen=True)
class _Running:
    path: Path
    sink: GrowingVideo
    lane: SinkLane

    def so_far(self) -> Recorded:
        return Recorded(self.sink.uri, self.lane.written)

    def end(self) -> bool:
        """Close the file, or leave none without a frame; return False while a write is stuck."""
        self.lane.close()
        if not self.lane.finish(0.0):
            # Closing the file under a write that may come back would damage it. It plays as it is.
            return False
        try:
            self.sink.close()
        finally:
            # Another's file of that name stays.
            if self.lane.written == 0 and self.sink.has_appeared:
                self.path.unlink(missing_ok=True)
        return True


class Recordings(Closing):
    """Overlay videos in one folder, named by camera and time."""

    def __init__(self, folder: Path | None) -> None:
        """folder: must exist; None to refuse recordings. Raises BadInputError."""
        if folder is not None and not folder.is_dir():
            raise BadInputError(f"folder {str(folder)!r} for recordings does not exist; create it")
        self._folder = folder
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._stuck: list[_Running] = []

    @property
    def are_possible(self) -> bool:
        return self._folder is not None

    def put(self, name: str, frame: Frame, result: Segmentation) -> None:
        """Hand over a result of a camera; never waits."""
        running = self._running.get(name)
        if running is not None:
            running.lane.put(frame, result)

    def begin(self, name: str) -> Recorded:
        """Begin to record a camera, or go on. Raises BadInputError without a folder, SinkError
        when the file cannot be written."""
        with self._lock:
            current = self._running.get(name)
            if current is None or current.lane.error is not None:
                self._end(name)
                current = self._running[name] = self._open(name)
        return current.so_far()

    def end(self, name: str) -> Recorded:
        """End a camera's recording; return what it was. Raises SinkError when its end cannot be
        written."""
        with self._lock:
            return self._end(name)

    def state(self, name: str) -> dict[str, Any] | None:
        """Return file, frames and error of a recording that is under way."""
        running = self._running.get(name)
        if running is None:
            return None
        error = None if running.lane.error is None else str(running.lane.error)
        return {**vars(running.so_far()), "error": error}

    def close(self) -> None:
        """End all, whatever becomes of one."""
        with self._lock, contextlib.ExitStack() as ending:
            ending.callback(self._end_stuck)
            for name, running in self._running.items():
                # All at once, so that those that are stuck are waited for together.
                running.lane.request_finish()
                ending.callback(self._end, name)

    def _open(self, name: str) -> _Running:
        if self._folder is None:
            raise BadInputError(
                "there is no folder for recordings; start with --record-to FOLDER to have some"
            )
        path = self._folder / f"{stamped(name)}.mp4"
        sink = GrowingVideo(path, SinkOptions(live=True))
        return _Running(path, sink, SinkLane(sink, when_full="drop_oldest"))

    def _end(self, name: str) -> Recorded:
        self._end_stuck()
        running = self._running.pop(name, None)
        if running is None:
            return Recorded(None, 0)
        if not running.end():
            self._stuck.append(running)
            return running.so_far()
        return running.so_far() if running.lane.written else Recorded(None, 0)

    def _end_stuck(self) -> None:
        self._stuck = [one for one in self._stuck if not one.end()]


def stamped(camera: str) -> str:
    """Return the stem of a file from a camera, with the time of now in UTC."""
    at = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', camera)}-{at}"
