"""`dedos-eval calibrate-thresholds`: score thresholds per class, written into a bundle."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from dedos_deploy.cli._calibrating import calibration_parser, check_calibration
from dedos_deploy.cli._eval_text import columns_text
from dedos_deploy.cli._main import EXIT_OK, for_people
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
    return calibration_parser("calibrate-thresholds", _DESCRIPTION, _EPILOG, shown="thresholds")


def run(args: argparse.Namespace) -> int:
    """Calibrate, show, write, and return the exit code."""
    from dedos_deploy.bundle.edit import set_thresholds
    from dedos_deploy.evaluation.calibrate import calibrate_thresholds
    from dedos_deploy.evaluation.thresholds import mean_iou
    from dedos_deploy.vocabulary import typed_vocabulary

    check_calibration(args)
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
    print(columns_text(rows), file=for_people(args))
    without, with_them = mean_iou(found)
    print(
        f"\nmiou_present {without:.3f} without thresholds, {with_them:.3f} with them, on the "
        "images they were chosen on",
        file=for_people(args),
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
