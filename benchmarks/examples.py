"""What words by example gain over the bare word, on frames that come later or from another drive.

Of every class of a label folder that enough frames show: the deployed bundle labels the frames to be scored with the
folder's words; with the class's row made from 1 and from 5 labelled frames (`Segmenter.learn`); and the same under
a name that means nothing. IoU of that class, and how often `separates` was right: on the scored frames the
word reaches LEAST_USE or does not.

    python benchmarks/examples.py --data camvid --leave-out 0016E5 --json
    python benchmarks/examples.py --data tqb_hall --bundle my.dedos --examples 1 5 --json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Its own folder comes first for a script, as for a test that puts it there.
from tuned_words import add_parts, parts_of, spread

from dedos_deploy import __version__
from dedos_deploy.bundle import Bundle
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.evaluation.folder import LabelledFolder
from dedos_deploy.label_files import splits
from dedos_deploy.options import whole_number
from dedos_deploy.runtime import LearnedWord, Segmenter
from dedos_deploy.vocabulary import canonical_word

NOTHING = "xyzzy"
"""A name that means nothing."""

LEAST_SHARE = 0.003
"""Of a frame's pixels, from which on it is an example of a class."""

LEAST_USE = 0.2
"""IoU on the scored frames from which on a learned word is of use."""

Picture = tuple[NDArray[np.uint8], NDArray[Any]]


def pictures(folder: LabelledFolder) -> Iterator[Picture]:
    """Yield frames uint8 [H, W, 3] BGR and their labels [H, W]."""
    for item in folder:
        yield item.image_bgr, item.labels


