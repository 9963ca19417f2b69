"""The loop: a corpus labelled by processes of this machine or others, which may end at any moment and go on."""

from __future__ import annotations

import threading
from collections import Counter

from dedos_deploy.corpus.beginning import Begun
from dedos_deploy.corpus.course import Course, Outcome
from dedos_deploy.corpus.labelling import Job
from dedos_deploy.corpus.plan import Plan
from dedos_deploy.corpus.workers import Heard, Pool, Workers
from dedos_deploy.errors import EngineError, SinkError
from dedos_deploy.progress import QUIET, Progress

LOOK_S = 0.1
MOST_TRIES = 2
"""A shard at which so many workers ended without a word is left out."""


def label_shards(
    begun: Begun,
    job: Job,
    *,
    workers: int,
    pool: Pool | None = None,
    stop: threading.Event | None = None,
    progress: Progress = QUIET,
) -> Outcome:
    """Label the shards of a corpus that are not labelled yet, with so many workers.

    job: its threads are those of each worker; pool: where workers are started, closed at the end, None
    for processes of this machine; stop: once set, what is at work is dropped. Frames and sources that
    cannot be read are in the outcome and end nothing. Raises EngineError, SinkError.
    """
    run = _Run(begun, stop or threading.Event(), progress)
    with progress.part(2, 2, "labelling"):
        outcome = run.run(Workers(job) if pool is None else pool, workers)
    if pool is not None and (there := len(begun.shards_done())) < outcome.done:
        raise SinkError(
            f"{outcome.done} shards are labelled and {there} are in {outcome.folder!r}: other machines have "
            "a folder of this name of their own; give an --output that all of them reach, as s3://"
        )
    return outcome


class _Run:
    """One run of the loop."""

    def __init__(self, begun: Begun, stop: threading.Event, progress: Progress) -> None:
        self._manifest = begun.manifest
        self._stop, self._progress = stop, progress
        self._course = Course(begun, progress)
        self._plan = Plan(begun.manifest, self._course.before)
        self._at: dict[int, int] = {}
        """Shard that each worker is at."""
        self._told: dict[int, int] = {}
        """Frames of it that are done."""
        self._tries: Counter[int] = Counter()

    def run(self, pool: Pool, workers: int) -> Outcome:
        """Label what is left."""
        with pool:
            if self._plan.left:
                for _ in range(min(workers, self._plan.left)):
                    pool.start()
                # A worker may never begin, as where a cluster has no room for it.
                while len(pool) and (self._plan.left or self._at) and not self._stop.is_set():
                    for heard in pool.heard(LOOK_S):
                        self._hear(heard, pool)
                    self._course.tell(sum(self._told.values()))
        return self._course.finish(stopped=self._stop.is_set())

    def _hear(self, heard: Heard, workers: Pool) -> None:
        if heard.error is not None:
            raise heard.error
        if heard.kind == "gone":
            self._replace(heard, workers)
            return
        self._told[heard.worker] = heard.frames
        if heard.kind == "ready":
            self._course.ready()
        if heard.report is not None:
            del self._at[heard.worker]
            self._told[heard.worker] = 0
            self._course.done(heard.report)
        if heard.kind in ("ready", "done"):
            self._give(heard.worker, workers)

    def _give(self, worker: int, workers: Pool) -> None:
        shard = self._plan.next(worker)
        if shard is None:
            workers.end(worker)
            return
        self._at[worker] = shard
        workers.give(worker, shard, self._manifest.pieces(shard))

    def _replace(self, heard: Heard, workers: Pool) -> None:
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
            self._course.outcome.lost[shard] = heard.text
        self._plan.leave(heard.worker, None if is_lost else shard)
        if self._plan.left:
            workers.start()

    def _go_on_without(self, heard: Heard, workers: Pool) -> None:
        """Do not replace a worker that ended before it had a shard: the next one would, too."""
        if not len(workers):
            raise EngineError(
                f"a process that should label {heard.text} before it could; try fewer --workers"
            )
        self._progress.warn(f"a process {heard.text} before it could label; going on without it")
        self._plan.leave(heard.worker, None)
