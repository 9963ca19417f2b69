"""`dedos-eval calibrate-thresholds`: score thresholds per class, written into a bundle."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from dedos_deploy.cli._eval_text import columns_text
from dedos_deploy.cli._main import EXIT_OK, command_parser
from dedos_deploy.cli._options import (
    add_json_line,
    bundle_holds,
    bundles_read,
    check_run_folder,
    data_read,
)
from dedos_deploy.cli._progress import ProgressLines

_DESCRIPTION = """\
Find the score below which a class had better leave a pixel unlabelled, for every class on its own,
on images whose labels are known, and write it into the bundle's manifest. The thresholds act where
a bundle runs with --background threshold or negatives, and for these class names only.

With --classes, pixels of the folder's other classes are known to be none of those: that is how
"car,road" learns to leave the rest alone. Calibrate on images that resemble those of the camera,
and judge on others."""

_EPILOG = """\
examples:
  dedos-eval calibrate-thresholds --bundle street.dedos --data camvid --split train --classes "car,road"
  dedos-eval calibrate-thresholds --bundle demo --data hall --output hall.dedos
  dedos-eval calibrate-thresholds --bundle street.dedos --data camvid --dry-run"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-eval calibrate-thresholds`."""
    parser = command_parser("dedos-eval calibrate-thresholds", _DESCRIPTION, _EPILOG)
    parser.add_argument("--bundle", required=True, help="bundle folder, .dedos file, or demo")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="labelled folder")
    parser.add_argument("--split", default="val", help="split of the data set (default: val)")
    parser.add_argument("--classes", help="classes to calibrate for (default: all of the folder)")
    parser.add_argument(
        "--background",
        choices=("threshold", "negatives"),
        default="threshold",
        help="whether negatives compete, as they will later (default: threshold)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="BUNDLE",
        help="write a changed bundle here (default: change the given one)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --output")
    parser.add_argument("--dry-run", action="store_true", help="show thresholds, change nothing")
    parser.add_argument(
        "--threads", type=int, help="CPU threads, at most one per usable core (default: all)"
    )
    add_json_line(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Calibrate, show, write, and return the exit code."""
    from dedos_deploy.bundle.edit import check_changeable, set_thresholds
    from dedos_deploy.evaluation.calibrate import calibrate_thresholds
    from dedos_deploy.evaluation.thresholds import mean_iou
    from dedos_deploy.vocabulary import typed_vocabulary

    if args.output is not None:
        read = [*bundles_read(args.bundle), *data_read(args.data)]
        check_run_folder(args.output, bundle_holds(args.output), read)
    if not args.dry_run:
        check_changeable(args.bundle, args.output, overwrite=args.overwrite)
    lines = ProgressLines()
    with lines.part(1, 1, f"calibrating thresholds of {args.bundle}"):
        found = calibrate_thresholds(
            args.bundle,
            args.data,
            args.split,
            vocabulary=typed_vocabulary(args.classes) if args.classes is not None else None,
            background=args.background,
            threads=args.threads,
            progress=lines,
        )
    rows: list[tuple[str, ...]] = [("class", "threshold", "IoU without", "IoU with")]
    for one in found:
        values = (one.threshold, one.iou_without, one.iou_with)
        rows.append((one.name, *("-" if value is None else f"{value:.3f}" for value in values)))
    print(columns_text(rows))
    without, with_them = mean_iou(found)
    print(
        f"\nmiou_present {without:.3f} without thresholds, {with_them:.3f} with them, on the "
        "images they were chosen on"
    )
    unseen = [one.name for one in found if one.threshold is None]
    if unseen:
        print(f"no label shows {', '.join(unseen)}, so nothing was chosen there", file=sys.stderr)
    if not args.dry_run:
        chosen = {one.name: round(one.threshold, 4) for one in found if one.threshold is not None}
        written = set_thresholds(args.bundle, chosen, dest=args.output, overwrite=args.overwrite)
        print(f"written: {written}", file=sys.stderr)
    if args.json:
        classes = {one.name: asdict(one) for one in found}
        means = {"miou_without": without, "miou_with": with_them}
        print(json.dumps({"classes": classes, **means}, allow_nan=False))
    return EXIT_OK
