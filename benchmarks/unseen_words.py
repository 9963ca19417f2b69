"""What a bundle makes of words it never had a label for.

Every frame of a label folder is segmented twice: under the folder's own class names, and with each
name replaced by another word for the same thing that is not among the words the bundle's masks were
trained on (car -> automobile). Both label maps are scored against the same labels. Classes whose
own name was never trained on are reported apart from the others.

    python benchmarks/unseen_words.py --bundle demo --data lums_road --split val
    python benchmarks/unseen_words.py --bundle my.dedos --data camvid --json > unseen.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dedos_deploy import Segmenter, __version__
from dedos_deploy.bundle import Bundle
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.folder import LabelledFolder, ignore_id, match_classes
from dedos_deploy.options import whole_number
from dedos_deploy.vocabulary import canonical_word

OTHER_WORDS: dict[str, tuple[str, ...]] = {
    "bicycle": ("bike", "pushbike"),
    "bicyclist": ("cyclist", "person on a bicycle"),
    "bin": ("trash can", "dustbin", "garbage can"),
    "building": ("house", "edifice"),
    "bush": ("shrub", "hedge"),
    "cabinet": ("cupboard", "closet"),
    "car": ("automobile", "motorcar"),
    "ceiling": ("tiled ceiling", "overhead surface"),
    "chair": ("armchair", "seat"),
    "door": ("doorway", "entrance"),
    "elevator": ("lift",),
    "fence": ("barrier", "paling"),
    "fire extinguisher": ("extinguisher", "red fire bottle"),
    "floor": ("ground", "flooring"),
    "glass window": ("window pane", "glazing"),
    "obstacle": ("obstruction", "hindrance"),
    "pedestrian": ("passer-by", "walker"),
    "person": ("human", "man"),
    "picture": ("painting", "poster"),
    "plant": ("houseplant", "potted plant"),
    "pole": ("post", "mast"),
    "railing": ("banister", "handrail"),
    "road": ("street", "roadway"),
    "sidewalk": ("pavement", "footpath"),
    "sign": ("road sign", "street sign"),
    "sky": ("heaven", "skies"),
    "speed bump": ("speed hump", "sleeping policeman"),
    "stair": ("staircase", "steps"),
    "table": ("desk", "counter"),
    "tree": ("trees", "foliage"),
    "vending machine": ("snack machine", "drinks dispenser"),
    "wall": ("partition", "brickwork"),
}
"""Other words for the classes of the usual folders; the first untrained one is taken."""


@dataclass(frozen=True)
class Renaming:
    """names: classes of the folder; asked: what the second run asks for instead, in their order;
    trained: whether masks were trained under the name."""

    names: tuple[str, ...]
    asked: tuple[str, ...]
    trained: tuple[bool, ...]

    @classmethod
    def of(cls, names: Sequence[str], trained_words: Sequence[str]) -> Renaming:
        """Return the renaming of `names` by words that are not among `trained_words`.

        Raises BadInputError when no name has such another word.
        """
        known = {canonical_word(word) for word in trained_words}
        taken, asked = set(names), []
        for name in names:
            free = [w for w in OTHER_WORDS.get(name, ()) if w not in known and w not in taken]
            asked.append(free[0] if free else name)
            taken.add(asked[-1])
        if tuple(asked) == tuple(names):
            raise BadInputError(
                f"none of {', '.join(names)} has another word that the bundle was not trained on"
            )
        return cls(tuple(names), tuple(asked), tuple(name in known for name in names))


def measure(
    bundle: Bundle, folder: LabelledFolder, *, threads: int | None = None, images: int | None = None
) -> dict[str, Any]:
    """Return the report: scores under both lists of words, their agreement, seen and unseen apart."""
    vocabulary, table = match_classes(folder.classes, None)
    renaming = Renaming.of(vocabulary.names, bundle.vocabulary("base")[0])
    confusions = [Confusion(len(vocabulary), ignore=ignore_id(vocabulary)) for _ in range(2)]
    same = pixels = 0
    count = min(images or len(folder), len(folder))
    wanted = {index * len(folder) // count for index in range(count)}
    with ExitStack() as stack:
        segmenters = [
            stack.enter_context(
                Segmenter.load(bundle, classes=words, background="none", threads=threads)
            )
            for words in (renaming.names, renaming.asked)
        ]
        for index, item in enumerate(folder):
            if index not in wanted:
                continue
            maps = [segmenter.segment(item.image_bgr).label_map.copy() for segmenter in segmenters]
            for confusion, found in zip(confusions, maps, strict=True):
                confusion.add(table[item.labels], found)
            same += int((maps[0] == maps[1]).sum())
            pixels += maps[0].size
    return report(renaming, confusions, same / pixels, count)


def report(
    renaming: Renaming, confusions: Sequence[Confusion], agreement: float, images: int
) -> dict[str, Any]:
    """Return the measures as JSON values under stable keys."""
    own, other = (confusion.iou for confusion in confusions)
    present = confusions[0].labelled > 0
    renamed = np.array([n != a for n, a in zip(renaming.names, renaming.asked, strict=True)])
    trained = np.array(renaming.trained)

    def mean(iou: np.ndarray[Any, Any], chosen: np.ndarray[Any, Any]) -> float | None:
        kept = np.nan_to_num(iou[chosen & present])
        return round(float(kept.mean()), 4) if kept.size else None

    return {
        "images": images,
        "agreement": round(agreement, 4),
        "own_names": {
            "miou_present": mean(own, trained | ~trained),
            "miou_trained_classes": mean(own, trained),
            "miou_untrained_classes": mean(own, ~trained),
        },
        "other_words": {
            "miou_present": mean(other, trained | ~trained),
            "miou_renamed_classes": mean(other, renamed),
            "the_same_under_own_names": mean(own, renamed),
        },
        "classes": {
            name: {
                "asked": asked,
                "trained": bool(known),
                "iou": None if np.isnan(a) else round(float(a), 4),
                "iou_asked": None if np.isnan(b) else round(float(b), 4),
            }
            for name, asked, known, a, b in zip(
                renaming.names, renaming.asked, trained, own, other, strict=True
            )
        },
    }


def print_table(found: dict[str, Any]) -> None:
    """Print a table for people."""
    width = max(map(len, found["classes"]))
    print(f"{'class':<{width}}  trained    iou  asked as")
    for name, row in found["classes"].items():
        own, other = (
            "     -" if value is None else f"{value:6.3f}"
            for value in (row["iou"], row["iou_asked"])
        )
        asked = f"{row['asked']}: {other.strip()}" if row["asked"] != name else "-"
        print(f"{name:<{width}}  {'yes' if row['trained'] else 'no ':<7} {own}  {asked}")
    print(f"own names {found['own_names']}\nother words {found['other_words']}")
    print(f"{found['agreement']:.3f} of all pixels get the same class either way")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="demo", help="bundle (default: demo)")
    parser.add_argument("--data", type=Path, required=True, help="label folder")
    parser.add_argument("--split", default="val", help="its split (default: val)")
    parser.add_argument(
        "--images", type=typed(whole_number()), help="only this many, evenly spaced"
    )
    parser.add_argument("--threads", type=typed(whole_number()), help="CPU threads of the engine")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        folder = LabelledFolder.open(args.data, args.split)
        with Bundle.open(args.bundle) as bundle:
            found = measure(bundle, folder, threads=args.threads, images=args.images)
    except DedosError as error:
        print(f"unseen_words: error: {error}", file=sys.stderr)
        return 2
    if not args.json:
        print_table(found)
        return 0
    head = {"bundle": str(args.bundle), "data": folder.root.name, "split": args.split}
    tail = {"version": __version__, "machine": platform.machine()}
    print(json.dumps({**head, **found, **tail}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
