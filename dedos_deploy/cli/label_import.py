"""`dedos-label import`: corrected annotations in, a label folder to train and tune on out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, command_parser, for_people
from dedos_deploy.cli._options import add_json_line, add_options, check_run_folder, fields_of
from dedos_deploy.cli._progress import ProgressLines
from dedos_deploy.corpus.formats.options import ANNOTATION_OPTIONS, IMPORTS
from dedos_deploy.places import ALL, named

if TYPE_CHECKING:
    from dedos_deploy.corpus.formats.importing import ImportReport

_DESCRIPTION = """\
Make a label folder of what people drew or corrected: masks and polygons of CVAT ("CVAT for images 1.1"),
COCO instances, and Label Studio's JSON. What nobody drew is unlabelled, 255.

Where shapes of two classes overlap, the one on top has the pixels: CVAT's z_order decides, and elsewhere
what comes later in the file; how many pixels that were is said."""

_EPILOG = """\
examples:
  dedos-label import to_correct/annotations.xml --from cvat --output yard
      pictures in to_correct/images; yard/classes.txt has the labels of the file
  dedos-label import coco/annotations/instances_train.json --from coco --output yard
  dedos-label import export.json --from labelstudio --images pictures --output yard \\
      --classes "road,car|Auto,my pallet" --ignore "unclear"
      labels become these classes, another label is refused
  dedos-train tune-words --init embedded --data yard --output yard.words"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-label import`."""
    parser = command_parser("dedos-label import", _DESCRIPTION, _EPILOG)
    parser.add_argument("file", type=Path, metavar="FILE", help="what the annotation tool exported")
    parser.add_argument(
        "--from", dest="source", required=True, choices=IMPORTS, help="the format of FILE"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="new label folder"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder that dedos-label made"
    )
    add_options(parser, ANNOTATION_OPTIONS)
    add_json_line(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Import as the parsed options say."""
    from dedos_deploy.corpus.formats.importing import import_annotations
    from dedos_deploy.corpus.formats.options import ImportSettings

    settings = ImportSettings(args.file, args.source, **fields_of(args, ANNOTATION_OPTIONS))
    images = args.images or args.file.absolute().parent / "images"
    read = [*named("annotations", args.file), *named("class file", settings.classes)]
    check_run_folder(args.output, (ALL,), [*read, *named("folder of pictures", images)])
    report = import_annotations(
        settings, args.output, overwrite=args.overwrite, progress=ProgressLines()
    )
    print("\n".join(report_lines(report)), file=for_people(args))
    print(
        f"wrote {args.output}; next: dedos-train tune-words --data {args.output}", file=sys.stderr
    )
    if args.json:
        print(json.dumps(report.to_dict(), allow_nan=False))
    return EXIT_OK


def report_lines(report: ImportReport) -> list[str]:
    """Return what was imported as text, a line for what is to be known of it."""
    pictures = f"{report.pictures} picture{'s'[: report.pictures != 1]}"
    lines = [f"{pictures} with labels of {len(report.classes)}: {', '.join(report.classes)}"]
    if report.overlaps:
        lines.append(
            f"shapes of several classes overlap on {report.overlaps} pixels of {report.overlapping} "
            f"picture{'s'[: report.overlapping != 1]}; the one on top has them"
        )
    lines += [f"left out: {count} {what}" for what, count in sorted(report.left_out.items())]
    return lines
