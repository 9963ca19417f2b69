"""`dedos-eval calibrate-confidence`: what scores are worth, written into a bundle."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from dedos_deploy.cli._calibrating import calibration_parser, check_calibration
from dedos_deploy.cli._eval_text import columns_text
from dedos_deploy.cli._main import EXIT_OK, for_people
from dedos_deploy.cli._progress import ProgressLines

_DESCRIPTION = """\
Find what a score is worth, for every class on its own, on images whose labels are known: how often a
pixel with that score is right, where what it shows is among the words asked for. The curves are written
into the bundle, and every confidence that it gives from then on is read off them: in results, files,
topics and pages. Labels and counts stay as they are, and thresholds are still compared with scores.

A class with few labelled pixels keeps close to the curve of all classes, and a class that the images
do not show has that one, as words of a words file have. Each quarter of a folder's images, a stretch
in the order of their names, is measured with what all others teach, and where that makes confidences
of a place worse nothing is written. Calibrate on images that resemble those of the camera, and judge
on others, with dedos-eval --calibration.

Where the camera will see places that nobody labelled, give folders of several places: each is also
measured with what the other places teach. How often a class is right differs between places more
than within one, so that a larger --strength, which keeps all classes closer to the curve of all,
is better there than what quarters held back ask for."""

_EPILOG = """\
examples:
  dedos-eval calibrate-confidence --bundle street.dedos --data camvid --split train
  dedos-eval calibrate-confidence --bundle demo --data hall --output hall.dedos
  dedos-eval calibrate-confidence --bundle demo --data hall road --strength 2e6 --output both.dedos
  dedos-eval calibrate-confidence --bundle street.dedos --data camvid --dry-run"""


_HELD = {"ECE without": "ece_without", "ECE with": "ece_with"}
_UNSEEN = {**_HELD, "ECE unseen": "ece_unseen"}
_HELD_SAID = "with: stretches of a folder's images measured with what all others teach"
_UNSEEN_SAID = "\nunseen: a place measured with what the other places teach"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-eval calibrate-confidence`."""
    parser = calibration_parser(
        "calibrate-confidence", _DESCRIPTION, _EPILOG, shown="errors", several=True
    )
    parser.add_argument(
        "--strength",
        type=float,
        metavar="PIXELS",
        help="pixels that follow the curve of all classes beside those of each class, inf for that curve alone "
        "(default: what is best for quarters held back)",
    )
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
    from dedos_deploy.evaluation.calibrate import calibrate_confidence
    from dedos_deploy.vocabulary import typed_vocabulary

    check_calibration(args)
    lines = ProgressLines()
    with Bundle.open(args.bundle) as bundle:
        found = calibrate_confidence(
            bundle,
            args.data,
            args.split,
            vocabulary=typed_vocabulary(args.classes) if args.classes is not None else None,
            background=args.background,
            strength=args.strength,
            threads=args.threads,
            progress=lines,
        )
    values = found.to_dict()
    print(_told(values, sum(found.won)), file=for_people(args))
    for place in values["places"]:
        if (unseen := place["ece_unseen"]) is not None and unseen > place["ece_without"]:
            lines.warn(
                f"curves of the other places would make confidences of {place['data']!r} worse (ECE "
                f"{unseen:.3f}, {place['ece_without']:.3f} without); so it may be with a place that is not "
                "among these"
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


def _told(values: dict[str, Any], pixels: int) -> str:
    """Return errors by class and by place as text; pixels: of all classes."""
    by_class = [*values["classes"].items(), ("all", {**values, "pixels": pixels})]
    by_place = [(place["data"], place) for place in values["places"]]
    several = len(by_place) > 1
    parts = [_table("class", by_class, _HELD)]
    if several:
        parts.append(_table("place", by_place, _UNSEEN))
    strength = "inf" if values["strength"] is None else f"{values['strength']:g}"
    parts.append(f"{_HELD_SAID}{_UNSEEN_SAID if several else ''}\nstrength: {strength} pixels")
    return "\n\n".join(parts)


def _table(what: str, rows: list[tuple[str, dict[str, Any]]], errors: dict[str, str]) -> str:
    """Return rows of pixels and errors; errors: key of each by its heading."""
    shown: list[tuple[str, ...]] = [(what, "pixels", *errors)]
    for name, one in rows:
        found = (one[key] for key in errors.values())
        texts = ("-" if error is None else f"{error:.3f}" for error in found)
        shown.append((name, str(one["pixels"]), *texts))
    return columns_text(shown)
