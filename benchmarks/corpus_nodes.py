"""Label a video on a Ray cluster of two nodes of this machine, one of which is killed at work and comes back.

What happened is written down: when workers were ready, when each attempt at a shard began and ended, when
the node was killed and when a worker was ready in its place. `corpus_cost.py --replay` simulates the same
from these rates. All workers share this machine with whatever else runs on it, so that rates are those of
the run itself. Last the data set is verified.

In the environment that `.ci/corpus FOLDER` makes:

    FOLDER/bin/python benchmarks/corpus_nodes.py drive.mp4 --json > nodes.json
    FOLDER/bin/python benchmarks/corpus_cost.py --replay nodes.json
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corpus_record import Attempt, Record

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli._options import typed
from dedos_deploy.corpus.beginning import Wanted, begin
from dedos_deploy.corpus.inputs import absolute
from dedos_deploy.corpus.labelling import Job
from dedos_deploy.corpus.loop import label_shards
from dedos_deploy.corpus.manifest import Piece
from dedos_deploy.corpus.ray_cluster import RayCluster, ray_module
from dedos_deploy.corpus.ray_workers import RayWorkers
from dedos_deploy.corpus.verify import verify_corpus
from dedos_deploy.corpus.workers import Heard, Pool
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.options import real_number, whole_number
from dedos_deploy.vocabulary import typed_vocabulary

STORE_BYTES = 80 * 2**20
NOTICED_SOON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
}
"""A node that is gone is to be noticed in a second or two, not in half a minute."""


class Watched(Pool):
    """A pool of workers that notes who said what when."""

    def __init__(self, pool: Pool, expected: dict[int, int]) -> None:
        """expected: frames of every shard."""
        self._pool, self._expected = pool, expected
        self._zero_s = time.monotonic()
        self._at: dict[int, tuple[int, float]] = {}
        """Frames of the shard that each worker is at, and since when."""
        self.attempts: list[Attempt] = []
        self.ready_s: list[float] = []

    def __len__(self) -> int:
        return len(self._pool)

    @property
    def now_s(self) -> float:
        """Since the first worker was asked for, or soon will be."""
        return time.monotonic() - self._zero_s

    @property
    def done(self) -> int:
        return sum(one.is_done for one in self.attempts)

    def start(self) -> int:
        return self._pool.start()

    def give(self, worker: int, shard: int, pieces: list[Piece]) -> None:
        self._at[worker] = self._expected[shard], self.now_s
        self._pool.give(worker, shard, pieces)

    def end(self, worker: int) -> None:
        self._pool.end(worker)

    def heard(self, timeout_s: float) -> Iterator[Heard]:
        for heard in self._pool.heard(timeout_s):
            if heard.kind == "ready":
                self.ready_s.append(self.now_s)
            elif heard.worker in self._at and heard.kind in ("done", "gone"):
                frames, began_s = self._at.pop(heard.worker)
                is_done = heard.kind == "done"
                attempt = Attempt(heard.worker, frames, began_s, self.now_s, is_done)
                self.attempts.append(attempt)
            yield heard

    def close(self) -> None:
        self._pool.close()


class Nodes:
    """A head and one more node, each with room for one worker."""

    def __init__(self) -> None:
        os.environ |= NOTICED_SOON
        ray_module()
        from ray.cluster_utils import Cluster

        self._small: dict[str, Any] = {"object_store_memory": STORE_BYTES, "num_cpus": 1}
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"include_dashboard": False, **self._small},
            # Its handlers of signals are for the main thread alone, which labels meanwhile.
            shutdown_at_exit=False,
        )
        self._other = self._cluster.add_node(**self._small)
        self.address: str = self._cluster.address
        self.failed_s: float | None = None
        self._over = threading.Event()

    @contextmanager
    def failing(self, watched: Watched, *, after: int, away_s: float) -> Iterator[None]:
        """While the block lasts kill the other node once so many shards are done, and begin it again."""
        thread = threading.Thread(target=self._fail, args=(watched, after, away_s))
        thread.start()
        try:
            yield
        finally:
            # Labelling may end before its time has come, and with an error.
            self._over.set()
            thread.join()

    def _fail(self, watched: Watched, after: int, away_s: float) -> None:
        while watched.done < after:
            if self._over.wait(0.01):
                return
        self.failed_s = watched.now_s
        self._cluster.remove_node(self._other, allow_graceful=False)
        if not self._over.wait(max(0.0, self.failed_s + away_s - watched.now_s)):
            self._other = self._cluster.add_node(**self._small)

    def close(self) -> None:
        self._cluster.shutdown()


def run(args: argparse.Namespace, job: Job) -> Record:
    """Label, with one failure, and return what happened. Raises DedosError."""
    wanted = Wanted((args.video,), most=args.frames, shard_frames=args.shard, workers=2)
    begun = begin(job, wanted)
    shards = len(begun.manifest)
    nodes = Nodes()
    try:
        with RayCluster(nodes.address, workers=2, threads=1, on_gpu=False) as cluster:
            frames = {shard: begun.manifest.frames(shard) for shard in range(shards)}
            watched = Watched(RayWorkers(cluster, job), frames)
            after = max(1, round(args.kill_at * shards))
            with nodes.failing(watched, after=after, away_s=args.away):
                outcome = label_shards(begun, job, workers=2, pool=watched)
    finally:
        nodes.close()
    if outcome.errors or outcome.lost or nodes.failed_s is None or len(watched.ready_s) < 3:
        wrong = outcome.errors or outcome.lost or "no worker came back before the end"
        raise BadInputError(
            f"the run says nothing of a failure ({wrong}); label more frames, or give another --kill-at"
        )
    return Record(
        workers=2,
        shard=args.shard,
        ready_s=tuple(watched.ready_s),
        failed_s=nodes.failed_s,
        back_s=watched.ready_s[2],
        attempts=tuple(watched.attempts),
        seconds=watched.attempts[-1].ended_s,
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument("--bundle", default="demo", metavar="PATH")
    parser.add_argument("--classes", default="road,car,person,tree,building,sky")
    parser.add_argument("--frames", type=typed(whole_number()), default=400, help="at most (400)")
    parser.add_argument(
        "--shard", type=typed(whole_number()), default=10, help="frames per shard (10)"
    )
    parser.add_argument(
        "--kill-at",
        type=typed(real_number(least=0, below=1)),
        default=0.4,
        help="part of the shards that are done then (0.4)",
    )
    parser.add_argument(
        "--away",
        type=typed(real_number(least=0, below=600)),
        default=5.0,
        help="seconds until the node is begun again (5)",
    )
    parser.add_argument("--json", action="store_true", help="print the record as one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="dedos-corpus-") as folder:
            with Bundle.open(args.bundle) as bundle:
                sha256 = bundle.sha256
            output = str(Path(folder, "out"))
            args.video = absolute(args.video)
            job = Job(output, args.bundle, typed_vocabulary(args.classes), sha256, threads=1)
            record = run(args, job)
            verdict = verify_corpus(output)
    except DedosError as error:
        print(f"corpus_nodes.py: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{record.frames} frames in {record.seconds:.1f} s; of {len(record.attempts)} attempts "
        f"{len(record.lost)} lost at {record.failed_s:.1f} s, noticed after {record.notice_s:.1f} s, a worker "
        f"was back after {record.restart_s:.1f} s; {verdict.missing} missing, {verdict.duplicates} double, "
        f"{verdict.wrong} wrong"
    )
    # The rates of a run that lost frames say nothing.
    if args.json and verdict.is_whole:
        print(record.to_json())
    return 0 if verdict.is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
