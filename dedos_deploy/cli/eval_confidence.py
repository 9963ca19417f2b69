"""`dedos-eval calibrate-confidence`: what scores are worth, written into a bundle."""

from __future__ import annotations

import argparse
import json
import sys

from dedos_deploy.cli._calibrating import calibration_parser, check_calibration
from dedos_deploy.cli._eval_text import columns_text
from dedos_deploy.cli._main import EXIT_OK, for_people
from dedos_deploy.cli._progress import ProgressLines

_DESCRIPTION = """\
Find what a score is worth, for every class on its own, on images whose labels are known: how often a
pixel with that score is right. The curves are written into the bundle, and every confidence that it
gives from then on is read off them: in results, files, topics and pages. Labels and counts stay as they
are, and thresholds are still compared with scores.

A class with few labelled pixels keeps close to the curve of all classes, and a class that the images
do not show has that one, as words of a words file have. Each quarter of the images, a stretch in the
order of their names, is measured with what the other three teach, and where that makes confidences
worse nothing is written. Calibrate on images that resemble those of the camera, and judge on others,
with dedos-eval --calibration."""

_EPILOG = """\
examples:
  dedos-eval calibrate-confidence --bundle street.dedos --data camvid --split train
  dedos-eval calibrate-confidence --bundle demo --data hall --output hall.dedos
  dedos-eval calibrate-confidence --bundle street.dedos --data camvid --dry-run"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-eval calibrate-confidence`."""
    parser = calibration_parser("calibrate-confidence", _DESCRIPTION, _EPILOG, shown="errors")
    parser.add_argument(
        "--allow-worse",
        action="store_true",
        help="write curves even if quarters held back have a larger error with them than without",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Calibrate, show, write, and return the exit code."""
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.bundle.edit import set_confidence_curves
    from dedos_deploy.evaluation.calibrate import PARTS, calibrate_confidence
    from dedos_deploy.vocabulary import typed_vocabulary

    check_calibration(args)
    lines = ProgressLines()
    with (
        lines.part(1, 1, f"calibrating confidence of {args.bundle}"),
        Bundle.open(args.bundle) as bundle,
    ):
        found = calibrate_confidence(
            bundle,
            args.data,
            args.split,
            vocabulary=typed_vocabulary(args.classes) if args.classes is not None else None,
            background=args.background,
            threads=args.threads,
            progress=lines,
        )
    values = found.to_dict()
    rows: list[tuple[str, ...]] = [("class", "pixels", "ECE without", "ECE with")]
    for name, one in [*values["classes"].items(), ("all", {**values, "pixels": sum(found.won)})]:
        errors = (one["ece_without"], one["ece_with"])
        shown = ("-" if error is None else f"{error:.3f}" for error in errors)
        rows.append((name, str(one["pixels"]), *shown))
    print(columns_text(rows), file=for_people(args))
    print(
        f"\neach of {PARTS} stretches of the images measured with what the others teach",
        file=for_people(args),
    )
    if not args.dry_run:
        if not args.allow_worse:
            found.check_better()
        written = set_confidence_curves(
            args.bundle, found.curves, dest=args.output, overwrite=args.overwrite
        )
        print(f"written: {written}", file=sys.stderr)
    if args.json:
        print(json.dumps(values, allow_nan=False))
    return EXIT_OK
