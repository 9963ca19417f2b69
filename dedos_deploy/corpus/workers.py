"""Processes that label shards, one engine each. They end with the process that started them."""

from __future__ import annotations

import multiprocessing
import signal
import time
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Literal

from dedos_deploy.closing import Closing
from dedos_deploy.threads import libraries_limited, usable_threads

if TYPE_CHECKING:
    from dedos_deploy.corpus.labelling import Job, ShardReport
    from dedos_deploy.corpus.manifest import Piece

END_S = 0.8
"""How long a worker is waited for that was asked to drop its shard; Ctrl-C leaves no more time."""


@dataclass(frozen=True)
class Heard:
    """What a worker says."""

    worker: int
    kind: Literal["ready", "told", "done", "failed", "gone"]
    """Its engine is loaded; it has labelled more frames of its shard; its shard is done; it cannot go on,
    nor could another; it ended without a word."""

    frames: int = 0
    """Of its shard, so far."""

    report: ShardReport | None = None
    error: Exception | None = None
    text: str = ""


class Pool(Closing):
    """Whoever labels shards, by numbers from 0 on; closing it ends all of them."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are."""

    @abstractmethod
    def start(self) -> int:
        """Start a worker and return its number."""

    @abstractmethod
    def give(self, worker: int, shard: int, pieces: list[Piece]) -> None:
        """Give a worker its next shard."""

    @abstractmethod
    def end(self, worker: int) -> None:
        """Let a worker end that waits for a shard."""

    @abstractmethod
    def heard(self, timeout_s: float) -> Iterator[Heard]:
        """Yield what workers have said, waiting so long for the first word."""


class Workers(Pool):
    """Processes of this machine."""

    def __init__(self, job: Job) -> None:
        """job: its threads are those of each process."""
        self._job = job
        self._processes: dict[int, SpawnProcess] = {}
        self._pipes: dict[int, Connection] = {}
        self._started = 0

    def __len__(self) -> int:
        return len(self._pipes)

    def start(self) -> int:
        number, self._started = self._started, self._started + 1
        # A child that was forked could not use the libraries that this process has loaded.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(self._job, theirs), name=f"dedos-label-{number}", daemon=True
        )
        with libraries_limited(usable_threads(self._job.threads)):
            process.start()
        theirs.close()
        self._processes[number], self._pipes[number] = process, ours
        return number

    def give(self, worker: int, shard: int, pieces: list[Piece]) -> None:
        try:
            self._pipes[worker].send((shard, pieces))
        except OSError:
            return  # it is gone, which is heard next

    def end(self, worker: int) -> None:
        self._pipes.pop(worker).close()

    def heard(self, timeout_s: float) -> Iterator[Heard]:
        numbers = {id(pipe): number for number, pipe in self._pipes.items()}
        for pipe in wait(list(self._pipes.values()), timeout_s):
            assert isinstance(pipe, Connection)
            number = numbers[id(pipe)]
            try:
                yield Heard(number, **pipe.recv())
            except (EOFError, OSError):
                yield Heard(number, "gone", text=self._end_of(number))

    def close(self) -> None:
        """Let all of them drop what they are at and end; kill those that take too long."""
        pipes, self._pipes = self._pipes, {}
        for pipe in pipes.values():
            pipe.close()
        until_s = time.monotonic() + END_S
        for process in self._processes.values():
            process.join(max(0.0, until_s - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._processes.clear()

    def _end_of(self, number: int) -> str:
        """Bury a worker and return how it ended."""
        self._pipes.pop(number).close()
        process = self._processes.pop(number)
        process.join()
        code = process.exitcode or 0
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        memory = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
        return f"was ended by {name}{memory}"


def _work(job: Job, pipe: Connection) -> None:
    """Label shards as they come, until the other end is closed."""
    # Ctrl-C reaches all of a terminal's processes, and the first of them decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from dedos_deploy.corpus.labelling import ShardLabeller, StoppedError
    from dedos_deploy.errors import DedosError
    from dedos_deploy.runtime.opencv import silence_ffmpeg

    silence_ffmpeg()
    try:
        with ShardLabeller(job) as labeller:
            pipe.send({"kind": "ready"})
            while True:
                shard, pieces = pipe.recv()
                report = labeller.label(
                    shard,
                    pieces,
                    # Nothing else comes while a shard is at work than the end of whoever gave it.
                    is_stopped=pipe.poll,
                    tell=lambda frames: pipe.send({"kind": "told", "frames": frames}),
                )
                pipe.send({"kind": "done", "report": report, "frames": report.frames})
    except DedosError as error:
        _say(pipe, error)
    except (EOFError, BrokenPipeError, ConnectionResetError, StoppedError):
        return


def _say(pipe: Connection, error: Exception) -> None:
    try:
        pipe.send({"kind": "failed", "error": error})
    except OSError:
        return  # nobody is left to hear it
