"""`dedos-train miniature`: the whole method at small scale, on a CPU, with one command."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dedos_deploy.cli._main import EXIT_OK, command_parser
from dedos_deploy.cli._options import add_options, fields_of
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.training.miniature.options import MINIATURE_OPTIONS

_DESCRIPTION = """\
Run the whole method at small scale on a CPU: procedural scenes, a nano CLIP and a nano latent
diffusion pretrained on them, then Table 3 of the paper, components (I) to (V) under several seeds,
with base words (taught by masks) and novel words (only named in captions) apart, and the three
fillings of the proxy bank. It proves the machinery; it says nothing about real scenes."""

_EPILOG = """\
examples:
  dedos-train miniature --output runs/miniature
      everything, 60 to 90 minutes on two cores; run again after Ctrl-C and it goes on
  dedos-train miniature --output runs/quick --quick
      every part once, in about three minutes: shows that all works, its figures mean nothing
  dedos-train miniature --output runs/short --minutes 30
      as long as you say, with fewer steps
  dedos-train miniature --output runs/m --seeds 5 --steps 1500 --jobs 8
      closer figures on a larger machine
  dedos-train miniature --output runs/few --regime few-labels --seeds 5
      100 labelled scenes, CLIP and diffusion of 30,000 without labels; a night on two cores

The output folder gets miniature.md, miniature.json, pictures, miniature.dedos (a bundle of the last
component) and the folders of all parts."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-train miniature`; None means the plan's default."""
    parser = command_parser("dedos-train miniature", _DESCRIPTION, _EPILOG)
    parser.add_argument("--output", type=Path, required=True, help="folder of the miniature")
    parser.add_argument("--quick", action="store_true", help="tiny budgets, about three minutes")
    parser.add_argument(
        "--regime",
        metavar="NAME",
        help="where a diffusion would show if anywhere, each against (I) and controls: `long` has 3000 "
        "steps, `few-labels` 100 labelled scenes after 30,000 without labels, `gamma` 1, 30 and 300; "
        "other options change it",
    )
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="write report and pictures here, too"
    )
    add_options(parser, MINIATURE_OPTIONS)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the miniature as the parsed options say."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in ("torch", "diffusers", "open_clip", "scipy"):
        require(module, extra="train", purpose="the miniature")
    require("onnx", extra="export", purpose="the miniature's bundle")
    from dataclasses import replace

    from dedos_deploy.training.miniature.plan import QUICK, MiniaturePlan, regime_plan
    from dedos_deploy.training.miniature.run import run_miniature

    start = QUICK if args.quick else MiniaturePlan()
    if args.regime:
        start = regime_plan(args.regime, quick=args.quick)
    plan = replace(start, **fields_of(args, MINIATURE_OPTIONS))
    lengths = (args.steps, args.clip_steps, args.diffusion_minutes)
    if plan.minutes is not None and (
        args.quick or args.regime or any(n is not None for n in lengths)
    ):
        raise BadInputError(
            "--minutes chooses steps and times itself; leave out --quick, --regime, --steps, "
            "--clip-steps and --diffusion-minutes"
        )
    if args.output.exists() and not args.output.is_dir():
        raise BadInputError(f"--output {args.output} is a file; give a folder")
    report = run_miniature(plan, args.output, args.results, say=_say)
    print(report.read_text(encoding="utf-8"))
    return EXIT_OK


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
