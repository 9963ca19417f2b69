"""Pictures from outside, decoded where they can do no harm: in processes with limits of their own."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, UnfinishedError
from dedos_deploy.runtime.serving._decode_child import ANSWER, DECODED, LENGTH, READY, TOO_LARGE

MOST_SENT_PIXELS = 4096 * 4096
"""Of a picture in a request: fewer than of one that this machine has."""

STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""Of JPEG and PNG; OpenCV would read a dozen more formats."""
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "HOME", "LANG")
"""What a child sees of this process's environment, which may hold passwords of cameras."""
_NO_START = (
    "pictures cannot be decoded now, the process for it does not start; ask again in a second"
)
_CHILD = Path(__file__).with_name("_decode_child.py")


@dataclass(frozen=True)
class Limits:
    """What decoding pictures may take."""

    workers: int = 2
    """Processes at most."""

    cpu_s: int = 4
    wall_s: float = 10.0
    """Seconds for one picture."""

    start_s: float = 60.0
    """Seconds until a process is ready."""

    memory: int = 512 * 2**20
    """Bytes that decoding may take beyond the libraries."""


class PictureDecoder(Closing):
    """Decodes JPEG and PNG in a small pool of processes, which are started when they are needed.

    OpenCV itself checks the size before it takes memory for it; time and memory are limited by the
    system, and a process that passes a limit is ended and replaced. Cameras go on meanwhile.
    """

    def __init__(self, *, most_pixels: int, limits: Limits | None = None) -> None:
        self._most_pixels = most_pixels
        self._limits = limits or Limits()
        self._places = threading.BoundedSemaphore(self._limits.workers)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._is_closed = False

    def decode(self, content: bytes) -> NDArray[np.uint8]:
        """Return the picture in the bytes of a JPEG or PNG, uint8 [H, W, 3] BGR.

        Raises BadInputError for another format, damage, too many pixels or too long a time, and
        UnfinishedError when no process for it can be started now.
        """
        if not content.startswith(STARTS):
            raise BadInputError("the body is no JPEG or PNG picture; send one as it is")
        with self._places, self._worker() as worker:
            state, picture = worker.decode(content)
        if state == TOO_LARGE:
            raise BadInputError(
                f"the picture has more than {self._most_pixels} pixels, or takes too much memory; "
                "make it smaller"
            )
        if state != DECODED:
            raise BadInputError("the picture is damaged; send a whole JPEG or PNG")
        return picture

    def close(self) -> None:
        """End all processes; may be called twice."""
        with self._lock:
            self._is_closed = True
            workers, self._all, self._idle = self._all, set(), []
        for worker in workers:
            worker.close()

    @contextlib.contextmanager
    def _worker(self) -> Iterator[_Worker]:
        worker = self._idle_worker()
        if worker is None:
            worker = _Worker(self._most_pixels, self._limits)
            with self._lock:
                self._all.add(worker)
        try:
            yield worker
        finally:
            with self._lock:
                is_good = worker.is_alive and not self._is_closed
                if is_good:
                    self._idle.append(worker)
                else:
                    self._all.discard(worker)
            if not is_good:
                worker.close()

    def _idle_worker(self) -> _Worker | None:
        """Return a process that waits for work; whoever needs memory may have ended some meanwhile."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.is_alive:
                    return worker
                self._all.discard(worker)
                worker.close()
        return None


class _Worker(Closing):
    def __init__(self, most_pixels: int, limits: Limits) -> None:
        self._most_pixels = most_pixels
        self._limits = limits
        arguments = (most_pixels, limits.memory, limits.cpu_s)
        try:
            self._process = subprocess.Popen(
                [sys.executable, str(_CHILD), *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(most_pixels),
                start_new_session=True,
            )
        except OSError as error:  # no memory, descriptors or process numbers are left
            raise UnfinishedError(_NO_START) from error
        assert self._process.stdin is not None
        assert isinstance(self._process.stdout, io.BufferedReader)
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._is_late = False
        with self._deadline(limits.start_s):
            if self._stdout.read(1) != READY:
                self.close()
                raise UnfinishedError(_NO_START)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None and not self._is_late

    def decode(self, content: bytes) -> tuple[int, NDArray[np.uint8]]:
        with self._deadline(self._limits.wall_s):
            # A process that has ended is noticed when its answer is missing.
            with contextlib.suppress(BrokenPipeError):
                self._stdin.write(LENGTH.pack(len(content)))
                self._stdin.write(content)
                self._stdin.flush()
            found = self._answer()
        if found is None:
            raise BadInputError(self._reason())
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            # What was left to be written has nobody to go to.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _answer(self) -> tuple[int, NDArray[np.uint8]] | None:
        head = self._stdout.read(ANSWER.size)
        if len(head) < ANSWER.size:
            return None
        state, height, width = ANSWER.unpack(head)
        if height * width > self._most_pixels:
            return TOO_LARGE, np.empty((0, 0, 3), np.uint8)
        picture = np.empty((height, width, 3), np.uint8)
        whole = self._stdout.readinto(picture.data.cast("B")) if picture.size else 0
        return (state, picture) if whole == picture.size else None

    def _reason(self) -> str:
        self._process.kill()
        ended_by = -self._process.wait()
        if self._is_late or ended_by == signal.SIGXCPU:
            return "the picture takes too long to decode; send a simpler one"
        return "the picture cannot be decoded; send another JPEG or PNG"

    @contextlib.contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """Kill the process if the block lasts longer, which ends whatever waits for it."""

        def end() -> None:
            self._is_late = True
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _environment(most_pixels: int) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        # Read by OpenCV when it is loaded, and compared with what its own decoders find.
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(most_pixels),
        "OPENCV_IO_MAX_IMAGE_WIDTH": str(most_pixels),
        "OPENCV_IO_MAX_IMAGE_HEIGHT": str(most_pixels),
        "OPENCV_LOG_LEVEL": "SILENT",
        # Each thread of theirs would reserve memory that is limited here.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
