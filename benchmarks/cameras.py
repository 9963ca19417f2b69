"""Many synthetic cameras on one engine: shares, latency, memory, and what a dead camera costs.

Three runs of the same length, after a warm-up: all cameras; all, the last of them dead (its source
blocks for ever); and all but the last. A dead camera frees its share, so what it costs the others is
their rate beside it against their rate without it. Frames carry their numbers; their labels are
checked against the colours that are known to be there, before anything is counted.

    python benchmarks/cameras.py --json
    python benchmarks/cameras.py --bundle street.dedos --cameras 4 --seconds 60 --max-latency-ms 500
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dedos_deploy.bench.memory import memory_mb
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import DedosError
from dedos_deploy.options import real_number, size_hw, whole_number
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.flow import Camera, CameraReport, Run
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sources.bars import open_test, read_number
from dedos_deploy.runtime.sources.contract import Outcome, Source

GOALS = {"fairness": 0.95, "rate_change_with_dead_camera": 0.03, "growth_mb": 5.0}


class DeadSource(Source):
    """A camera whose driver never answers, until the run is over."""

    source_id = "dead"
    live = True

    def __init__(self, over: threading.Event) -> None:
        self._over = over

    def read(self, timeout_s: float) -> Frame | Outcome:
        self._over.wait()
        return Outcome.END

    def close(self) -> None:
        """Nothing is held."""


def run_cameras(
    shared: Segmenter,
    args: argparse.Namespace,
    count: int,
    *,
    dead: bool = False,
    on_result: Callable[[str, Frame, Segmentation], None] | None = None,
) -> list[CameraReport]:
    """Label `count` cameras for the asked time; with `dead` one more than that never answers."""
    stop = threading.Event()
    height, width = args.size
    uri = f"test:bars?fps={args.fps}&size={height}x{width}"
    limit = args.max_latency_ms / 1e3 if args.max_latency_ms else None
    cameras = [
        Camera(f"c{index}", lambda: open_test(uri), shared.share(args.classes), max_latency_s=limit)
        for index in range(count)
    ]
    if dead:
        cameras.append(Camera("dead", lambda: DeadSource(stop), shared.share(args.classes)))
    timer = threading.Timer(args.seconds, stop.set)
    timer.start()
    try:
        return Run(cameras, stop=stop, on_result=on_result).run()
    finally:
        timer.cancel()
        stop.set()


def rates(reports: Sequence[CameraReport], count: int) -> list[float]:
    """Return the frames a second that each of so many cameras got. Raises DedosError where all got none."""
    found = [report.results.fps for report in reports[:count]]
    if not any(found):
        raise DedosError("no frame was labelled within --seconds; give more, or fewer cameras")
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    mistakes: list[str] = []

    def check(name: str, frame: Frame, result: Segmentation) -> None:
        if read_number(frame.frame_bgr) != frame.frame_id % 2**24:
            mistakes.append(f"{name}: frame {frame.frame_id} is another picture")

    with Segmenter.load(
        args.bundle,
        classes=args.classes,
        background="none",
        engine=args.engine,
        threads=args.threads,
    ) as shared:
        seconds, args.seconds = args.seconds, min(5.0, args.seconds)
        run_cameras(shared, args, args.cameras, on_result=check)
        if mistakes:
            raise SystemExit(f"pictures are mixed up: {mistakes[0]}")
        args.seconds = seconds
        before = memory_mb()
        every = run_cameras(shared, args, args.cameras)
        growth = memory_mb() - before
        beside_dead = run_cameras(shared, args, args.cameras - 1, dead=True)
        without = run_cameras(shared, args, args.cameras - 1)
    shares = rates(every, args.cameras)
    fair = min(shares) / (sum(shares) / len(shares))
    living = sum(rates(beside_dead, args.cameras - 1)), sum(rates(without, args.cameras - 1))
    return {
        "cameras": args.cameras,
        "fairness": fair,
        "latency_p50_ms": float(np.median([r.results.age_p50_ms for r in every])),
        "latency_p99_ms": max(report.results.age_p99_ms for report in every),
        "rate_change_with_dead_camera": abs(living[0] / living[1] - 1),
        "growth_mb": growth,
        "fps_offered": args.fps * args.cameras,
        "fps_labelled": sum(shares),
        "drops": {
            cause: sum(report.results.drops.get(cause, 0) for report in every)
            for cause in sorted({cause for report in every for cause in report.results.drops})
        },
        "seconds": args.seconds,
        "size_hw": list(args.size),
        "engine": args.engine,
        "threads": args.threads,
        "machine": platform.machine(),
    }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="demo", help="default: demo")
    parser.add_argument("--engine", default="cpu", help="default: cpu")
    parser.add_argument("--cameras", type=typed(whole_number(2)), default=8, help="default: 8")
    parser.add_argument(
        "--fps", type=typed(real_number(above=0)), default=30, help="of every camera (default: 30)"
    )
    parser.add_argument(
        "--size", type=typed(size_hw), default=(240, 320), help="of frames (240x320)"
    )
    parser.add_argument(
        "--seconds", type=typed(real_number(least=1)), default=30, help="of every run (default: 30)"
    )
    parser.add_argument("--classes", default="road,car,sky,tree", help="default: four words")
    parser.add_argument(
        "--max-latency-ms", type=typed(real_number(above=0)), help="drop what would be later"
    )
    parser.add_argument(
        "--threads", type=typed(whole_number()), help="of the engine (default: one per core)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    started = time.monotonic()
    try:
        report = measure(args)
    except DedosError as error:
        print(f"cameras: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{report['cameras']} cameras of {args.fps:g} fps, {report['fps_labelled']:.1f} frames a "
        f"second labelled of {report['fps_offered']:.0f}\n"
        f"least share {report['fairness']:.3f} of an equal one (goal {GOALS['fairness']}), capture to "
        f"result p50 {report['latency_p50_ms']:.0f} ms, p99 {report['latency_p99_ms']:.0f} ms\n"
        f"a dead camera changes the others' rate by {report['rate_change_with_dead_camera']:.1%} "
        f"(goal {GOALS['rate_change_with_dead_camera']:.0%}), memory grew by "
        f"{report['growth_mb']:.1f} MB (goal {GOALS['growth_mb']:g}); "
        f"{time.monotonic() - started:.0f} s in all"
    )
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
