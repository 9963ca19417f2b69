"""Months in minutes: many frames, many changed words, many lost sources, and what is left of it all.

Cameras whose sources break again and again share one engine while their words change. Every result
is checked: the picture is the one that its frame says it is, and its words are those of the version
that it names. Before and after, memory, threads and descriptors are counted; then sinks and sources
that block, in every kind, and the time a stop takes.

    python benchmarks/soak.py --json
    python benchmarks/soak.py --frames 1000000 --losses 2000 --changes 10000
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dedos_deploy.bench.memory import memory_mb
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import DedosError, SourceError
from dedos_deploy.options import whole_number
from dedos_deploy.runtime import Segmenter, open_sink
from dedos_deploy.runtime.flow import Camera, FeedOptions, Reconnect, Run, RunOptions
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions
from dedos_deploy.runtime.sources.bars import open_test, read_number
from dedos_deploy.runtime.sources.contract import Outcome, Source

GOALS = {"growth_mb": 5.0, "threads_left": 0, "descriptors_left": 0, "slowest_stop_s": 2.0}
WARM_UP = 0.1
"""Part of the frames after which memory is counted for the first time."""
VOCABULARIES = ("red,green", "blue", "table,red,blue,green", "lamp,red", "door,blue,green")
TINY = "tiny"
SIZE = "48x96"
FASTEST_FPS = 999


class BreakingSource(Source):
    """Test pictures that break off when they are told to."""

    live = True

    def __init__(self, name: str, due: Callable[[], bool]) -> None:
        self._bars = open_test(f"test:bars?fps={FASTEST_FPS}&size={SIZE}")
        self.source_id = name
        self._due = due

    def read(self, timeout_s: float) -> Frame | Outcome:
        if self._due():
            raise SourceError("the cable is loose")
        return self._bars.read(timeout_s)

    def close(self) -> None:
        self._bars.close()


class Blocked(Source, Sink):
    """A driver or disk that never answers, until the measurement is over."""

    source_id = uri = "blocked"
    live = True

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def read(self, timeout_s: float) -> Frame | Outcome:
        self.let_go.wait()
        return Outcome.END

    def write(self, frame: Frame, result: Segmentation) -> None:
        self.let_go.wait()

    def close(self) -> None:
        """Nothing is held."""


class Soak:
    """One run: what it is asked for and what came of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.mistakes: list[str] = []
        self.results = 0
        self.changes = 0
        self.losses = 0
        self.due = [0] * args.cameras
        self.words: list[dict[int, tuple[str, ...]]] = []
        self.stop = threading.Event()
        self.before_mb = 0.0

    def check(self, name: str, frame: Frame, result: Segmentation) -> None:
        """Check a result, and do what is due at this number of them."""
        self.results += 1
        camera = int(name)
        if read_number(frame.frame_bgr) != frame.frame_id % 2**24:
            self.mistakes.append(f"camera {name}: frame {frame.frame_id} is another picture")
        words = {result.classes[number] for number in result.class_ids}
        if words != set(self.words[camera][result.vocabulary_version]):
            self.mistakes.append(
                f"camera {name}: {words} under version {result.vocabulary_version}"
            )
        if self.results == max(1, int(WARM_UP * self.args.frames)):
            self.before_mb = settled_memory_mb()

    def lose(self, camera: int) -> bool:
        """Return whether this camera is to break now."""
        if self.due[camera] == 0:
            return False
        self.due[camera] -= 1
        self.losses += 1
        return True

    def disturb(self, views: Sequence[Any]) -> None:
        """Change words and break sources, evenly over the run; on a thread of its own."""
        turn = 0
        while not self.stop.is_set():
            part = self.results / self.args.frames
            if self.changes < part * self.args.changes:
                camera = self.changes % self.args.cameras
                text = VOCABULARIES[(self.changes // self.args.cameras + 1) % len(VOCABULARIES)]
                # Said before it can be seen.
                self.words[camera][views[camera].vocabulary_version + 1] = tuple(text.split(","))
                views[camera].set_classes(text)
                self.changes += 1
            elif self.losses + sum(self.due) < part * self.args.losses:
                self.due[turn % self.args.cameras] += 1
                turn += 1
            else:
                time.sleep(0.001)

    def run(self, shared: Segmenter) -> dict[str, Any]:
        views = [shared.share(VOCABULARIES[0]) for _ in range(self.args.cameras)]
        self.words = [
            {view.vocabulary_version: tuple(VOCABULARIES[0].split(","))} for view in views
        ]
        feed = FeedOptions(reconnect=Reconnect(first_s=0.001, longest_s=0.01, attempts=None))
        cameras = [
            Camera(
                str(number),
                partial(BreakingSource, str(number), partial(self.lose, number)),
                view,
                [open_sink("null", SinkOptions(live=True))],
                feed=feed,
            )
            for number, view in enumerate(views)
        ]
        fleet = Run(
            cameras, RunOptions(max_results=self.args.frames), stop=self.stop, on_result=self.check
        )
        disturber = threading.Thread(target=self.disturb, args=[views])
        disturber.start()
        started = time.monotonic()
        try:
            reports = fleet.run()
        finally:
            seconds = time.monotonic() - started
            self.stop.set()
            disturber.join()
        return {
            "frames": self.results,
            "class_changes": self.changes,
            "source_losses": sum(report.source.reconnects for report in reports),
            "mistakes": len(self.mistakes),
            "seconds": seconds,
            "drops": {
                cause: sum(report.results.drops.get(cause, 0) for report in reports)
                for cause in sorted({cause for report in reports for cause in report.results.drops})
            },
        }


def settled_memory_mb() -> float:
    """Return the resident memory without what only waits to be collected."""
    gc.collect()
    return memory_mb()


def descriptors() -> int:
    """Return how many files, sockets and pipes are open."""
    return len(os.listdir("/proc/self/fd"))


def same(source: Source) -> Source:
    """Return what is open already."""
    return source


def stops(shared: Segmenter) -> dict[str, float]:
    """Return how long a stop takes while something is blocked, in seconds."""
    found: dict[str, float] = {}
    for kind in ("nothing", "source", "sink", "both"):
        stop, blocked = threading.Event(), [Blocked() for _ in range(4)]
        open_bars = partial(open_test, f"test:bars?fps=60&size={SIZE}")
        cameras = [Camera("fine", open_bars, shared.share("red"))]
        for number, one in enumerate(blocked):
            source = partial(same, one) if kind in ("source", "both") else open_bars
            sinks = [one] if kind in ("sink", "both") else []
            cameras.append(Camera(f"c{number}", source, shared.share("red"), sinks))
        asked = [0.0]

        def ask(asked: list[float] = asked, stop: threading.Event = stop) -> None:
            asked[0] = time.monotonic()
            stop.set()

        threading.Timer(0.5, ask).start()
        Run(cameras, stop=stop).run()
        found[kind] = time.monotonic() - asked[0]
        for one in blocked:
            one.let_go.set()
    return found


def bundle_of(args: argparse.Namespace, folder: Path) -> str:
    """Return the bundle that is asked for, written into `folder` if it is the tests' one."""
    if args.bundle != TINY:
        return str(args.bundle)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "runtime"))
    from tiny_bundle import write_tiny_bundle

    return str(write_tiny_bundle(folder / "tiny"))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    logging.getLogger("dedos_deploy").setLevel(logging.CRITICAL)
    with (
        tempfile.TemporaryDirectory() as folder,
        Segmenter.load(
            bundle_of(args, Path(folder)),
            classes="red",
            background="none",
            engine=args.engine,
            threads=args.threads,
        ) as shared,
    ):
        threads_before, descriptors_before = threading.active_count(), descriptors()
        soak = Soak(args)
        report = soak.run(shared)
        report |= {
            # First, since threads that are about to end hold memory.
            "threads_left": settle(threads_before) - threads_before,
            "growth_mb": settled_memory_mb() - soak.before_mb,
            "descriptors_left": descriptors() - descriptors_before,
        }
        stopped = stops(shared)
        report["threads_left"] += settle(threads_before) - threads_before
    if soak.mistakes:
        print("\n".join(soak.mistakes[:5]), file=sys.stderr)
    return report | {
        "stop_s": stopped,
        "slowest_stop_s": max(stopped.values()),
        "cameras": args.cameras,
        "engine": args.engine,
        "bundle": args.bundle,
        "machine": platform.machine(),
    }


