"""`dedos-eval report`: one report of evaluations that were kept, parts of several processes merged."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dedos_deploy.cli._eval_text import columns_text, result_text
from dedos_deploy.cli._main import EXIT_OK, command_parser, for_people
from dedos_deploy.cli._options import add_json_line

_EPILOG = """\
examples:
  dedos-eval report runs/a150
      puts together what several processes with --part left there
  dedos-eval report runs/fp32 runs/fp16 runs/deeplab --output runs/all
      several evaluations side by side"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-eval report`."""
    parser = command_parser(
        "dedos-eval report",
        "Write one report of evaluations that dedos-eval --output kept.",
        _EPILOG,
    )
    parser.add_argument("folder", type=Path, nargs="+", help="--output of an evaluation")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where the report goes (default: the only folder)",
    )
    add_json_line(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Read, write the report, and return the exit code."""
    from dedos_deploy.errors import BadInputError
    from dedos_deploy.evaluation.batch import read_sections, report_of
    from dedos_deploy.evaluation.report import summary_rows
    from dedos_deploy.evaluation.report_page import write_report

    if args.output is None and len(args.folder) > 1:
        raise BadInputError("a report of several folders needs a place of its own; give --output")
    found = read_sections(args.folder)
    report = report_of(found)
    if len(found) == 1:
        print(result_text(found[0][0].result), file=for_people(args))
    else:
        print(columns_text(summary_rows(report.sections)), file=for_people(args))
    page = write_report(args.output or args.folder[0], report)
    print(f"report: {page}", file=sys.stderr)
    if args.json:
        print(json.dumps(report.to_dict(), allow_nan=False))
    return EXIT_OK
