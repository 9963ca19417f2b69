"""The options of dedos-eval."""

from __future__ import annotations

import argparse
from pathlib import Path

from dedos_deploy.cli._eval_looking import add_looking
from dedos_deploy.cli._main import command_parser
from dedos_deploy.cli._options import add_json_line, typed
from dedos_deploy.options import size_hw
from dedos_deploy.spec import BACKGROUNDS

DESCRIPTION = """\
Measure models as they are deployed: every image goes through the runtime at its own size, and its
label map is compared with the labels. Several models may be named; each is measured on the same
images.

A data folder holds images/<split>/*.jpg, labels/<split>/*.png (a pixel is a line number of
classes.txt from 0, 255 is not counted; 16 bits and 65535 for more than 255 classes) and classes.txt.
With --protocol it has the layout and the class list of a published benchmark (see docs/protocols.md).
"""

EPILOG = """\
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


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of dedos-eval."""
    parser = command_parser("dedos-eval", DESCRIPTION, EPILOG)
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