def examples_of(shown: Sequence[Picture], class_id: int, most: int) -> list[Picture]:
    """Return at most so many frames that show a class, evenly spread over those that do."""
    fit = [one for one in shown if (one[1] == class_id).mean() >= LEAST_SHARE]
    count = min(most, len(fit))
    return [fit[(2 * index + 1) * len(fit) // (2 * count)] for index in range(count)]


def iou(
    segmenter: Segmenter, scored: Sequence[Picture], place: int, class_id: int, ignore: int
) -> float:
    """Return the IoU of the word at a place of the segmenter's list with a class of the folder."""
    both = either = 0
    for frame, labels in scored:
        result = segmenter.segment(frame)
        number = segmenter.entries[place][1]
        found, there, counted = result.label_map == number, labels == class_id, labels != ignore
        both += int((found & there & counted).sum())
        either += int(((found | there) & counted).sum())
    return both / either if either else 0.0


def measured(
    segmenter: Segmenter, names: Sequence[str], place: int, chosen: Sequence[Picture], **score: Any
) -> dict[str, Any]:
    """Return what a class is worth under a list of words after learning from frames; none: the bare words."""
    segmenter.set_classes(list(names))
    if not chosen:
        return {"iou": round(iou(segmenter, place=place, **score), 4)}
    started = time.monotonic()
    learned: LearnedWord = segmenter.learn(
        names[place],
        [frame for frame, _ in chosen],
        [labels == score["class_id"] for _, labels in chosen],
        anyway=True,
    )
    seconds = time.monotonic() - started
    found = round(iou(segmenter, place=place, **score), 4)
    return {
        "iou": found,
        "margin": round(learned.margin, 4),
        "overlap": round(learned.overlap, 4),
        "separates": learned.separates,
        "of_use": found >= LEAST_USE,
        "from_text": learned.from_text,
        "seconds": round(seconds, 2),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    root = Path(args.data)
    shown, scored = parts_of(root, args.split, args.only, args.leave_out, args.scored)
    whole = LabelledFolder.open(root, splits(root)[0])
    classes, ignore = whole.classes, 255 if len(whole.classes) <= 255 else 65535
    given = list(pictures(LabelledFolder(root, "shown", classes, spread(shown, args.shown))))
    later = list(pictures(LabelledFolder(root, "scored", classes, scored)))
    rows = []
    with Bundle.open(args.bundle) as bundle:
        known = set(map(canonical_word, bundle.base_words))
        with Segmenter.load(bundle, classes=list(classes), threads=args.threads) as segmenter:
            for place, name in enumerate(classes):
                chosen = examples_of(given, place, max(args.examples))
                there = sum(int((labels == place).sum()) for _, labels in later)
                left_out = args.classes is not None and name not in args.classes
                if left_out or len(chosen) < max(args.examples) or not there:
                    continue
                score = {"scored": later, "class_id": place, "ignore": ignore}
                others = [NOTHING if one == name else one for one in classes]
                row: dict[str, Any] = {"name": name, "known": canonical_word(name) in known}
                row["word"] = measured(segmenter, classes, place, [], **score)
                row["nothing"] = measured(segmenter, others, place, [], **score)
                for count in args.examples:
                    for kind, names in (("word", classes), ("nothing", others)):
                        some = chosen[:: max(1, len(chosen) // count)][:count]
                        # A new view, since rows by example are kept.
                        view = segmenter.share(list(names))
                        row[f"{kind}_{count}"] = measured(view, names, place, some, **score)  # type: ignore[arg-type]
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    if not rows:
        raise BadInputError(
            f"no class of {str(root)!r} is shown by {max(args.examples)} frames and scored"
        )
    return {
        "data": root.resolve().name,
        "left_out": args.leave_out,
        "bundle": args.bundle,
        "shown": len(given),
        "scored": len(later),
        "classes": rows,
        **summary(rows),
        "dedos_deploy": __version__,
        "machine": platform.machine(),
        "made": time.strftime("%Y-%m-%d"),
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return mean IoU of every kind, over all classes and over those that the base vocabulary lacks, and how
    often `separates` was right."""
    kinds = [key for key in rows[0] if isinstance(rows[0][key], dict)]
    new = [row for row in rows if not row["known"]]
    learned = [row[kind] for row in rows for kind in kinds if "separates" in row[kind]]
    right = [one["separates"] == one["of_use"] for one in learned]
    return {
        "mean_iou": _means(rows, kinds),
        "mean_iou_new": _means(new, kinds) if new else None,
        "separates": {
            "right": round(float(np.mean(right)), 3),
            "of": len(right),
            "wrongly_yes": sum(one["separates"] and not one["of_use"] for one in learned),
            "wrongly_no": sum(one["of_use"] and not one["separates"] for one in learned),
        },
    }


def _means(rows: Sequence[dict[str, Any]], kinds: Sequence[str]) -> dict[str, float]:
    return {kind: round(float(np.mean([row[kind]["iou"] for row in rows])), 4) for kind in kinds}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_parts(parser)
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="learn these alone")
    parser.add_argument("--bundle", default="demo")
    parser.add_argument(
        "--examples", type=typed(whole_number()), nargs="+", default=[1, 5], metavar="N"
    )
    parser.add_argument(
        "--shown",
        type=typed(whole_number()),
        default=60,
        metavar="N",
        help="frames to take examples from",
    )
    parser.add_argument(
        "--scored",
        type=typed(whole_number()),
        default=12,
        metavar="N",
        help="frames, evenly spread",
    )
    parser.add_argument("--threads", type=typed(whole_number()))
    parser.add_argument("--json", action="store_true", help="print all of it, not the means alone")
    parser.add_argument("--output", type=Path, metavar="JSON")
    args = parser.parse_args(argv)
    try:
        found = measure(args)
    except DedosError as error:
        print(f"examples: error: {error}", file=sys.stderr)
        return 2
    if args.output is not None:
        args.output.write_text(json.dumps(found, indent=1) + "\n")
    brief = {key: found[key] for key in ("data", "mean_iou", "mean_iou_new", "separates")}
    print(json.dumps(found if args.json else brief, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
