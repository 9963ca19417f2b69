"""`dedos-train cache-diffusion`: latents and denoised images of a data set, made before training."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, command_parser
from dedos_deploy.cli._options import add_options, check_run_folder, data_read, fields_of
from dedos_deploy.cli._progress import ProgressLines
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.places import named
from dedos_deploy.progress import QUIET
from dedos_deploy.training.options import CACHE_MACHINE_OPTIONS, CACHE_OPTIONS

if TYPE_CHECKING:
    from dedos_deploy.training.diffusion.cache_fill import FillReport

_DESCRIPTION = """\
Fill the cache of `dedos-train --diffusion-cache DIR` ahead of training: the latent code of every
training image, and the image after denoising. Both are constants of an image, so that a step that
reads them neither encodes nor decodes; the walk of the noise predictor remains, as its features
are too large to keep."""

_EPILOG = """\
examples:
  dedos-train cache-diffusion --data coco-stuff --diffusion sd21 --cache /fast/cache
      then train with: --diffusion sd21 --diffusion-cache /fast/cache, and the same --timesteps,
      --diffusion-size and --diffusion-half, which are part of what is cached
  dedos-train cache-diffusion --data coco-stuff --diffusion sd21 --diffusion-size 640x640 --cache /fast/cache
      for paper-*, which read crops unless they are trained with --view whole
  torchrun --nproc-per-node 2 -m dedos_deploy.cli.train cache-diffusion ...
      half of the images on each of two GPUs

Images that are there are left alone: stopped with Ctrl-C, the same command goes on."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-train cache-diffusion`; None means the default of training."""
    parser = command_parser("dedos-train cache-diffusion", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="FOLDER[=SHARE]",
        help="label folders; their training images are cached",
    )
    parser.add_argument(
        "--diffusion",
        required=True,
        metavar="NAME|FOLDER",
        help="frozen diffusion model, as in training",
    )
    parser.add_argument("--cache", required=True, metavar="DIR", help="folder of the cache")
    add_options(parser, CACHE_OPTIONS)
    parser.add_argument(
        "--batch", type=int, default=4, help="images computed at once (default: %(default)s)"
    )
    parser.add_argument(
        "--max-gib",
        type=float,
        metavar="GIB",
        help="keep no more than this; the rest is computed while training",
    )
    add_options(parser, CACHE_MACHINE_OPTIONS)
    return parser


def run(args: argparse.Namespace) -> int:
    """Fill the cache as the parsed options say."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in ("torch", "diffusers"):
        require(module, extra="train", purpose="caching a diffusion model")
    for name in ("batch", "max_gib"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise BadInputError(f"--{name.replace('_', '-')} is {value}, but must be more than 0")
    report = _fill(args)
    if report is not None:
        print(summary(report))
        print(
            f"use it with: dedos-train --diffusion {args.diffusion} --diffusion-cache "
            f"{args.cache} --view whole --diffusion-size {report.size_hw[0]}x{report.size_hw[1]} and "
            "the same other options",
            file=sys.stderr,
        )
    return EXIT_OK


def _fill(args: argparse.Namespace) -> FillReport | None:
    """Return what came of it, None in every process but the first."""
    from pathlib import Path

    import torch

    from dedos_deploy.threads import usable_threads
    from dedos_deploy.training.diffusion.cache import DiffusionCache
    from dedos_deploy.training.diffusion.cache_fill import fill_cache, image_paths
    from dedos_deploy.training.distributed import open_processes
    from dedos_deploy.training.settings import settings_for
    from dedos_deploy.training.setup import open_diffusion, open_folders

    given = fields_of(args, (*CACHE_OPTIONS, *CACHE_MACHINE_OPTIONS))
    # The settings of a run, so that data and diffusion mean here what they mean in training; of
    # the preset nothing is used.
    settings = settings_for("nano", tuple(args.data), diffusion=args.diffusion, **given)
    model = named("diffusion model", args.diffusion, closed=True)
    check_run_folder(Path(args.cache), ["*/*/*"], [*data_read(*args.data), *model])
    processes = open_processes(settings.device)
    if settings.threads:
        torch.set_num_threads(usable_threads(settings.threads))
    folders = open_folders(settings, "train")
    diffusion = open_diffusion(settings, processes)
    assert diffusion is not None  # --diffusion is required
    limit = None if args.max_gib is None else int(args.max_gib * 2**30 / processes.count)
    cache = DiffusionCache(Path(args.cache), diffusion, max_bytes=limit)
    paths = image_paths(folders, first=processes.rank, by=processes.count)
    progress = QUIET if processes.rank else ProgressLines()
    with progress.part(1, 1, "caching"):
        report = fill_cache(cache, paths, batch=args.batch, progress=progress)
    processes.wait()
    return None if processes.rank else report


def summary(report: FillReport) -> str:
    """Return what a pass did as a few lines."""
    counts = report.counts
    rows = [
        (
            "images",
            f"{report.images}, of which {report.there} were there and {counts.computed} "
            "were computed",
        ),
        (
            "size",
            f"{report.bytes_per_image / 1e3:.1f} kB an image, {report.bytes / 1e6:.1f} MB of "
            f"{report.stored} in all",
        ),
    ]
    read_ms = 1000 * counts.read_s / max(1, counts.read)
    if counts.computed:
        encode, walk, decode = (
            1000 * seconds / counts.computed
            for seconds in (counts.encode_s, counts.walk_s, counts.decode_s)
        )
        rows.append(
            ("cost", f"encode {encode:.1f} ms, walk {walk:.1f} ms, decode {decode:.1f} ms an image")
        )
    if counts.computed and counts.read:
        rows.append(
            (
                "saves",
                f"{encode + decode - read_ms:.1f} ms of each image that a step reads "
                f"(reading it back takes {read_ms:.1f} ms)",
            )
        )
    return "\n".join(f"{label:7} {text}" for label, text in rows)
