"""`dedos-train trunk`: labelled pictures and trained nets in, a small CLIP to start from out."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, command_parser
from dedos_deploy.cli._options import add_options, check_run_folder, data_read, fields_of
from dedos_deploy.cli._progress import ProgressLines
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.places import named
from dedos_deploy.training.pretraining.options import TRUNK_OPTIONS

if TYPE_CHECKING:
    from dedos_deploy.training.pretraining.trunk_patches import TrunkSettings

_DESCRIPTION = """\
Teach the trunk of a preset without CLIP weights, such as nano, to see before it learns masks: on
crops of label folders it repeats activations of trained nets, and the projection of every patch is
drawn to the text embedding of what the labels call it. Masks are not learned here."""

_EPILOG = """\
examples:
  dedos-train trunk --data made/street made/people=2 hall --text runs/text_tower.safetensors \\
      --teacher cityscapes.onnx --teacher voc.onnx --teacher imagenet.onnx --output runs/trunk
      30 minutes after the activations are made, which takes about 0.3 s a picture and happens once
  dedos-train trunk ... --probe lums_road
      also: the mean IoU of a linear map on the patches of a set, before and after

Ctrl-C keeps what was learned in the output folder; the same command with --resume goes on.
A teacher is an ONNX net from `image` float32 [N, 3, H, W] RGB 0..255 with an output `features`.
The output folder gets start.safetensors, features/, log.jsonl and report.json; go on with
  dedos-train --preset nano --clip-weights runs/trunk/start.safetensors ..."""


TRUNK_HOLDS = ("start.safetensors", "state.safetensors", "report.json", "log.jsonl", "features/*")
"""Patterns of what a distillation writes into its folder."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-train trunk`; None means the default of TrunkSettings."""
    parser = command_parser("dedos-train trunk", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="FOLDER[=SHARE]",
        help="label folders; SHARE: how much more often its pictures are drawn (1)",
    )
    parser.add_argument(
        "--teacher",
        action="append",
        type=Path,
        required=True,
        metavar="FILE",
        help="ONNX net to learn from; may be repeated",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the result")
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument(
        "--text", type=Path, metavar="FILE", help="text tower made by `dedos-train text`"
    )
    start.add_argument(
        "--init",
        type=Path,
        metavar="CHECKPOINT",
        help="start from the CLIP of this checkpoint, text tower included",
    )
    parser.add_argument(
        "--detail",
        type=Path,
        metavar="FILE",
        help="ONNX net whose weights become the pretrained detail branch: the "
        "Cityscapes one (default: that of --init, or random)",
    )
    parser.add_argument("--preset", default="nano", help="model size (default: %(default)s)")
    parser.add_argument(
        "--features",
        type=Path,
        metavar="DIR",
        help="folder of the activations (default: features/ in --output)",
    )
    parser.add_argument(
        "--channels",
        type=int,
        nargs=2,
        default=[32, 64],
        metavar=("M", "L"),
        help="whitened channels of a middle and a late activation (default: 32 64)",
    )
    add_options(parser, TRUNK_OPTIONS)
    parser.add_argument(
        "--probe",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="label folders with splits train and val to probe on",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads, at most one per core (default: 1)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run, with its options"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Distil as the parsed options say."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in ("torch", "open_clip"):
        require(module, extra="train", purpose="training a trunk")
    require("onnx", extra="export", purpose="reading what is inside the teachers")
    import torch

    from dedos_deploy.threads import usable_threads
    from dedos_deploy.training.pretraining.trunk_run import TrunkRun, distil_trunk

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if args.threads < 1:
        raise BadInputError(f"--threads is {args.threads}, but must be at least 1")
    torch.set_num_threads(usable_threads(args.threads))
    files = named("weights", args.text, args.init, args.detail, *args.teacher)
    check_run_folder(args.output, TRUNK_HOLDS, [*data_read(*args.data), *files])
    asked = TrunkRun(
        data=tuple(args.data),
        teachers=tuple(args.teacher),
        output=args.output,
        preset=args.preset,
        text_tower=args.text,
        init=args.init,
        detail=args.detail,
        features=args.features or args.output / "features",
        channels=(args.channels[0], args.channels[1]),
        probes=tuple(args.probe),
        threads=args.threads,
    )
    settings, progress = settings_of(args), ProgressLines()
    report = distil_trunk(asked, settings, progress=progress, resume=args.resume)
    print(json.dumps(report, indent=1))
    print(
        f"next: dedos-train --preset {args.preset} --clip-weights "
        f"{args.output / 'start.safetensors'}",
        file=sys.stderr,
    )
    return EXIT_OK


def settings_of(args: argparse.Namespace) -> TrunkSettings:
    """Return what the options mean; steps without minutes end the run by steps alone."""
    from dataclasses import replace

    from dedos_deploy.training.pretraining.trunk_patches import TrunkSettings

    given = fields_of(args, TRUNK_OPTIONS)
    if "steps" in given and "minutes" not in given:
        given["minutes"] = None
    return replace(TrunkSettings(), **given)
