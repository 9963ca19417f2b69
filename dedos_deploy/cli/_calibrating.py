"""What the verbs that calibrate a bundle on labelled images have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from dedos_deploy.cli._main import command_parser
from dedos_deploy.cli._options import (
    add_json_line,
    bundle_holds,
    bundles_read,
    check_run_folder,
    data_read,
)


def calibration_parser(
    verb: str, description: str, epilog: str, *, shown: str, several: bool = False
) -> argparse.ArgumentParser:
    """Return the parser of a verb that measures on a labelled split and changes a bundle.

    shown: what --dry-run shows; several: whether --data takes several folders.
    """
    parser = command_parser(f"dedos-eval {verb}", description, epilog)
    parser.add_argument("--bundle", required=True, help="bundle folder, .dedos file, or demo")
    if several:
        data = "labelled folders, of one place each"
        parser.add_argument("--data", required=True, nargs="+", metavar="FOLDER", help=data)
    else:
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
    parser.add_argument("--dry-run", action="store_true", help=f"show {shown}, change nothing")
    parser.add_argument(
        "--threads", type=int, help="CPU threads, at most one per usable core (default: all)"
    )
    add_json_line(parser)
    return parser


def check_calibration(args: argparse.Namespace) -> None:
    """Raise BadInputError where the changed bundle cannot go, before anything is measured."""
    from dedos_deploy.bundle.edit import check_changeable

    if args.output is not None:
        folders = [args.data] if isinstance(args.data, str) else args.data
        read = [*bundles_read(args.bundle), *(path for one in folders for path in data_read(one))]
        check_run_folder(args.output, bundle_holds(args.output), read)
    if not args.dry_run:
        check_changeable(args.bundle, args.output, overwrite=args.overwrite)
