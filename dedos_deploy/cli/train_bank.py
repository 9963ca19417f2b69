"""`dedos-train calibrate-bank`: fill the proxy bank of a finished run, and compare fillings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, command_parser
from dedos_deploy.cli._progress import ProgressLines
from dedos_deploy.errors import BadInputError, require

if TYPE_CHECKING:
    from dedos_deploy.model.proxy_queries import BankFill
    from dedos_deploy.training.calibration import Calibrated, Run
    from dedos_deploy.training.folders import LabelFolder

FILLS = ("calibrated", "ema", "static")

_DESCRIPTION = """\
Fill the proxy bank of a run: the constant proxy queries that a deployed model uses in place of
those that the diffusion model would give. RUN/checkpoint.safetensors is rewritten and records how.

  calibrated  mean of the denoised queries over --images training images, one pass of the diffusion
  ema         their running mean while training (what a run with --diffusion ends with)
  static      the learned kernels alone; needs no diffusion"""

_EPILOG = """\
examples:
  dedos-train calibrate-bank runs/b --images 1000
      then export the run as usual: dedos-export --checkpoint runs/b/checkpoint.safetensors
  dedos-train calibrate-bank runs/b --images 1000 --compare
      mIoU of all three fillings on the run's validation splits; writes nothing without --fill"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-train calibrate-bank`."""
    parser = command_parser("dedos-train calibrate-bank", _DESCRIPTION, _EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="output folder of dedos-train")
    parser.add_argument(
        "--images",
        type=int,
        default=500,
        metavar="M",
        help="training images to calibrate on, spread evenly over the data; fewer "
        "if there are fewer (default: %(default)s)",
    )
    parser.add_argument(
        "--fill", choices=FILLS, help="filling to write (default: calibrated; with --compare: none)"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="print the mIoU of the three fillings on the validation splits",
    )
    parser.add_argument(
        "--data", nargs="+", metavar="FOLDER", help="label folders (default: those of the run)"
    )
    parser.add_argument(
        "--diffusion",
        metavar="NAME|FOLDER",
        help="where the run's diffusion model lies now (default: as it was)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads, at most one per core (default: torch's choice)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Fill, compare, or both, as the parsed options say."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    fill: BankFill | None = args.fill or (None if args.compare else "calibrated")
    denoises = args.compare or fill == "calibrated"
    for module in ("torch", "diffusers", "open_clip")[: None if denoises else 1]:
        require(module, extra="train", purpose="filling the proxy bank")
    import torch

    from dedos_deploy.threads import usable_threads
    from dedos_deploy.training.calibration import calibrate_run, fill_run, open_run, run_diffusion
    from dedos_deploy.training.distributed import choose_device

    if args.images < 1:
        raise BadInputError(f"--images is {args.images}; calibrate on at least 1 image")
    if args.threads:
        torch.set_num_threads(usable_threads(args.threads))
    opened = open_run(args.run, str(choose_device(args.device)))
    calibrated = None
    if denoises:
        folders = opened.folders("train", args.data)
        denoiser = run_diffusion(opened, args.diffusion)
        lines = ProgressLines()
        with lines.part(1, 1, "calibrating"):
            calibrated = calibrate_run(opened, denoiser, folders, args.images, progress=lines)
    if args.compare and calibrated is not None:
        _compare(opened, opened.folders("val", args.data), calibrated)
    if fill is not None:
        opened.save(fill_run(opened, fill, calibrated))
        print(f"wrote {args.run / 'checkpoint.safetensors'} with the {fill} bank", file=sys.stderr)
    return EXIT_OK


def _compare(run: Run, folders: Sequence[LabelFolder], calibrated: Calibrated) -> None:
    """Print one line per filling and folder, as each is known."""
    from dedos_deploy.training.calibration import compare_fillings

    print(f"{'filling':<12}{'miou_present':>12}  {'images':>6}  data")
    for fill, result in compare_fillings(run, folders, calibrated):
        line = f"{fill:<12}{result.miou_present:>12.4f}  {result.images:>6}  {result.data}"
        print(line, flush=True)
