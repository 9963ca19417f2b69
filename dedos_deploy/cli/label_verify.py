"""`dedos-label verify`: is every frame of the inputs in the data set, once and whole."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from dedos_deploy.cli._main import EXIT_OK, command_parser

EXIT_NOT_WHOLE = 1
SHOWN = 50

_DESCRIPTION = """\
Hold a data set against its manifest: every frame of the inputs is there once or said to be unreadable,
hashes are those of its bundle and words, label maps can be read and have the counts that rows say."""

_EPILOG = """\
exit code: 0 the data set is whole; 1 it is not, and what is wrong is printed; 2 there is none"""


def build_parser() -> argparse.ArgumentParser:
    parser = command_parser("dedos-label verify", _DESCRIPTION, _EPILOG)
    parser.add_argument("folder", metavar="DIR", help="folder of the data set, by path or address")
    parser.add_argument(
        "--json",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="print what was found as one JSON object",
    )
    parser.add_argument(
        "--quiet",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="no progress on stderr",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    from dedos_deploy.cli._progress import ProgressLines
    from dedos_deploy.corpus.verify import verify_corpus
    from dedos_deploy.progress import QUIET

    progress = QUIET if args.quiet else ProgressLines()
    with progress.part(1, 1, "verifying"):
        verdict = verify_corpus(args.folder, progress=progress)
    if args.json:
        print(json.dumps(dataclasses.asdict(verdict), ensure_ascii=False))
    else:
        for text in verdict.problems[:SHOWN]:
            print(text)
        print(
            f"{args.folder}: {verdict.frames} frames, {verdict.missing} missing, {verdict.duplicates} "
            f"double, {verdict.wrong} wrong, {verdict.unreadable} could not be read"
        )
    if len(verdict.problems) > SHOWN and not args.json:
        print("… and more, see --json", file=sys.stderr)
    return EXIT_OK if verdict.is_whole else EXIT_NOT_WHOLE
