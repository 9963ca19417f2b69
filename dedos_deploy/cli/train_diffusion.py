"""`dedos-train diffusion`: pictures in, a small latent diffusion model in diffusers' layout out."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, command_parser
from dedos_deploy.cli._options import add_options, check_run_folder, data_read, fields_of
from dedos_deploy.cli._progress import ProgressLines
from dedos_deploy.errors import require
from dedos_deploy.training.pretraining.options import DIFFUSION_OPTIONS

if TYPE_CHECKING:
    from dedos_deploy.training.pretraining.diffusion_report import NanoReport
    from dedos_deploy.training.pretraining.diffusion_settings import NanoSettings

_DESCRIPTION = """\
Train a small latent diffusion model on pictures: an autoencoder, then a noise predictor on its
latents. The folder it writes has the layout of diffusers and is read by `--diffusion FOLDER`
wherever Stable Diffusion is."""

_EPILOG = """\
examples:
  dedos-train diffusion --data scenes:2000 --output runs/diffusion
      2000 procedural scenes, 12 minutes on one core
  dedos-train diffusion --data hall road clip.mp4=0.5 scenes:800 --output runs/diffusion --minutes 25
      label folders (their split `train`), folders of images and videos, videos, and scenes
  dedos-train diffusion --data runs/scenes/base --text runs/clip/checkpoint.safetensors \\
      --output runs/diffusion
      under captions (captions.txt, or names of what the labels show), one text token each
  dedos-train diffusion --data scenes:2000 --output runs/diffusion --resume
      goes on after Ctrl-C or a crash where the last saved state was

The output folder gets vae/, unet/, scheduler/, empty_prompt.safetensors, model_index.json, two
sheets to look at (reconstructions.png: original, decoded, decoded after the walk t=200, 100, 50;
samples.png: original, decoded, drawn from noise) and report.json. Ctrl-C saves and exits with 130."""


MODEL_HOLDS = ("*.json", "*.safetensors", "*.png", "vae/*", "unet/*", "scheduler/*")
"""Patterns of what the model and its report consist of."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-train diffusion`; None means the default of NanoSettings."""
    parser = command_parser("dedos-train diffusion", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="SOURCE[=SHARE]",
        help="label folders, folders of images, videos, or scenes:N; SHARE: part of its pictures "
        "to take, evenly spaced (1)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="half a minute on 64 pictures: shows that all works, draws noise",
    )
    add_options(parser, DIFFUSION_OPTIONS)
    return parser


def run(args: argparse.Namespace) -> int:
    """Pretrain as the parsed options say."""
    # Threads of OpenMP that spin while they wait take the cores from whatever runs beside.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in ("torch", "diffusers"):
        require(module, extra="train", purpose="training a diffusion model")
    from dedos_deploy.training.pretraining.small_diffusion import pretrain_diffusion

    settings = settings_of(args)
    check_run_folder(args.output, MODEL_HOLDS, data_read(*args.data))
    report = pretrain_diffusion(
        args.data, settings, args.output, resume=args.resume, progress=ProgressLines()
    )
    print(summary(report))
    print(
        f"look at {args.output / 'reconstructions.png'} and {args.output / 'samples.png'}; use it "
        f"with: dedos-train --diffusion {args.output}",
        file=sys.stderr,
    )
    return EXIT_OK


def settings_of(args: argparse.Namespace) -> NanoSettings:
    """Return what the options mean; a run with steps of both networks but no minutes has no clock."""
    from dataclasses import replace

    from dedos_deploy.training.pretraining.diffusion_settings import QUICK, NanoSettings

    given = fields_of(args, DIFFUSION_OPTIONS)
    start = QUICK if args.quick else NanoSettings()
    if args.minutes is None and args.vae_steps and args.unet_steps:
        given["minutes"] = None
    if prediction := given.pop("prediction", None):
        given["unet"] = replace(start.unet, prediction=prediction)
    return replace(start, **given)


def summary(report: NanoReport) -> str:
    """Return the figures of a finished run as a few lines."""
    size, latent = report.size_hw, report.latent_shape
    psnr, timed = report.figures.psnr_db, report.figures.ms_per_image
    errors = ", ".join(f"{value:.3f} at {t}" for t, value in report.figures.error_at.items())
    rows = (
        (
            "pictures",
            f"{report.pictures} at {size[0]}x{size[1]}, {report.held_out} of them held "
            f"out; latents {'x'.join(map(str, latent))}",
        ),
        (
            "networks",
            ", ".join(
                f"{name} {count / 1e6:.2f} M parameters, {report.steps[name]} steps"
                for name, count in report.parameters.items()
            ),
        ),
        (
            "psnr",
            f"{psnr['mean']:.1f} dB decoded (worst {psnr['worst']:.1f}), "
            f"{psnr['walked']:.1f} dB after the walk",
        ),
        ("error", f"of the prediction, by timestep: {errors}"),
        (
            "cost",
            ", ".join(f"{name} {value:.0f} ms" for name, value in timed.items()) + " an image",
        ),
        ("time", ", ".join(f"{name} {value:.0f} s" for name, value in report.seconds.items())),
    )
    return "\n".join(f"{label:9} {text}" for label, text in rows)
