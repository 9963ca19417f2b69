"""Whether confidences are worth what they say where the words asked for leave something out.

Every picture of a label folder is labelled with all of the folder's classes, and with parts of them
drawn at random, half of the classes or two of them in turn. A pixel whose class was not asked for is
wrong, whatever word it gets. For each, the expected calibration error (15 bins) of scores and, of a
bundle that was calibrated, of what they are worth.

    python benchmarks/partial_lists.py --bundle demo --data tqb_hall camvid
    python benchmarks/partial_lists.py --bundle calibrated.dedos --data camvid --lists 8 --json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy import Segmenter
from dedos_deploy.bundle import Bundle
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.evaluation.calibrate import labelled_elsewhere
from dedos_deploy.evaluation.folder import LabelledFolder, ignore_id, match_classes
from dedos_deploy.evaluation.predictors import own_ids
from dedos_deploy.evaluation.reliability import level_cells, reliability_of
from dedos_deploy.evaluation.thresholds import ThresholdCounts
from dedos_deploy.options import whole_number
from dedos_deploy.vocabulary import Entry, Vocabulary


def lists_of(names: Sequence[str], count: int, seed: int) -> list[tuple[str, ...]]:
    """Return `count` different parts of the names: half of them, and two, in turn; fewer if there are no more.

    Raises BadInputError for one name, which has no part.
    """
    if len(names) < 2:
        raise BadInputError(
            f"there is one class, {names[0]!r}, but two are needed to leave one out"
        )
    drawn: dict[tuple[str, ...], None] = {}
    generator = random.Random(seed)
    for number in range(20 * count):
        size = max(1, len(names) // 2) if number % 2 == 0 else min(2, len(names) - 1)
        chosen = set(generator.sample(range(len(names)), size))
        drawn[tuple(name for index, name in enumerate(names) if index in chosen)] = None
        if len(drawn) == count:
            break
    return list(drawn)


def counts_of(
    bundle: Bundle, folder: LabelledFolder, vocabulary: Vocabulary, threads: int | None
) -> ThresholdCounts:
    """Return pixels by class and score, where a class that was not asked for makes a pixel wrong."""
    asked, table = match_classes(folder.classes, vocabulary)
    elsewhere = labelled_elsewhere(folder, table == ignore_id(asked))
    counts = ThresholdCounts(len(asked))
    with Segmenter.load(
        bundle, classes=asked, background="none", threads=threads, calibrated=False
    ) as segmenter:
        for item in folder:
            result = segmenter.segment(item.image_bgr)
            winners = own_ids(result, asked)
            counts.add(table[item.labels], elsewhere[item.labels], winners, result.confidence)
    return counts


def error_of(counts: ThresholdCounts, confidences: NDArray[np.uint8]) -> float | None:
    """Return the expected calibration error in [0, 1], None without pixels.

    confidences: uint8 [N, 256], of each class at each score.
    """
    total = counts.right + counts.wrong
    rows = zip(counts.right, total, confidences, strict=True)
    found = reliability_of(level_cells(*row) for row in rows)
    return None if found is None else round(found.error, 4)


def measure(
    bundle: Bundle, folder: LabelledFolder, *, lists: int, seed: int, threads: int | None
) -> dict[str, Any]:
    """Return the errors under every list, all classes first, as JSON values under stable keys."""
    everything, _ = match_classes(folder.classes, None)
    curves = bundle.confidence_curves()
    rows = []
    for names in [everything.names, *lists_of(everything.names, lists, seed)]:
        vocabulary = Vocabulary(tuple(Entry(name) for name in names))
        counts = counts_of(bundle, folder, vocabulary, threads)
        scores = np.tile(np.arange(256, dtype=np.uint8), (len(names), 1))
        pixels, right = int((counts.right + counts.wrong).sum()), int(counts.right.sum())
        worth = None if curves is None else error_of(counts, curves.rows(names)[:-1])
        row = {"asked": names, "pixels": pixels, "right": round(right / max(1, pixels), 4)}
        rows.append({**row, "ece_of_scores": error_of(counts, scores), "ece": worth})
    parts = rows[1:]
    means = {
        key: None if parts[0][key] is None else round(float(np.mean([r[key] for r in parts])), 4)
        for key in ("ece_of_scores", "ece")
    }
    return {"data": folder.root.resolve().name, "lists": rows, "mean_of_parts": means}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="demo", help="bundle (demo)")
    parser.add_argument("--data", nargs="+", required=True, metavar="FOLDER", help="label folders")
    parser.add_argument("--split", default="val", help="split of each (val)")
    parser.add_argument("--lists", type=typed(whole_number(1)), default=4, help="parts drawn (4)")
    parser.add_argument("--seed", type=typed(whole_number(0)), default=0, help="of the draw (0)")
    parser.add_argument("--threads", type=typed(whole_number(1)), help="CPU threads (all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    options = {"lists": args.lists, "seed": args.seed, "threads": args.threads}
    try:
        folders = [LabelledFolder.open(Path(data), args.split) for data in args.data]
        with Bundle.open(args.bundle) as bundle:
            found = [measure(bundle, folder, **options) for folder in folders]
    except DedosError as error:
        print(f"partial_lists: error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(found, allow_nan=False))
        return 0
    for one in found:
        for row in [*one["lists"], {"asked": ["mean of parts"], **one["mean_of_parts"]}]:
            shown = (row[key] for key in ("ece_of_scores", "ece"))
            errors = "  ".join("     -" if error is None else f"{error:6.3f}" for error in shown)
            print(f"{one['data']:<16} {errors}  {', '.join(row['asked'])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
