"""dedos-eval: how well a bundle labels a folder of labelled images."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, run_command

if TYPE_CHECKING:
    from dedos_deploy.evaluation import EvaluationResult

_DESCRIPTION = """\
Measure a bundle as it is deployed: every image of the split goes through the runtime, and its
label map is compared with the labels at the image's own size.

The data folder holds images/<split>/*.jpg, labels/<split>/*.png (8-bit, a pixel is a line number
of classes.txt from 0, 255 is not counted) and classes.txt.
"""

_EPILOG = """\
examples:
  dedos-eval --bundle street.dedos --data camvid --split val
  dedos-eval --bundle demo --data camvid --split val --classes "road,vehicle|car" --json

Both means are over classes: miou_present over those that the labels contain, as published tables
have it; miou_union also counts, with 0, those that were only ever predicted.
"""

_QUIET_SECONDS = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run dedos-eval and return its exit code."""
    return run_command(build_parser, run, argv)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of dedos-eval to a parser."""
    parser.add_argument(
        "--bundle", required=True, help="bundle folder, .dedos file, or demo for the embedded one"
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="folder of the data set")
    parser.add_argument("--split", default="val", help="split of the data set (default: val)")
    parser.add_argument(
        "--classes",
        help="classes to ask for, as dedos-run takes them; each must name a class of the data by "
        "its name or a synonym, and classes left out are not counted (default: all of them)",
    )
    parser.add_argument(
        "--background",
        choices=("none", "threshold", "negatives"),
        default="none",
        help="what may leave a pixel unlabelled, which counts as wrong (default: none)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: one per core)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line of stdout"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, and return the exit code."""
    from dedos_deploy.evaluation import evaluate_bundle

    progress = _ProgressLine()
    try:
        result = evaluate_bundle(
            args.bundle,
            args.data,
            args.split,
            classes=args.classes,
            background=args.background,
            threads=args.threads,
            progress=progress,
        )
    finally:
        progress.close()
    print(_table(result))
    if args.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    return EXIT_OK


class _ProgressLine:
    """Images done and time left on stderr: one live line on a terminal, else one now and then."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._unfinished = False

    def close(self) -> None:
        """End the live line, so that what follows starts on its own."""
        if self._unfinished:
            print(file=sys.stderr)
            self._unfinished = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._live and now - self._shown < _QUIET_SECONDS:
            return
        self._shown = now
        left = f", {(now - self._started) / done * (total - done):.0f} s left" if done else ""
        line = f"image {done} of {total}{left}"
        if self._live:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            self._unfinished = True
        else:
            print(line, file=sys.stderr, flush=True)


def _table(result: EvaluationResult) -> str:
    width = max(len("class"), *map(len, result.classes))
    total = sum(result.labelled)
    lines = [f"{'class':{width}}    IoU  share of labelled pixels"]
    for name, iou, pixels in zip(result.classes, result.iou, result.labelled, strict=True):
        shown = "-" if iou is None else f"{iou:.3f}"
        lines.append(f"{name:{width}}  {shown:>5}  {pixels / total:6.1%}")
    per_image = 1000 * result.seconds_inference / result.images
    skipped = f", {result.skipped} without labels skipped" if result.skipped else ""
    lines += [
        "",
        f"miou_present {result.miou_present:.3f}   miou_union {result.miou_union:.3f}   "
        f"accuracy {result.accuracy:.3f}",
        f"{result.images} images{skipped}, {per_image:.0f} ms each in the segmenter, "
        f"{result.seconds_total:.1f} s in all",
    ]
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dedos-eval",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
