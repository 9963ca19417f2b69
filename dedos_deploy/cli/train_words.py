"""`dedos-train tune-words`: a model and a few labelled frames in, words that know the camera out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, command_parser, for_people
from dedos_deploy.cli._options import add_json_line, check_run_folder, data_read, typed
from dedos_deploy.cli._progress import ProgressLines
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.options import size_hw
from dedos_deploy.places import named

if TYPE_CHECKING:
    from dedos_deploy.export.weights import TrainedModel
    from dedos_deploy.training.words import Given, TuneReport, WordReport

EMBEDDED = "embedded"

_DESCRIPTION = """\
Move the embeddings of words until a model finds them better in the pictures of one camera. Nothing of
the model changes, so no engine is built again: the words file goes wherever words go, with bundles of
any precision that were exported from the same weights.

Parts of the frames are held out in turn: they decide when to stop, which words get a new embedding, and
whether any does. On them tuned words are never worse than the words; if none is better, the file has the
words as they were, and says so. Thresholds are chosen on the same frames."""

_EPILOG = """\
examples:
  dedos-train tune-words --init embedded --data yard --output yard.words
      yard/images/train, yard/labels/train, yard/classes.txt; a minute or two on two cores
  dedos-train tune-words --init runs/b/checkpoint.safetensors --data yard \\
      --classes "pallet,forklift|truck" --frames 50 --output yard.words
      these words; the folder's other classes stay as they are, and must not suffer
  dedos-train tune-words --init dense-b --data yard --output yard.words
      for the bundle of: dedos-export --preset dense-b --clip-weights openai
  dedos-eval --bundle demo --words yard.words --data yard
  dedos-run --camera 0 --classes yard.words --show

Label some 20 frames that differ; neighbouring frames of a video tell little more than one. Ctrl-C
leaves no file."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dedos-train tune-words`."""
    parser = command_parser("dedos-train tune-words", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--init",
        required=True,
        metavar="embedded|CHECKPOINT|PRESET",
        help="the model: the embedded nano, a checkpoint of dedos-train, or dense-b or dense-l",
    )
    parser.add_argument(
        "--clip-weights",
        default="openai",
        metavar="TAG|FILE",
        help="of a dense preset, as dedos-export takes them (default: %(default)s)",
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="label folder")
    parser.add_argument("--split", default="train", help="split of it (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="words file, such as my.words"
    )
    parser.add_argument(
        "--classes", help="words to tune, as dedos-run takes them (default: all of the folder)"
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=20,
        metavar="N",
        help="labelled frames to use, spread evenly over the split; fewer if there are fewer "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=typed(size_hw),
        metavar="HxW",
        help="network size, as dedos-export takes it (default: as trained)",
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads, at most one per core (default: torch's choice)"
    )
    add_json_line(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Tune as the parsed options say."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in ("torch", "open_clip"):
        require(module, extra="train", purpose="tuning words")
    import torch

    from dedos_deploy.threads import usable_threads
    from dedos_deploy.training.words import TuneRequest, tune_words
    from dedos_deploy.vocabulary import typed_vocabulary

    if args.threads is not None and args.threads < 1:
        raise BadInputError(f"--threads is {args.threads}, but must be at least 1")
    if args.threads:
        torch.set_num_threads(usable_threads(args.threads))
    weights = named("checkpoint", *([args.init] if os.path.exists(args.init) else []))
    words = named("class file", *([args.classes] if os.path.isfile(args.classes or "") else []))
    check_run_folder(args.output, (), [*data_read(args.data), *weights, *words])
    if not args.output.absolute().parent.is_dir():
        raise BadInputError(
            f"output {str(args.output)!r} has no folder to lie in; make it, or choose another"
        )
    vocabulary = typed_vocabulary(args.classes) if args.classes is not None else None
    if vocabulary is not None and vocabulary.tuned is not None:
        raise BadInputError(
            f"{vocabulary.tuned.file!r} has words that are tuned already; tuning begins at the words "
            "themselves, so give --classes a list of words"
        )
    report = tune_words(
        _given(args),
        TuneRequest(args.data, args.split, vocabulary, args.frames),
        args.output,
        progress=ProgressLines(),
    )
    print("\n".join(report_lines(report)), file=for_people(args))
    print(f"wrote {args.output}; next: dedos-run --classes {args.output}", file=sys.stderr)
    if args.json:
        print(json.dumps(report.to_dict(), allow_nan=False))
    return EXIT_OK


def _given(args: argparse.Namespace) -> Given:
    from dedos_deploy.export.base_words import BASE_WORDS
    from dedos_deploy.export.options import ExportOptions
    from dedos_deploy.model.word_embeddings import WordModel
    from dedos_deploy.training.words import Given

    trained = _trained(args)
    model = trained.model
    if not isinstance(model, WordModel):
        raise BadInputError(
            f"words of a {type(model).__name__} cannot be tuned; give embedded, a checkpoint of "
            "dedos-train, or a dense preset"
        )
    config = model.config
    trained_hw = tuple(trained.record.get("size_hw", config.size_hw))
    size = config.check_size(args.size or trained_hw)
    template = ExportOptions().templates_for(config)
    assert trained.checkpoint_sha256 is not None, "no random weights were asked for"
    words = trained.words or list(BASE_WORDS)
    return Given(model, trained.checkpoint_sha256, size, template, tuple(words))


def _trained(args: argparse.Namespace) -> TrainedModel:
    from dedos_deploy.export.weights import EMBEDDED_PRESET, WeightsSource
    from dedos_deploy.presets import DENSE_PRESETS

    if args.init == EMBEDDED:
        return WeightsSource(preset=EMBEDDED_PRESET).load()
    if args.init in DENSE_PRESETS:
        return WeightsSource(preset=args.init, clip_weights=args.clip_weights).load()
    return WeightsSource(checkpoint=args.init).load()


def report_lines(report: TuneReport) -> list[str]:
    """Return what held-out frames said, for people."""
    gain, (before, after) = report.gain, report.to_negatives
    head = [
        f"{report.frames} frames, {report.seconds:.0f} s, {report.feature_bytes / 2**20:.0f} MiB of features",
        f"held-out mIoU {report.miou_words:.3f} with the words, {report.miou_tuned:.3f} tuned "
        f"(gain {100 * gain.difference:+.1f}, 95 % {100 * gain.low:+.1f} to {100 * gain.high:+.1f} points)",
    ]
    if not report.kept:
        head.append("nothing was better than the words, so the file has them as they were")
    if report.too_rare:
        head.append(
            f"too rare in these frames to be judged, left as they were: {', '.join(report.too_rare)}"
        )
    width = max(len(one.name) for one in (*report.words, *report.neighbours))
    lines = [_line(one, width) for one in report.words]
    if report.neighbours:
        lines += ["not tuned:", *(_line(one, width) for one in report.neighbours)]
    lines.append(
        f"with --background negatives, {before:.1%} of these words' pixels went to negatives, now {after:.1%}"
    )
    return [*head, f"{'':<{width}}  words  tuned  cosine  threshold", *lines]


def _line(word: WordReport, width: int) -> str:
    values = (word.iou_words, word.iou_tuned)
    iou = "  ".join("    -" if value is None else f"{value:.3f}" for value in values)
    threshold = "-" if word.threshold is None else f"{word.threshold:.3f}"
    return f"{word.name:<{width}}  {iou}   {word.cosine:.3f}      {threshold}"
