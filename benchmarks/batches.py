"""Whether cameras with the same words gain by sharing runs of the engine, measured on the runtime itself.

Takes a bundle that holds graphs for several frames per run. First the frames of all cameras are labelled
together and alone, and compared. Then rounds: cameras whose next frame is always there are run to their
end with every --batch, the first of a round changing each time; the median over the rounds of the ratio
to batch 1 is reported, of CPU seconds and of the clock, and how many frames a run had.

    dedos-export --preset nano --batches 1,2,4 --output nano.dedos
    python benchmarks/batches.py nano.dedos --cameras 4 --batch 2 4 --json
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.options import whole_number
from dedos_deploy.pictures import Picture
from dedos_deploy.runtime import Frame, Outcome, Segmentation, Segmenter, Source
from dedos_deploy.runtime.flow import Camera, Run
from dedos_deploy.runtime.flow.stages import StageBoard
from dedos_deploy.spec import ENGINES
from dedos_deploy.threads import usable_threads

SCENE_HW = (480, 640)


class Pictures(Source):
    """A recording of the same few frames again and again, each there as soon as it is asked for."""

    live = False
    source_id = "pictures"

    def __init__(self, pictures: Sequence[Picture], count: int) -> None:
        self._pictures, self._left = pictures, count

    def read(self, timeout_s: float) -> Frame | Outcome:
        if not self._left:
            return Outcome.END
        self._left -= 1
        picture = self._pictures[self._left % len(self._pictures)]
        return Frame(picture, self._left, time.monotonic(), self.source_id, str(self._left))

    def close(self) -> None:
        """Nothing is held."""


class Runs:
    """Counts the runs of the engine, as a trace would."""

    error = None

    def __init__(self) -> None:
        self.count = 0

    def add(self, call: Any, ended_s: float) -> None:
        self.count += call.stage == "label"


@dataclass(frozen=True)
class Taken:
    """What a run of all cameras took: seconds per frame, and frames per run of the engine."""

    cpu_s: float
    wall_s: float
    frames_per_run: float


@functools.cache
def scenes(count: int) -> list[Picture]:
    from dedos_deploy.scenes import KINDS, render_image

    return [render_image(KINDS[n % 2], seed=n, size_hw=SCENE_HW)[0] for n in range(count)]


def agreement(segmenter: Segmenter, words: Sequence[str], count: int) -> dict[str, float]:
    """Return the least part of pixels with one label, and the largest difference of confidence."""
    views = [segmenter.share(words) for _ in range(count)]
    asked = [(view, picture, 0.0) for view, picture in zip(views, scenes(count), strict=True)]
    found = {"agreement": 1.0, "confidence": 0.0}
    for one, (view, picture, _) in zip(segmenter.together.segment(asked), asked, strict=True):
        if not isinstance(one, Segmentation):
            raise one
        alone = view.segment(picture)
        off = np.abs(one.confidence.astype(int) - alone.confidence).max() / 255
        part = float(np.mean(one.label_map == alone.label_map))
        found = {
            "agreement": min(found["agreement"], part),
            "confidence": max(found["confidence"], float(off)),
        }
    return found


def label_all(segmenter: Segmenter, words: Sequence[str], cameras: int, frames: int) -> Taken:
    pictures, runs = scenes(4), Runs()
    seats = [
        Camera(
            str(number),
            lambda: Pictures(pictures, frames),
            segmenter.share(words),
            live=False,
        )
        for number in range(cameras)
    ]
    board = StageBoard(runs)  # type: ignore[arg-type]
    run = Run(seats, stages=board, together=segmenter.together)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    reports = run.run()
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    done = sum(report.results.frames for report in reports)
    if done != cameras * frames:
        raise DedosError(f"{done} of {cameras * frames} frames were labelled")
    return Taken(cpu_s / done, wall_s / done, done / runs.count)


def rounds_of(
    segmenters: Sequence[Segmenter], words: Sequence[str], args: argparse.Namespace
) -> list[list[Taken]]:
    """Return what every round took, segmenter by segmenter."""
    found = []
    for number in range(args.rounds):
        order = [(number + turn) % len(segmenters) for turn in range(len(segmenters))]
        taken = {
            index: label_all(segmenters[index], words, args.cameras, args.frames) for index in order
        }
        found.append([taken[index] for index in range(len(segmenters))])
    return found


def compare(args: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        bundle = stack.enter_context(Bundle.open(args.bundle))
        batches = [1, *(batch for batch in args.batch or bundle.batches if batch > 1)]
        if len(batches) == 1:
            held = ", ".join(map(str, bundle.batches))
            raise BadInputError(f"nothing to compare: the bundle holds graphs for {held} per run")
        words = bundle.base_words
        segmenters = [
            stack.enter_context(
                Segmenter.load(
                    bundle, classes=words, threads=args.threads, engine=args.engine, batch=batch
                )
            )
            for batch in batches
        ]
        same = [
            agreement(one, words, batch) for one, batch in zip(segmenters, batches, strict=True)
        ]
        taken = rounds_of(segmenters, words, args)
        spec, manifest = bundle.spec, bundle.manifest
    return {
        "preset": manifest.preset,
        "precision": manifest.precision["image"],
        "engine": args.engine,
        "network_hw": [spec.height, spec.width],
        "words": len(words),
        "cameras": args.cameras,
        "threads": usable_threads(args.threads),
        "rounds": args.rounds,
        "machine": platform.machine(),
        "cpu_s_per_frame": statistics.median(row[0].cpu_s for row in taken),
        "batches": {
            str(batch): {
                **same[index],
                "frames_per_run": statistics.median(row[index].frames_per_run for row in taken),
                "cpu_gain": statistics.median(row[0].cpu_s / row[index].cpu_s for row in taken),
                "wall_gain": statistics.median(row[0].wall_s / row[index].wall_s for row in taken),
            }
            for index, batch in enumerate(batches)
            if batch > 1
        },
    }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="of dedos-export --batches 1,2,4")
    parser.add_argument(
        "--cameras", type=typed(whole_number(2)), default=4, metavar="N", help="default: 4"
    )
    parser.add_argument(
        "--batch",
        type=typed(whole_number()),
        nargs="+",
        metavar="N",
        help="to compare with 1 (default: all held)",
    )
    parser.add_argument(
        "--frames",
        type=typed(whole_number()),
        default=8,
        metavar="N",
        help="of a camera (default: 8)",
    )
    parser.add_argument(
        "--rounds", type=typed(whole_number()), default=7, metavar="N", help="default: 7"
    )
    parser.add_argument("--engine", default="cpu", choices=ENGINES, help="default: cpu")
    parser.add_argument(
        "--threads", type=typed(whole_number()), help="of all (default: one per usable core)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        report = compare(args)
    except DedosError as error:
        print(f"batches: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{report['preset']} {report['precision']} on {report['engine']} at {report['network_hw']}, "
        f"K={report['words']}, {report['cameras']} cameras: {1e3 * report['cpu_s_per_frame']:.0f} ms of "
        "CPU per frame alone"
    )
    for batch, row in report["batches"].items():
        print(
            f"  batch {batch}: {row['cpu_gain']:.2f}x by CPU time, {row['wall_gain']:.2f}x by the clock, "
            f"{row['frames_per_run']:.2f} frames per run; {row['agreement']:.2%} of pixels keep their "
            f"label, confidence within {row['confidence']:.3f}"
        )
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
