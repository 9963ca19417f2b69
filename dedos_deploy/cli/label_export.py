"""`dedos-label export`: a data set of labels in, a folder for a trainer or an annotation tool out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, command_parser, for_people
from dedos_deploy.cli._options import add_json_line, add_options, check_run_folder, fields_of
from dedos_deploy.cli._progress import ProgressLines
from dedos_deploy.corpus.formats.options import EXPORTS, FORMAT_OPTIONS
from dedos_deploy.places import ALL, named

if TYPE_CHECKING:
    from dedos_deploy.corpus.formats.exporting import ExportReport

_DESCRIPTION = """\
Write a data set of labels in a format of others. Masks come through pixel for pixel; polygons lose holes
and corners, and what that costs each class is printed, the worst first.

Beside the format's own files the folder has frames.csv and frames.jsonl: which frame of which source
each picture is. It appears whole, at the end."""

_EPILOG = """\
examples:
  dedos-label export labels --to coco --output coco
      masks as RLE; --shapes polygons --tolerance 2 for tools that read no RLE
  dedos-label export labels --to cvat --review 50 --output to_correct
      the 50 frames that the model was least sure of; create a task of to_correct/images, upload
      to_correct/annotations.xml as "CVAT 1.1"; then: dedos-label import
  dedos-label export labels --to labelstudio --output tasks
      tasks.json for a project with tasks/label_config.xml, tasks being the document root of local files
  dedos-label export labels --to coco-panoptic --things "car,person" --output panoptic
  dedos-label export labels --to yolo-seg --classes "car|truck,person" --min-area 50 --output yolo
  dedos-label export s3://bucket/labels --to webdataset --min-confidence 0.5 --output shards"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-label export`."""
    parser = command_parser("dedos-label export", _DESCRIPTION, _EPILOG)
    parser.add_argument("data", metavar="DIR", help="data set of labels: a folder, or an address")
    parser.add_argument("--to", required=True, choices=EXPORTS, help="the format")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="new folder to write"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder that dedos-label made"
    )
    add_options(parser, FORMAT_OPTIONS)
    add_json_line(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Export as the parsed options say."""
    from dedos_deploy.corpus import open_corpus
    from dedos_deploy.corpus.formats.exporting import export_corpus
    from dedos_deploy.corpus.formats.options import ExportSettings

    settings = ExportSettings(args.to, **fields_of(args, FORMAT_OPTIONS))
    lists = (settings.classes, settings.things)
    read = [*named("data set", args.data, closed=True), *named("class file", *lists)]
    check_run_folder(args.output, (ALL,), read)
    with open_corpus(args.data) as corpus:
        report = export_corpus(
            corpus, args.output, settings, overwrite=args.overwrite, progress=ProgressLines()
        )
    print("\n".join(report_lines(report)), file=for_people(args))
    print(f"wrote {args.output}", file=sys.stderr)
    if args.json:
        print(json.dumps(report.to_dict(), allow_nan=False))
    return EXIT_OK


def report_lines(report: ExportReport) -> list[str]:
    """Return what was exported as text, with a table of what polygons lost."""
    frames = f"{report.frames} frame{'s'[: report.frames != 1]}"
    classes = f"{len(report.classes)} class{'es'[: 2 * (len(report.classes) != 1)]}"
    head = f"{frames}, {classes} as {report.to}"
    if report.exact:
        return [f"{head}: labels come back pixel for pixel"]
    width = max(len("class"), *(len(one.name) for one in report.losses)) if report.losses else 5
    rows = [
        f"{one.name:<{width}}  {one.iou:.4f}  {one.worst_iou:.4f}  {one.worst_frame}"
        for one in report.losses
    ]
    return [
        f"{head}: IoU of what polygons enclose with what was labelled, the worst class first",
        f"{'class':<{width}}  IoU     worst   in",
        *rows,
    ]
