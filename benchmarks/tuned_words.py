"""What tuned words gain on frames that come later, or from a drive that they never saw.

Words are tuned on N frames of the first half of a label folder, or of all but one drive, as
`dedos-train tune-words` does it, and scored on its last third, or on that drive: with bundles of any
precision that were exported from the same checkpoint, each once with the words and once with the file.
Splits are taken together in the order of names.

    python benchmarks/tuned_words.py --data tqb_hall --frames 5 20 50 --output tqb.json
    python benchmarks/tuned_words.py --data camvid --leave-out 0016E5 --bundle demo half.dedos
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dedos_deploy import __version__
from dedos_deploy.bundle import Bundle
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.evaluation.compare import compare
from dedos_deploy.evaluation.data import FolderData
from dedos_deploy.evaluation.evaluate import Evaluated, evaluate_predictor
from dedos_deploy.evaluation.folder import LabelledFolder
from dedos_deploy.evaluation.predictors import open_bundle_predictor
from dedos_deploy.label_files import Items, split_items, splits
from dedos_deploy.options import whole_number
from dedos_deploy.vocabulary import Vocabulary, vocabulary_from_file


def parts_of(
    root: Path, split: str | None, only: str, leave_out: str | None, most: int
) -> tuple[Items, Items]:
    """Return the frames to tune on and at most so many to score on."""
    used = splits(root) if split is None else (split,)
    pairs = (pair for one in used for pair in split_items(root, one))
    every = sorted(
        (pair for pair in pairs if pair[0].name.startswith(only)), key=lambda pair: pair[0].name
    )
    if leave_out is None:
        return tuple(every[: len(every) // 2]), spread(every[-(len(every) // 3) :], most)
    there = [pair[0].name.startswith(leave_out) for pair in every]
    if not any(there) or all(there):
        raise BadInputError(f"{sum(there)} of {len(there)} frames begin with {leave_out!r}")
    scored = [pair for pair, left in zip(every, there, strict=True) if left]
    return tuple(one for one, left in zip(every, there, strict=True) if not left), spread(
        scored, most
    )


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose what `parts_of` returns."""
    parser.add_argument("--data", required=True, metavar="FOLDER")
    parser.add_argument("--leave-out", metavar="PREFIX", help="score on frames called so instead")
    parser.add_argument("--split", help="of the folder (default: all of them)")
    parser.add_argument("--only", default="", metavar="PREFIX", help="leave all other frames out")


def spread(pairs: Sequence[tuple[Path, Path]], most: int) -> Items:
    """Return at most so many of them, evenly."""
    count = min(most, len(pairs))
    return tuple(pairs[(2 * index + 1) * len(pairs) // (2 * count)] for index in range(count))


def as_folder(root: Path, pairs: Items, place: Path) -> Path:
    """Make a label folder of one split `train` that links to these frames."""
    place.mkdir()
    shutil.copy(root / "classes.txt", place)
    for kind, number in (("images", 0), ("labels", 1)):
        (place / kind / "train").mkdir(parents=True)
        for pair in pairs:
            os.symlink(pair[number].resolve(), place / kind / "train" / pair[number].name)
    return place


def score(bundle: str, pairs: Items, root: Path, vocabulary: Vocabulary | None) -> Evaluated:
    """Return how a bundle labels these frames with the vocabulary's rows."""
    folder = LabelledFolder(
        root, "scored", LabelledFolder.open(root, splits(root)[0]).classes, pairs
    )
    data = FolderData(folder, vocabulary)
    with open_bundle_predictor(bundle, data.vocabulary, threads=1) as predictor:
        return evaluate_predictor(predictor, data)


def compared(before: Evaluated, after: Evaluated) -> dict[str, Any]:
    """Return the gain in points, its interval, and the gain of every class."""
    found = compare((before.header, before.records), (after.header, after.records))
    gains = {
        n: round(100 * one.difference, 2) for n, one in found.classes.items() if one is not None
    }
    return {
        "miou_words": round(before.result.miou_present, 4),
        "miou_tuned": round(after.result.miou_present, 4),
        "gain": round(100 * found.miou.difference, 2),
        "low": round(100 * found.miou.low, 2),
        "high": round(100 * found.miou.high, 2),
        "worst": min(gains.values()),
        "classes": gains,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from dedos_deploy.export.weights import WeightsSource
    from dedos_deploy.training.words import Given, TuneRequest, tune_words

    root = Path(args.data)
    tuned_on, scored = parts_of(root, args.split, args.only, args.leave_out, args.scored)
    weights = WeightsSource(preset="nano") if args.init == "embedded" else WeightsSource(args.init)
    trained = weights.load()
    assert trained.checkpoint_sha256 is not None
    with Bundle.open(args.bundle[0]) as first:
        size = (first.spec.height, first.spec.width)
    given = Given(
        trained.model,  # type: ignore[arg-type]
        trained.checkpoint_sha256,
        size,
        "single",
        tuple(trained.words),
    )
    own = {name: score(name, scored, root, None) for name in args.bundle}
    runs = []
    for frames in args.frames:
        with tempfile.TemporaryDirectory() as place:
            folder = as_folder(root, tuned_on, Path(place) / "tuned_on")
            file = Path(place) / "my.words"
            report = tune_words(given, TuneRequest(str(folder), frames=frames), file)
            words = vocabulary_from_file(file)
            words = replace(
                words, entries=tuple(replace(one, threshold=None) for one in words.entries)
            )
            bundles = {
                Path(name).stem: compared(own[name], score(name, scored, root, words))
                for name in args.bundle
            }
        facts = report.to_dict()
        held_out = {
            key: facts[key] for key in ("kept", "rounds", "miou_words", "miou_tuned", "seconds")
        }
        interval = {"low": facts["gain_low"], "high": facts["gain_high"]}
        runs.append({"frames": frames, "held_out": {**held_out, **interval}, "bundles": bundles})
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    return {
        "data": root.resolve().name,
        "split": args.split,
        "only": args.only,
        "left_out": args.leave_out,
        "tuned_on": len(tuned_on),
        "scored": len(scored),
        "runs": runs,
        "dedos_deploy": __version__,
        "machine": platform.machine(),
        "made": time.strftime("%Y-%m-%d"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_parts(parser)
    parser.add_argument("--init", default="embedded", metavar="embedded|CHECKPOINT")
    parser.add_argument("--bundle", nargs="+", default=["demo"])
    parser.add_argument("--frames", type=typed(whole_number()), nargs="+", default=[5, 20, 50])
    parser.add_argument(
        "--scored",
        type=typed(whole_number()),
        default=60,
        metavar="N",
        help="frames, evenly spread",
    )
    parser.add_argument("--output", type=Path, metavar="JSON")
    args = parser.parse_args(argv)
    try:
        found = json.dumps(measure(args), indent=1) + "\n"
    except DedosError as error:
        print(f"tuned_words: error: {error}", file=sys.stderr)
        return 2
    if args.output is not None:
        args.output.write_text(found)
    print(found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
