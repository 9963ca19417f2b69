"""Actors of Ray that label shards, one engine each, on whatever machines a cluster has.

Ray's actors alone, and not its data sets: a row of those that keeps a worker on its video would be a whole
video, of which nothing is known or kept before its end, and a shard that another takes over from a slow one
could not be. Where actors run, and that a machine is lost, is what Ray finds out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dedos_deploy.corpus.workers import Heard, Pool
from dedos_deploy.errors import DedosError, EngineError
from dedos_deploy.progress import QUIET, Progress

if TYPE_CHECKING:
    from dedos_deploy.corpus.labelling import Job, ShardLabeller, ShardReport
    from dedos_deploy.corpus.manifest import Piece
    from dedos_deploy.corpus.ray_cluster import RayCluster

PATIENCE_S = 20.0
"""How long nobody may begin before that is said."""


class Labeller:
    """What runs on the machines of the cluster. Errors that are ours are returned: those raised lose
    their class on the way."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._labeller: ShardLabeller | None = None

    def begin(self) -> DedosError | None:
        """Load the engine."""
        from dedos_deploy.corpus.labelling import ShardLabeller
        from dedos_deploy.runtime.opencv import silence_ffmpeg

        silence_ffmpeg()
        try:
            self._labeller = ShardLabeller(self._job)
        except DedosError as error:
            return error
        return None

    def label(self, shard: int, pieces: list[Piece]) -> DedosError | ShardReport:
        """Label a shard, once the engine is loaded."""
        assert self._labeller is not None
        try:
            return self._labeller.label(shard, pieces)
        except DedosError as error:
            return error


class RayWorkers(Pool):
    """Actors of a cluster."""

    def __init__(self, cluster: RayCluster, job: Job, progress: Progress = QUIET) -> None:
        """job: its threads are those of each worker, its GPU is one that Ray gives to each."""
        self._cluster, self._ray, self._progress = cluster, cluster.ray, progress
        self._actor = self._ray.remote(
            num_cpus=cluster.threads, num_gpus=int(cluster.on_gpu), max_restarts=0
        )(Labeller)
        self._job = self._ray.put(job)
        self._actors: dict[int, Any] = {}
        self._answers: dict[Any, int] = {}
        """Worker whose answer each reference is."""
        self._begun: set[int] = set()
        """Workers whose engine is loaded."""
        self._started, self._since_s = 0, time.monotonic()

    def __len__(self) -> int:
        return len(self._actors)

    def start(self) -> int:
        number, self._started = self._started, self._started + 1
        self._actors[number] = self._actor.remote(self._job)
        self._answers[self._actors[number].begin.remote()] = number
        return number

    def give(self, worker: int, shard: int, pieces: list[Piece]) -> None:
        self._answers[self._actors[worker].label.remote(shard, pieces)] = worker

    def end(self, worker: int) -> None:
        self._begun.discard(worker)
        self._ray.kill(self._actors.pop(worker))

    def heard(self, timeout_s: float) -> Iterator[Heard]:
        count = len(self._answers)
        ready, _ = self._ray.wait(list(self._answers), num_returns=1, timeout=timeout_s)
        if ready and count > 1:
            ready, _ = self._ray.wait(list(self._answers), num_returns=count, timeout=0)
        for answer in ready:
            yield self._heard(self._answers.pop(answer), answer)
        self._say_that_nobody_begins()

    def close(self) -> None:
        """End all of them, dropping what they are at."""
        for worker in list(self._actors):
            self.end(worker)
        self._answers.clear()

    def _heard(self, worker: int, answer: Any) -> Heard:
        try:
            said = self._ray.get(answer)
        except self._ray.exceptions.RayActorError:
            self.end(worker)  # where it only could not be reached, it must not go on
            return Heard(worker, "gone", text="or its machine was lost")
        except self._ray.exceptions.RayError as error:
            text = " ".join(str(error).split())[-300:]
            return Heard(worker, "failed", error=EngineError(f"a worker failed: {text}"))
        if isinstance(said, DedosError):
            return Heard(worker, "failed", error=said)
        if said is None:
            self._begun.add(worker)
            return Heard(worker, "ready")
        return Heard(worker, "done", report=said, frames=said.frames)

    def _say_that_nobody_begins(self) -> None:
        if self._begun:
            self._since_s = time.monotonic()
        elif time.monotonic() - self._since_s > PATIENCE_S:
            self._since_s = time.monotonic()
            found = self._ray.available_resources()
            has = f"{found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs"
            self._progress.warn(f"no worker has begun yet; the cluster has {has} that are free")
