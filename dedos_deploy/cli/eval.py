"""dedos-eval: how well bundles, checkpoints and other nets label images whose labels are known."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedos_deploy.cli._eval_looking import looking_of
from dedos_deploy.cli._eval_parser import build_parser
from dedos_deploy.cli._eval_text import comparison_text, result_text, sections_text
from dedos_deploy.cli._main import EXIT_OK, for_people, run_verb
from dedos_deploy.cli._options import bundles_read, check_run_folder, data_read
from dedos_deploy.cli._progress import ProgressLines
from dedos_deploy.errors import BadInputError
from dedos_deploy.places import named

if TYPE_CHECKING:
    from dedos_deploy.evaluation.compare import Comparison
    from dedos_deploy.evaluation.data import EvaluationData
    from dedos_deploy.evaluation.evaluate import Keeping, Part
    from dedos_deploy.evaluation.subjects import Running, Subject

VERBS = {
    "calibrate-confidence": "eval_confidence",
    "calibrate-thresholds": "eval_thresholds",
    "report": "eval_report",
}
"""Further commands, `dedos-eval VERB ...`, and the module of each."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dedos-eval, or the command that its first argument names, and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    named = partial(run, command=shlex.join(["dedos-eval", *words]))
    return run_verb("dedos-eval", VERBS, build_parser, named, argv)


def run(args: argparse.Namespace, command: str | None = None) -> int:
    """Evaluate, print tables, write the report, and return the exit code.

    command: the whole command line, for the report.
    """
    from dedos_deploy.evaluation import batch
    from dedos_deploy.evaluation.report_page import write_report

    kept = [Path(one) for one in args.compare if _is_output(one)]
    subjects = _subjects(args, [one for one in args.compare if not _is_output(one)])
    if not subjects and len(kept) < 2:
        raise BadInputError(
            "nothing to measure was named; give --bundle, --checkpoint, --net or --compare A B"
        )
    if args.resume and args.output is None:
        raise BadInputError("--resume goes on with what is in --output; give that folder")
    keeping = _keeping(args, command)
    _check_places(args)
    running = _running(args, subjects)
    found = []
    if subjects:
        data = _data(args)
        found = batch.evaluate_subjects(subjects, data, running, keeping, progress=ProgressLines())
    comparisons = _comparisons(
        args.compare, subjects, found, batch.read_sections(kept) if kept else []
    )
    if args.words is not None:
        comparisons += batch.compare_pairs(found)
    report = batch.report_of(found, comparisons)
    for _, section in found:
        print(result_text(section.result), file=for_people(args))
    print(sections_text(report.sections), end="", file=for_people(args))
    for comparison in comparisons:
        print(comparison_text(comparison), file=for_people(args))
    if args.output is not None and keeping.part.count == 1 and found:
        print(f"report: {write_report(args.output, report)}", file=sys.stderr)
    elif args.output is not None and found:
        print(f"part done; when all are: dedos-eval report {args.output}", file=sys.stderr)
    if args.json:
        print(json.dumps(report.to_dict(), allow_nan=False))
    return EXIT_OK


def _check_places(args: argparse.Namespace) -> None:
    """Raise BadInputError where the report would lie over what is evaluated."""
    from dedos_deploy.evaluation.batch import WRITTEN

    if args.output is None:
        return
    read = [
        *data_read(args.data),
        *bundles_read(*args.bundle, *(one for one in args.compare if not _is_output(one))),
        *named("checkpoint", *args.checkpoint),
        *named("net", args.net, args.net_words),
        *named("words file", args.words),
    ]
    check_run_folder(args.output, WRITTEN, read)


def _is_output(name: str) -> bool:
    return any(Path(name).glob("images*.jsonl"))


