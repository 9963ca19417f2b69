"""How near the plain loop of dedos-label comes to its engine, and whether a run that is killed loses frames.

Videos are named again and again, by links, until there are enough frames. Some frames are first labelled
both ways and compared. Then rounds, in turn: the bare engine, which gets frames that are decoded already
and throws its label maps away, and the loop with all that it has to do: decoding, PNG, Parquet, processes.
`loop_ratio` is the median over the rounds of frames a second, from the first engine that is loaded on;
`cpu_ratio` that of frames per CPU second, which a busy machine leaves alone, and where loading counts. With `--ray`
`ray_ratio` is that of actors of a cluster. Last the command labels all frames, is killed at random moments, all its
processes at once or the first alone, goes on, and is verified; `growth_mb` is how much larger its processes, all
together, are towards the end of what follows the last kill.

    python benchmarks/corpus.py drive.mp4 street.mp4 --json
    python benchmarks/corpus.py drive.mp4 --frames 20000 --rated 2000 --kills 5 --ray local
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli._options import typed
from dedos_deploy.corpus import open_corpus
from dedos_deploy.corpus.beginning import Wanted, begin
from dedos_deploy.corpus.frames import FrameReader
from dedos_deploy.corpus.inputs import counted
from dedos_deploy.corpus.labelling import Job
from dedos_deploy.corpus.loop import label_shards
from dedos_deploy.corpus.manifest import Manifest, Piece, cut, manifest_bytes
from dedos_deploy.corpus.ray_cluster import RayCluster
from dedos_deploy.corpus.ray_workers import RayWorkers
from dedos_deploy.corpus.verify import verify_corpus
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.options import whole_number
from dedos_deploy.pictures import Picture
from dedos_deploy.runtime import Segmenter
from dedos_deploy.spec import CPU_ENGINES
from dedos_deploy.threads import usable_cores
from dedos_deploy.vocabulary import typed_vocabulary

COMPARED = 20
DECODED_AT_ONCE = 50
SAMPLE_S = 0.5


@dataclass
class Rate:
    """What labelling some frames took."""

    frames: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        return self.frames / self.seconds

    @property
    def per_cpu_s(self) -> float:
        return self.frames / self.cpu_s


@dataclass
class Memory:
    """Resident memory of this process's children and theirs, sampled while they work."""

    samples_mb: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def sampled(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._sample, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _sample(self, over: threading.Event) -> None:
        while not over.wait(SAMPLE_S):
            pages = sum(map(_resident, _below("self")))
            self.samples_mb.append(pages * resource.getpagesize() / 2**20)

    @property
    def growth_mb(self) -> float:
        """Median of the last quarter less that of the second one, when all is loaded."""
        quarter = len(self.samples_mb) // 4
        if quarter == 0:
            raise BadInputError("too few frames to see memory grow; ask for more --frames")
        early = statistics.median(self.samples_mb[quarter : 2 * quarter])
        return statistics.median(self.samples_mb[-quarter:]) - early


def _below(process: str) -> Iterator[str]:
    """Yield the ids of a process's children and of theirs, as far as they still run."""
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield child
                yield from _below(child)


def _resident(process: str) -> int:
    """Return the pages that a process holds, 0 when it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0


def linked(videos: Sequence[str], frames: int, folder: Path) -> list[str]:
    """Return links to the videos, each again and again under another name, with so many frames in all."""
    counts = {one.source: one.frames for one in counted(map(os.path.abspath, videos))}
    for video, count in counts.items():
        if not count:
            raise BadInputError(
                f"{video!r} does not say how many frames it has; give another video"
            )
    links: list[str] = []
    while frames > 0:
        video = list(counts)[len(links) % len(counts)]
        link = folder / f"{len(links):04d}{Path(video).suffix}"
        link.symlink_to(video)
        links.append(str(link))
        frames -= counts[video] or 0
    return links


def decoded(inputs: Sequence[str], frames: int) -> Iterator[list[Picture]]:
    """Yield some of the frames of the inputs at a time, so many in all."""
    pictures = (
        item.picture
        for source in inputs
        for item in FrameReader(source).frames(0, None)
        if item.picture is not None
    )
    limited = islice(pictures, frames)
    while block := list(islice(limited, DECODED_AT_ONCE)):
        yield block


def bare(segmenter: Segmenter, inputs: Sequence[str], frames: int) -> Rate:
    rate = Rate()
    for block in decoded(inputs, frames):
        began_s, cpu_s = time.perf_counter(), time.process_time()
        for picture in block:
            segmenter.segment(picture)
        rate.seconds += time.perf_counter() - began_s
        rate.cpu_s += time.process_time() - cpu_s
        rate.frames += len(block)
    return rate


def looped(job: Job, wanted: Wanted) -> Rate:
    begun, before = begin(job, wanted), _cpu_of_children()
    outcome = label_shards(begun, job, workers=wanted.workers)
    if outcome.errors or outcome.lost:
        raise BadInputError(f"the loop met errors: {outcome.errors or outcome.lost}")
    return Rate(outcome.frames, outcome.seconds, _cpu_of_children() - before)


def on_ray(address: str, job: Job, wanted: Wanted) -> Rate:
    """Label by actors of Ray; seconds count from the first engine that is loaded on, as in `looped`."""
    with RayCluster(
        address,
        workers=wanted.workers,
        threads=job.threads or 1,
        on_gpu=job.engine not in CPU_ENGINES,
    ) as cluster:
        pool = RayWorkers(cluster, job)
        outcome = label_shards(begin(job, wanted), job, workers=wanted.workers, pool=pool)
    if outcome.errors or outcome.lost:
        raise BadInputError(f"Ray met errors: {outcome.errors or outcome.lost}")
    return Rate(outcome.frames, outcome.seconds)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def agreement(job: Job, wanted: Wanted, segmenter: Segmenter) -> float:
    """Return the part of the pixels that the loop labels as the engine alone does."""
    label_shards(begin(job, replace(wanted, most=COMPARED)), job, workers=wanted.workers)
    same = total = 0
    pictures = (picture for block in decoded(wanted.inputs, COMPARED) for picture in block)
    with open_corpus(job.output) as corpus:
        for row, picture in zip(corpus, pictures, strict=True):
            found = segmenter.segment(picture).label_map
            same += int((found == row.label_map).sum())
            total += found.size
    return same / total


def killed(
    args: argparse.Namespace, inputs: Sequence[str], output: str, expected_s: float
) -> Memory:
    """Run the command, killed so many times at random moments, to its end; return the memory of the last."""
    chance = random.Random(args.seed)
    command = [sys.executable, "-m", "dedos_deploy.cli.label", *inputs, "--classes", args.classes]
    command += ["--bundle", args.bundle, "--output", output, "--max-frames", str(args.frames)]
    command += ["--workers", str(args.workers), "--quiet"]
    for _ in range(args.kills):
        run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            run.wait(chance.uniform(0.3, 1.0) * expected_s / (args.kills + 1) + 3.0)
        except subprocess.TimeoutExpired:
            end = os.killpg if chance.random() < 0.5 else os.kill
            end(run.pid, signal.SIGKILL)
            run.wait()
    memory = Memory()
    with memory.sampled():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return memory


def opening_s(rows: int) -> float:
    """Return how long a manifest of so many pictures takes to open and to give its last shard."""
    pieces = (Piece(f"/corpus/pictures/{n:08d}.jpg", 0, 1, 1, 1) for n in range(rows))
    content = manifest_bytes(cut(pieces, 500))
    began_s = time.perf_counter()
    manifest = Manifest(content, "it")
    manifest.pieces(len(manifest) - 1)
    return time.perf_counter() - began_s


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    inputs = linked(args.videos, args.frames, folder)
    rated = args.frames if args.rated is None else args.rated
    if not 1 <= rated <= args.frames:
        raise BadInputError(
            f"--rated must lie in [1, {args.frames}], the frames of the whole run, not {rated}"
        )
    wanted = Wanted(tuple(inputs), most=rated, workers=args.workers)
    vocabulary = typed_vocabulary(args.classes)
    with Bundle.open(args.bundle) as bundle:
        threads = max(1, usable_cores() // args.workers)
        job = Job(str(folder / "out"), args.bundle, vocabulary, bundle.sha256, threads=threads)
    rounds: list[tuple[Rate, Rate]] = []
    of_ray: list[float] = []
    with Segmenter.load(args.bundle, classes=vocabulary) as segmenter:
        same = agreement(replace(job, output=str(folder / "compared")), wanted, segmenter)
        for number in range(args.rounds):
            alone = bare(segmenter, inputs, rated)
            output = replace(job, output=str(folder / f"out-{number}"))
            rounds.append((alone, looped(output, wanted)))
            if args.ray is not None:
                output = replace(job, output=str(folder / f"ray-{number}"))
                of_ray.append(on_ray(args.ray, output, wanted).per_s / alone.per_s)
    expected_s = args.frames / statistics.median(loop.per_s for _, loop in rounds)
    memory = killed(args, inputs, str(folder / "killed"), expected_s)
    verdict = verify_corpus(folder / "killed")
    return {
        "frames": verdict.frames,
        "rated": rated,
        "agreement": same,
        "loop_ratio": _median(loop.per_s / alone.per_s for alone, loop in rounds),
        **({"ray_ratio": _median(iter(of_ray))} if of_ray else {}),
        "cpu_ratio": _median(loop.per_cpu_s / alone.per_cpu_s for alone, loop in rounds),
        "bare_frames_per_s": _median(alone.per_s for alone, _ in rounds),
        "loop_frames_per_s": _median(loop.per_s for _, loop in rounds),
        "kills": args.kills,
        "missing": verdict.missing,
        "duplicates": verdict.duplicates,
        "wrong": verdict.wrong,
        "growth_mb": round(memory.growth_mb, 1),
        "manifest_100k_s": round(opening_s(100_000), 4),
        "workers": args.workers,
        "rounds": args.rounds,
        "machine": f"{platform.machine()}, {usable_cores()} cores",
    }


def _median(values: Iterator[float]) -> float:
    return round(statistics.median(values), 4)


def build_parser() -> argparse.ArgumentParser:
    first, *_ = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(description=first)
    parser.add_argument("videos", nargs="+", metavar="VIDEO")
    parser.add_argument("--bundle", default="demo", metavar="PATH")
    parser.add_argument("--classes", default="road,car,person,tree,building,sky")
    parser.add_argument(
        "--frames", type=typed(whole_number()), default=1500, help="of the run that is killed"
    )
    parser.add_argument(
        "--rated", type=typed(whole_number()), help="of every round (default: as many)"
    )
    parser.add_argument("--rounds", type=typed(whole_number()), default=3)
    parser.add_argument("--kills", type=typed(whole_number(0)), default=5)
    parser.add_argument("--workers", type=typed(whole_number()), default=usable_cores())
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="measure dedos-label --ray there, too, as ray_ratio"
    )
    parser.add_argument(
        "--seed", type=typed(whole_number(0)), default=0, help="of the moments of the kills"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="dedos-corpus-") as folder:
            report = measure(args, Path(folder))
    except DedosError as error:
        print(f"corpus.py: error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(report))
    else:
        print("\n".join(f"{name:20} {value}" for name, value in report.items()))
    return 0 if report["missing"] == report["duplicates"] == report["wrong"] == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
