"""`dedos-train pseudo-labels`: pictures, videos and trained nets in, a label folder out."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedos_deploy.cli._main import EXIT_OK, command_parser
from dedos_deploy.cli._options import check_run_folder
from dedos_deploy.errors import BadInputError, nearest, require
from dedos_deploy.places import named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dedos_deploy.training.pretraining.teachers import OnnxTeacher

_DESCRIPTION = """\
Label pictures by segmentation nets. Where the first teacher is sure its answer becomes the label,
else the next one's, else nothing (255). With --complete the source is a label folder, and only what
it calls background is labelled; what it names stays."""

_EPILOG = """\
examples:
  dedos-train pseudo-labels clip.mp4 frames/ --step 4 --output made/street \\
      --teacher voc=voc.onnx --teacher cityscapes=cityscapes.onnx --credit "My clips (CC0)"
      every 4th frame; the VOC net is asked first, streets come from the other
  dedos-train pseudo-labels --complete train people/ --joined person --output made/people \\
      --teacher cityscapes=cityscapes.onnx
      a set that labels clothes: all of them become `person`, the street behind is labelled

Look at DIR/overlays.png before training on it. Repeating the command with another source adds to
the folder. A teacher is an ONNX net from `image` float32 [N, 3, H, W] RGB 0..255 to `logits`."""


FOLDER_HOLDS = ("images/*/*", "labels/*/*", "classes.txt", "credits.txt", "overlays.png")
"""Patterns of what a label folder consists of."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-train pseudo-labels`."""
    parser = command_parser("dedos-train pseudo-labels", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="SOURCE",
        help="videos and folders of pictures, or label folders with --complete",
    )
    parser.add_argument(
        "--teacher",
        action="append",
        required=True,
        metavar="WORDS=FILE",
        help="what a net knows, cityscapes or voc, and its ONNX file; may be "
        "repeated, the first is heard first",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="label folder")
    parser.add_argument("--complete", metavar="SPLIT", help="complete this split of label folders")
    parser.add_argument(
        "--joined",
        metavar="WORD",
        help="with --complete: the one word that all classes of the source become",
    )
    parser.add_argument(
        "--step",
        type=int,
        default=1,
        metavar="N",
        help="every N-th frame or picture (default: %(default)s)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.8,
        metavar="P",
        help="least probability of a label (default: %(default)s)",
    )
    parser.add_argument("--words", nargs="+", default=[], metavar="WORD", help="keep only these")
    parser.add_argument("--without", nargs="+", default=[], metavar="WORD", help="never these")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[641],
        metavar="PX",
        help="longest sides that a picture is looked at, each mirrored, too (default: 641)",
    )
    parser.add_argument(
        "--side",
        type=int,
        default=480,
        metavar="PX",
        help="longest side of what is written (default: %(default)s)",
    )
    parser.add_argument(
        "--credit",
        action="append",
        default=[],
        metavar="LINE",
        help="where source and teachers come from; carried to the bundle",
    )
    parser.add_argument(
        "--overlays",
        type=int,
        default=12,
        metavar="N",
        help="pictures in overlays.png (default: %(default)s; 0: none)",
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads, at most one per core (default: all)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Label as the parsed options say."""
    require("torch", extra="train", purpose="reading and writing label folders")
    from dedos_deploy.training.pretraining.pseudo_labels import (
        LabelRules,
        complete_folder,
        write_credits,
        write_overlays,
        write_pseudo_labels,
    )

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if args.joined and not args.complete:
        raise BadInputError("--joined renames the classes of a label folder; give --complete, too")
    check_run_folder(args.output, FOLDER_HOLDS, named("source", *args.sources))
    teachers = [open_teacher(text, args.sizes, args.threads) for text in args.teacher]
    rules = LabelRules(args.confidence, tuple(args.words), tuple(args.without), args.side)
    if args.complete:
        count = sum(
            complete_folder(
                teachers, source, args.output, rules, split=args.complete, joined=args.joined
            )
            for source in args.sources
        )
    else:
        count = write_pseudo_labels(teachers, frames(args.sources, args.step), args.output, rules)
    write_credits(args.output, args.credit)
    if args.overlays and count:
        write_overlays(args.output, args.overlays)
    print(f"{count} pictures labelled in {args.output}")
    return EXIT_OK


def open_teacher(text: str, sizes: Sequence[int], threads: int) -> OnnxTeacher:
    """Return the teacher of `WORDS=FILE`.

    Raises BadInputError for unknown words or a file that is no such net.
    """
    from dedos_deploy.training.pretraining.teachers import WORD_LISTS, OnnxTeacher

    kind, equals, path = text.partition("=")
    if not equals:
        raise BadInputError(f"--teacher {text!r} names no file; write {kind}=FILE.onnx")
    if kind not in WORD_LISTS:
        hint = nearest(kind, WORD_LISTS) or ";"
        raise BadInputError(
            f"--teacher knows no words {kind!r}{hint} choices: {', '.join(WORD_LISTS)}"
        )
    return OnnxTeacher(Path(path), WORD_LISTS[kind], sizes=tuple(sizes), threads=threads)


def frames(sources: Sequence[Path], step: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield (name, picture) of every source, one after the other."""
    from dedos_deploy.training.pretraining.pseudo_labels import read_frames

    opened: list[Any] = [read_frames(source, step=step) for source in sources]
    for one in opened:
        yield from one
