"""`dedos-train text`: a sentence encoder in, the text tower of a small CLIP out."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from dedos_deploy.cli._main import EXIT_OK, command_parser
from dedos_deploy.cli._options import add_options, check_run_folder, fields_of
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.places import named
from dedos_deploy.training.pretraining.options import TEXT_OPTIONS

_DESCRIPTION = """\
Teach the text tower of a preset without CLIP weights, such as nano, what words mean: it repeats the
embeddings of a real sentence encoder, of scene words, their combinations and common words."""

_EPILOG = """\
examples:
  dedos-train text --output runs/text_tower.safetensors
      the default teacher, all-MiniLM-L6-v2 of the extra [words]; 3 minutes on two cores
  dedos-train text --encoder models/all-mpnet-base-v2 --output runs/text_tower.safetensors
      any local folder that transformers reads; its width need not be the tower's
  dedos-train text --encoder models/my-clip/open_clip_config.json --output ...
      the Hugging Face text tower that an open_clip configuration names

Ctrl-C keeps what was learned beside the output; the same command with --resume goes on.
next: dedos-train trunk --text runs/text_tower.safetensors ..."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-train text`; None means the default of DistilSettings."""
    parser = command_parser("dedos-train text", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="the tower's weights, .safetensors",
    )
    parser.add_argument("--preset", default="nano", help="model size (default: %(default)s)")
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="FOLDER|JSON",
        help="teacher: a local folder of a Hugging Face sentence encoder, or an "
        "open_clip configuration that names one (default: all-MiniLM-L6-v2)",
    )
    parser.add_argument(
        "--words", type=Path, metavar="FILE", help="further words to know well, one a line"
    )
    add_options(parser, TEXT_OPTIONS)
    parser.add_argument(
        "--threads", type=int, help="CPU threads, at most one per core (default: torch's choice)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run, with its options"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Distil as the parsed options say."""
    require("torch", extra="train", purpose="training a text tower")
    require("transformers", extra="words", purpose="reading the sentence encoder")
    import torch

    from dedos_deploy.threads import usable_threads
    from dedos_deploy.training.pretraining.text import DistilSettings, run_text

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("steps", "minutes", "batch", "lr", "threads"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise BadInputError(f"--{name} is {value}, but must be more than 0")
    if args.threads:
        torch.set_num_threads(usable_threads(args.threads))
    check_run_folder(args.output, (), named("word list", args.words))
    scores = run_text(
        preset=args.preset,
        output=args.output,
        settings=DistilSettings(**fields_of(args, TEXT_OPTIONS)),
        encoder=args.encoder,
        extra_words=read_words(args.words) if args.words else (),
        resume=args.resume,
    )
    for name, value in scores.items():
        print(f"{name.replace('_', ' '):<22} {value:.3f}")
    return EXIT_OK


def read_words(path: Path) -> tuple[str, ...]:
    """Return the lines of a text file, empty ones left out.

    Raises BadInputError when it cannot be read.
    """
    from dedos_deploy.label_files import read_text

    lines = read_text(path, advice="--words names a file with one word per line").splitlines()
    return tuple(word for line in lines if (word := " ".join(line.lower().split())))
