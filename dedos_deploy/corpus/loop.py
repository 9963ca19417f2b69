"""The plain loop: a corpus labelled by processes of this machine, which may end at any moment and go on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dedos_deploy.corpus.beginning import Begun
from dedos_deploy.corpus.labelling import Job
from dedos_deploy.corpus.plan import Plan
from dedos_deploy.corpus.workers import Heard, Workers
from dedos_deploy.errors import EngineError
from dedos_deploy.progress import QUIET, Progress

LOOK_S = 0.1
MOST_TRIES = 2
"""A shard at which so many workers ended without a word is left out."""


@dataclass
class Outcome:
    """What became of a run."""

    folder: str
    shards: int = 0
    """Of the corpus."""

    done: int = 0
    """Shards that are labelled, by this run or an earlier one."""

    frames: int = 0
    """Labelled by this run."""

    seconds: float = 0.0
    """From the first worker that was ready to the last shard."""

    errors: list[Mapping[str, Any]] = field(default_factory=list)
    """All that `errors.jsonl` has."""

    lost: dict[int, str] = field(default_factory=dict)
    """Shards at which workers ended without a word, and how."""

    stopped: bool = False
    """Whether somebody asked for the end before it came."""


def label_shards(
    begun: Begun,
    job: Job,
    *,
    workers: int,
    stop: threading.Event | None = None,
    progress: Progress = QUIET,
) -> Outcome:
    """Label the shards of a corpus that are not labelled yet, with so many processes.

    job: its threads are those of each process; stop: once set, what is at work is dropped. Frames and
    sources that cannot be read are in the outcome and end nothing. Raises EngineError, SinkError.
    """
    run = _Run(begun, stop or threading.Event(), progress)
    with progress.part(2, 2, "labelling"):
        return run.run(job, workers)


class _Run:
    """One run of the loop."""

    def __init__(self, begun: Begun, stop: threading.Event, progress: Progress) -> None:
        manifest = begun.manifest
        self._begun, self._manifest = begun, manifest
        self._stop, self._progress = stop, progress
        self._before = begun.shards_done()
        self._plan = Plan(manifest, self._before)
        self._outcome = Outcome(begun.folder.address, len(manifest), len(self._before))
        self._frames = sum(map(manifest.frames, range(len(manifest))))
        self._frames_done = sum(map(manifest.frames, self._before))
        self._at: dict[int, int] = {}
        """Shard that each worker is at."""
        self._told: dict[int, int] = {}
        """Frames of it that are done."""
        self._tries: Counter[int] = Counter()
        self._ready_s: float | None = None

    def run(self, job: Job, workers: int) -> Outcome:
        """Label what is left, and say what is wrong in `errors.jsonl`."""
        if self._plan.left:
            with Workers(job) as pool:
                for _ in range(min(workers, self._plan.left)):
                    pool.start()
                while len(pool) and not self._stop.is_set():
                    for heard in pool.heard(LOOK_S):
                        self._hear(heard, pool)
                    self._tell()
            self._outcome.stopped = self._stop.is_set()
        if self._ready_s is not None:
            self._outcome.seconds = time.monotonic() - self._ready_s
        if not self._outcome.stopped:
            self._outcome.errors[:0] = self._begun.errors_of(self._before)
            self._begun.write_errors(self._outcome.errors)
        return self._outcome

    def _hear(self, heard: Heard, workers: Workers) -> None:
        if heard.error is not None:
            raise heard.error
        if heard.kind == "gone":
            self._replace(heard, workers)
            return
        self._told[heard.worker] = heard.frames
        if heard.kind == "ready" and self._ready_s is None:
            self._begun.write()
            self._ready_s = time.monotonic()
        if heard.report is not None:
            shard = self._at.pop(heard.worker)
            self._told[heard.worker] = 0
            self._frames_done += self._manifest.frames(shard)
            self._outcome.done += 1
            self._outcome.frames += heard.report.frames
            self._outcome.errors += heard.report.errors
        if heard.kind in ("ready", "done"):
            self._give(heard.worker, workers)

    def _give(self, worker: int, workers: Workers) -> None:
        shard = self._plan.next(worker)
        if shard is None:
            workers.end(worker)
            return
        self._at[worker] = shard
        workers.give(worker, shard, self._manifest.pieces(shard))

    def _replace(self, heard: Heard, workers: Workers) -> None:
        """Let another worker take the place of one that ended, and its shard once more."""
        shard = self._at.pop(heard.worker, None)
        self._told.pop(heard.worker, None)
        if shard is None:
            self._go_on_without(heard, workers)
            return
        self._tries[shard] += 1
        self._progress.warn(f"a process {heard.text} at shard {shard}")
        is_lost = self._tries[shard] == MOST_TRIES
        if is_lost:
            self._outcome.lost[shard] = heard.text
        self._plan.leave(heard.worker, None if is_lost else shard)
        if self._plan.left:
            workers.start()

    def _go_on_without(self, heard: Heard, workers: Workers) -> None:
        """Do not replace a worker that ended before it had a shard: the next one would, too."""
        if not len(workers):
            raise EngineError(
                f"a process that should label {heard.text} before it could; try fewer --workers"
            )
        self._progress.warn(f"a process {heard.text} before it could label; going on without it")
        self._plan.leave(heard.worker, None)

    def _tell(self) -> None:
        """Say how far it is."""
        if self._ready_s is None:
            return
        seconds = max(1e-3, time.monotonic() - self._ready_s)
        here = sum(self._told.values())
        rate = (self._outcome.frames + here) / seconds
        text = f"shard {self._outcome.done} of {self._outcome.shards}"
        fraction = self._outcome.done / self._outcome.shards
        if self._manifest.is_counted:
            done = self._frames_done + here
            fraction, text = done / max(1, self._frames), f"frame {done:,} of {self._frames:,}"
        errors = len(self._outcome.errors)
        wrong = f", {errors} could not be read" if errors else ""
        self._progress.reached(min(1.0, fraction), f"{text}, {rate:.1f} frames/s{wrong}")