def settle(threads: int) -> int:
    """Wait a moment for threads to end; return how many there are."""
    deadline_s = time.monotonic() + 5.0
    while threading.active_count() > threads and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return threading.active_count()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundle",
        default=TINY,
        help="default: tiny, the colour detector of the tests, so that a hundred thousand frames take "
        "minutes; demo takes hours",
    )
    parser.add_argument("--engine", default="cpu", help="default: cpu")
    parser.add_argument(
        "--threads", type=typed(whole_number()), help="of the engine (default: one per core)"
    )
    parser.add_argument("--cameras", type=typed(whole_number()), default=4, help="default: 4")
    parser.add_argument(
        "--frames", type=typed(whole_number()), default=100_000, help="default: 100000"
    )
    parser.add_argument(
        "--changes", type=typed(whole_number(0)), default=1000, help="of words (default: 1000)"
    )
    parser.add_argument(
        "--losses", type=typed(whole_number(0)), default=200, help="of sources (default: 200)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        report = measure(args)
    except DedosError as error:
        print(f"soak: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{report['frames']} frames of {report['cameras']} cameras in {report['seconds']:.0f} s, "
        f"{report['class_changes']} changes of words, {report['source_losses']} lost sources\n"
        f"{report['mistakes']} results wrong; memory grew by {report['growth_mb']:.1f} MB (goal "
        f"{GOALS['growth_mb']:g}); {report['threads_left']} threads and "
        f"{report['descriptors_left']} descriptors left over\n"
        f"the slowest stop took {report['slowest_stop_s']:.2f} s (goal {GOALS['slowest_stop_s']:g})"
    )
    if args.json:
        print(json.dumps(report))
    missed = [name for name, goal in GOALS.items() if report[name] > goal]
    return 1 if missed or report["mistakes"] else 0


if __name__ == "__main__":
    sys.exit(main())