def _subjects(args: argparse.Namespace, compared: Sequence[str]) -> list[Subject]:
    from dedos_deploy.evaluation.subjects import Subject, read_net_words
    from dedos_deploy.text.templates import prompt_templates

    templates: list[str | None] = list(args.templates or [None])
    for name in args.templates or ():
        prompt_templates(name)
    choices: dict[str | None, tuple[bool | None, ...]] = {
        None: (None,),
        "on": (True,),
        "off": (False,),
        "both": (True, False),
    }
    synonyms = choices[args.synonyms]
    named = [("bundle", path) for path in [*compared, *args.bundle]]
    named += [("checkpoint", path) for path in args.checkpoint]
    subjects = [
        Subject(kind, path, template, with_synonyms)  # type: ignore[arg-type]
        for kind, path in named
        for template in templates
        for with_synonyms in synonyms
    ]
    if args.words is not None:
        _check_words(args)
        # The tuned ones first: a file of another model is then refused at once.
        subjects = [replace(one, tuned=tuned) for one in subjects for tuned in (True, False)]
    if compared and len(templates) * len(synonyms) > 1:
        raise BadInputError("--compare takes one choice of --templates and --synonyms, not several")
    if (args.net is None) != (args.net_words is None):
        raise BadInputError("--net and --net-words belong together; give both or neither")
    if args.net is not None:
        subjects.append(Subject("net", args.net, net=read_net_words(args.net_words)))
    return subjects


def _check_words(args: argparse.Namespace) -> None:
    others = {"classes": args.classes, "protocol": args.protocol, "net": args.net}
    given = [f"--{name}" for name, value in {**others, "compare": args.compare}.items() if value]
    if given:
        raise BadInputError(
            f"--words has the classes of its file and compares them with themselves; leave {given[0]} "
            "out"
        )


def _data(args: argparse.Namespace) -> Callable[[bool | None], EvaluationData]:
    """Return what opens the data, asking for synonyms or not; opened once to see that it is there."""
    from dedos_deploy.evaluation.data import open_data
    from dedos_deploy.vocabulary import typed_vocabulary, vocabulary_from_file

    if args.data is None:
        raise BadInputError("no data was named; give --data FOLDER")
    vocabulary = typed_vocabulary(args.classes) if args.classes is not None else None
    if args.words is not None:
        vocabulary = vocabulary_from_file(args.words)
        if vocabulary.tuned is None:
            raise BadInputError(
                f"--words {args.words!r} is a list of words without rows; give a file of dedos-train "
                "tune-words, or the list to --classes"
            )

    @lru_cache(maxsize=3)
    def data_for(synonyms: bool | None) -> EvaluationData:
        return open_data(
            args.data, args.split, protocol=args.protocol, vocabulary=vocabulary, synonyms=synonyms
        )

    data_for(None)
    return data_for


def _running(args: argparse.Namespace, subjects: Sequence[Subject]) -> Running:
    from dedos_deploy.evaluation.protocols import find_protocol
    from dedos_deploy.evaluation.subjects import Running

    background, threshold = args.background, args.threshold
    published = find_protocol(args.protocol).threshold if args.protocol else None
    if background is None:
        background = "none" if published is None else "threshold"
    if threshold is None and background == "threshold":
        threshold = published
    looking = looking_of(args, subjects)
    machine = (args.engine, args.device, args.size)
    return Running(*machine, background, threshold, args.threads, looking)


def _keeping(args: argparse.Namespace, command: str | None) -> Keeping:
    from dedos_deploy.evaluation.evaluate import Keeping

    part = parse_part(args.part)
    if part.count > 1 and args.output is None:
        raise BadInputError("--part needs --output: the parts are put together from there")
    return Keeping(
        args.output,
        args.resume,
        part,
        args.boundary,
        not args.no_pictures,
        command,
        args.calibration,
    )


def parse_part(text: str) -> Part:
    """Return the part of a text such as 2/4; raises BadInputError for another one."""
    from dedos_deploy.evaluation.evaluate import Part

    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(count)):
        raise BadInputError(f"part {text!r} is not I/N; write 1/4 for the first of four processes")
    return Part(int(index) - 1, int(count))


def _comparisons(
    compared: Sequence[str], subjects: Sequence[Any], found: Sequence[Any], kept: Sequence[Any]
) -> list[Comparison]:
    """Return the comparison of the two that --compare names, in its order."""
    from dedos_deploy.evaluation.batch import compare_evaluated

    if not compared:
        return []
    measured, read = iter(found), iter(kept)
    first, second = (next(read if _is_output(name) else measured)[0] for name in compared)
    return [compare_evaluated(first, second)]


if __name__ == "__main__":
    sys.exit(main())
