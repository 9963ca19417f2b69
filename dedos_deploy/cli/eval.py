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

from dedos_deploy.cli._eval_looking import add_looking, looking_of
from dedos_deploy.cli._eval_text import comparison_text, result_text, sections_text
from dedos_deploy.cli._main import EXIT_OK, command_parser, run_verb
from dedos_deploy.cli._options import (
    add_json_line,
    bundles_read,
    check_run_folder,
    data_read,
    typed,
)
from dedos_deploy.cli._progress import ProgressLines
from dedos_deploy.errors import BadInputError
from dedos_deploy.options import size_hw
from dedos_deploy.places import named
from dedos_deploy.spec import BACKGROUNDS

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

_DESCRIPTION = """\
Measure models as they are deployed: every image goes through the runtime at its own size, and its
label map is compared with the labels. Several models may be named; each is measured on the same
images.

A data folder holds images/<split>/*.jpg, labels/<split>/*.png (a pixel is a line number of
classes.txt from 0, 255 is not counted; 16 bits and 65535 for more than 255 classes) and classes.txt.
With --protocol it has the layout and the class list of a published benchmark (see docs/protocols.md).
"""

_EPILOG = """\
examples:
  dedos-eval --bundle street.dedos --data camvid --split val
  dedos-eval --bundle demo --data camvid --classes "road,vehicle|car" --json
  dedos-eval --bundle street.dedos --data camvid --output runs/camvid --boundary
      also a report with pictures in runs/camvid; after Ctrl-C, --resume goes on
  dedos-eval --compare old.dedos new.dedos --data camvid
      is the new one better, how sure is that, and which classes moved
  dedos-eval --bundle street.dedos --words my.words --data camvid
      the same of words that dedos-train tune-words has tuned
  dedos-eval --bundle street.dedos --data aerial --tiles auto --tta flip
      through overlapping windows, each seen in the mirror, too, the scores averaged
  dedos-eval --bundle street.dedos --data camvid --templates single vild14 --synonyms both
      the same model under other prompts
  dedos-eval --bundle any.dedos --protocol VOC21 --data datasets
      a published benchmark, the result beside published ones with what differs
  dedos-eval --bundle paper.dedos --protocol A-150 --data datasets --part 1/4 --output runs/a150
      a quarter of the images; four such processes, then: dedos-eval report runs/a150

further commands, each with its own --help:
  dedos-eval calibrate-confidence   what scores are worth, per class, written into a bundle
  dedos-eval calibrate-thresholds   score thresholds per class, written into a bundle
  dedos-eval report                 one report of several outputs, parts merged

Both means are over classes: miou_present over those that the labels contain, as published tables
have it; miou_union also counts, with 0, those that were only ever predicted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dedos-eval, or the command that its first argument names, and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    named = partial(run, command=shlex.join(["dedos-eval", *words]))
    return run_verb("dedos-eval", VERBS, build_parser, named, argv)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of dedos-eval."""
    parser = command_parser("dedos-eval", _DESCRIPTION, _EPILOG)
    _add_subjects(parser.add_argument_group("what is measured"))
    _add_data(parser.add_argument_group("on what"))
    _add_text(parser.add_argument_group("what is asked for"))
    _add_machine(parser.add_argument_group("how it runs"))
    _add_output(parser.add_argument_group("what is kept"))
    return parser


def _add_subjects(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--bundle",
        nargs="+",
        default=[],
        metavar="BUNDLE",
        help="bundle folders, .dedos files, or demo for the embedded one",
    )
    group.add_argument(
        "--checkpoint",
        nargs="+",
        default=[],
        metavar="FILE",
        help="checkpoints of dedos-train, run by torch",
    )
    group.add_argument(
        "--net",
        metavar="FILE",
        help="an ONNX net of fixed classes to compare with: `image` float32 "
        "[1,3,H,W] RGB 0..255 to `logits`",
    )
    group.add_argument(
        "--net-words",
        type=Path,
        metavar="FILE",
        help='what it knows: {"words": [one per channel], "classes": {class of the '
        "data: [words of the net]}}",
    )
    group.add_argument(
        "--compare",
        nargs=2,
        default=[],
        metavar=("A", "B"),
        help="bundles, or --output folders of earlier evaluations: B against A, with "
        "a paired bootstrap over images",
    )


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", metavar="FOLDER", help="folder of the data set")
    group.add_argument("--split", help="split of the data set (default: val, or the protocol's)")
    group.add_argument(
        "--protocol", metavar="NAME", help="published benchmark, such as A-150, PC-59 or VOC21"
    )
    group.add_argument(
        "--part",
        default="1/1",
        metavar="I/N",
        help="only every N-th image, from the I-th on: for N processes",
    )


def _add_text(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--classes",
        help="classes to ask for, as dedos-run takes them; each must name a class of "
        "the data by its name or a synonym, and classes left out are not "
        "counted (default: all of them)",
    )
    group.add_argument(
        "--words",
        metavar="FILE",
        help="a words file of dedos-train tune-words: its classes, once with their own embeddings and "
        "once with the tuned ones, with a paired bootstrap over images",
    )
    group.add_argument(
        "--background",
        choices=BACKGROUNDS,
        help="what may leave a pixel unlabelled, which counts as wrong, or as background where the "
        "protocol has that class (default: none, or as the protocol's published figures have it)",
    )
    group.add_argument(
        "--threshold",
        type=float,
        help="score that labels a pixel, in [0, 1] (default: the protocol's, or the bundle's)",
    )
    group.add_argument(
        "--templates",
        nargs="+",
        metavar="NAME",
        help="prompt templates to try: single, vild14, imagenet80 (default: the model's own)",
    )
    group.add_argument(
        "--synonyms",
        choices=("on", "off", "both"),
        help="ask for the synonyms of classes, too (default: those of --classes, and of a protocol "
        "as its published figures have it)",
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--engine", default="cpu", help="what bundles run on (default: cpu)")
    group.add_argument("--device", default="cpu", help="where torch runs checkpoints")
    group.add_argument(
        "--size",
        type=typed(size_hw),
        metavar="HxW",
        help="network size of checkpoints (default: as trained)",
    )
    add_looking(group)
    group.add_argument(
        "--threads", type=int, help="CPU threads, at most one per usable core (default: all)"
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write report.html, report.md, report.json and one record per image",
    )
    group.add_argument("--resume", action="store_true", help="go on with what is in --output")
    group.add_argument("--boundary", action="store_true", help="measure boundary IoU, too")
    group.add_argument(
        "--calibration",
        action="store_true",
        help="measure by class what confidences are worth, too",
    )
    group.add_argument(
        "--no-pictures", action="store_true", help="leave pictures out of the report"
    )
    add_json_line(group)


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
        print(result_text(section.result))
    print(sections_text(report.sections), end="")
    for comparison in comparisons:
        print(comparison_text(comparison))
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
