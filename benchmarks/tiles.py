"""What tiles and test-time augmentation gain over the whole picture, and what they cost.

A bundle labels the same pictures whole and through each of `--tiles` (and `--tta`): IoU per class, its mean, that of
thin classes apart, each with what it gains over the whole and the 95 % interval of a paired bootstrap over pictures; the
network's runs per picture; and the time beside that of the whole, picture by picture, one after the other.

    python benchmarks/tiles.py --scenes 24 --json
    python benchmarks/tiles.py --data lums_road --classes "road,sidewalk,obstacle,speed bump" \\
        --tiles auto 2x2 --thin "obstacle,speed bump"

`--scenes` draws streets of 1920x1080 whose labels are exact (see `dedos_deploy.scenes`), from seeds that nobody
learned from.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dedos_deploy import __version__
from dedos_deploy.bundle import Bundle
from dedos_deploy.cli._eval_looking import USUAL
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.evaluation.compare import compare
from dedos_deploy.evaluation.confusion import Ids
from dedos_deploy.evaluation.data import EvaluationData, FolderData
from dedos_deploy.evaluation.evaluate import NOTHING, evaluate_image, header_of
from dedos_deploy.evaluation.folder import LabelledFolder, LabelledImage, ignore_id
from dedos_deploy.evaluation.looking import Looking, parse_augmentation
from dedos_deploy.evaluation.predictors import SegmenterPredictor, open_bundle_predictor
from dedos_deploy.evaluation.records import ImageRecord, confusion_of
from dedos_deploy.options import real_number, whole_number
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.scenes import class_names, render_image
from dedos_deploy.tiles import parse_tiles
from dedos_deploy.vocabulary import Vocabulary, parse_vocabulary, typed_vocabulary

SCENE_HW = (1080, 1920)
FIRST_SEED = 910_000
"""Of scenes; the embedded nano learned from others."""

SAMPLES = 3
"""Drawn pixels per pixel of a scene, along each axis."""

THIN = (
    "pole",
    "column_pole",
    "fence",
    "traffic light",
    "traffic sign",
    "sign",
    "lane marking",
    "person",
    "pedestrian",
    "bicycle",
    "bicyclist",
    "motorcycle",
    "bench",
    "trash can",
)
"""Classes that are thin or small, where data has them and --thin does not say."""


class Scenes:
    """Streets from seeds, as data to evaluate on."""

    def __init__(self, count: int, size_hw: tuple[int, int] = SCENE_HW) -> None:
        self.name = f"scenes {size_hw[1]}x{size_hw[0]}"
        self.classes = class_names("street")
        self.vocabulary: Vocabulary = parse_vocabulary(list(self.classes))
        self.ignore = ignore_id(self.vocabulary)
        self.image_names = tuple(f"street {FIRST_SEED + index}" for index in range(count))
        self._size_hw = size_hw

    def image(self, index: int) -> LabelledImage:
        image, labels = render_image(
            "street", seed=FIRST_SEED + index, size_hw=self._size_hw, samples=SAMPLES
        )
        return LabelledImage(self.image_names[index], image, labels)

    def fold(self, predictions: Ids) -> Ids:
        return predictions


@dataclass(frozen=True)
class Way:
    """One way to look at pictures, and what was seen of each."""

    name: str
    tiling: Tiling
    predictor: SegmenterPredictor
    records: list[ImageRecord] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)


def looks_of(args: argparse.Namespace) -> dict[str, Looking]:
    """Return the whole, and the ways that are compared with it, by name."""
    looks = {"whole": Looking("off")}
    looks |= {f"tiles {text}": Looking(parse_tiles(text)) for text in args.tiles}
    if args.tta is not None:
        looks[f"tta {args.tta}"] = Looking("off", *parse_augmentation(args.tta))
    return looks


def opened_way(
    name: str, looking: Looking, vocabulary: Vocabulary, bundle: Bundle, **run: Any
) -> Way:
    """Return a way with its model; run: engine and threads."""
    predictor = open_bundle_predictor(bundle, vocabulary, looking=looking, name=name, **run)
    return Way(name, looking.tiling(Tiling()), predictor)


def check_agreement(ways: Sequence[Way], network_hw: tuple[int, int]) -> None:
    """Raise DedosError where a picture that needs no tiles is labelled otherwise than without them."""
    image, _ = render_image("street", seed=7, size_hw=network_hw)
    expected = ways[0].predictor.predict(image)
    for way in ways[1:]:
        if replace(way.tiling, tiles="off").is_off and way.tiling.tiles == "auto":
            if not np.array_equal(way.predictor.predict(image).ids, expected.ids):
                raise DedosError(f"{way.name} labels a small picture otherwise than the whole does")


def look(
    ways: Sequence[Way],
    data: EvaluationData,
    indices: Sequence[int],
    network_hw: tuple[int, int],
    minutes: float,
) -> list[tuple[int, int]]:
    """Label pictures in every way, one after the other, and return their sizes; after so many minutes no
    further one is begun."""
    sizes: list[tuple[int, int]] = []
    ends = time.monotonic() + 60 * minutes
    for done, index in enumerate(indices, 1):
        if sizes and time.monotonic() > ends:
            break
        image = data.image(index)
        size = image.labels.shape[0], image.labels.shape[1]
        sizes.append(size)
        for way in ways:
            record = evaluate_image(way.predictor, data, image, boundary=False, moves=False)
            way.records.append(record)
            way.runs.append(len(way.tiling.plan(size, network_hw).windows))
        print(f"\r{done} of {len(indices)} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return sizes


def reported(way: Way, thin: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Return what was measured of a way alone."""
    confusion = confusion_of(way.records, len(classes))
    columns = zip(classes, confusion.iou.tolist(), confusion.labelled.tolist(), strict=True)
    iou = {name: round(value, 4) for name, value, pixels in columns if pixels}
    shown = [iou[name] for name in thin if name in iou]
    return {
        "miou": round(confusion.miou_present, 4),
        "thin_miou": round(statistics.mean(shown), 4) if shown else None,
        "runs_per_picture": round(statistics.mean(way.runs), 2),
        "iou": iou,
    }


def gained(whole: Way, way: Way, data: EvaluationData, thin: Sequence[str]) -> dict[str, Any]:
    """Return what a way is beside the whole."""
    headers = [header_of(one.predictor, data, NOTHING, None) for one in (whole, way)]
    found = compare((headers[0], whole.records), (headers[1], way.records), group=thin)
    values = found.to_dict()
    pairs = zip(way.records, whole.records, strict=True)
    return {
        "miou_gain": values["miou_present"],
        "thin_gain": values.get("group"),
        "moved": {name: round(change.difference, 4) for name, change in found.moved.items()},
        "ms_ratio": round(
            statistics.median(a.seconds / b.seconds for a, b in pairs if b.seconds), 2
        ),
    }


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Return the report."""
    data = Scenes(args.scenes) if args.scenes is not None else folder_data(args)
    check_thin(args.thin or (), data)
    count = (
        len(data.image_names) if args.images is None else min(args.images, len(data.image_names))
    )
    indices = [number * len(data.image_names) // count for number in range(count)]
    thin = [name for name in args.thin or THIN if name in data.classes]
    with contextlib.ExitStack() as opened:
        bundle = opened.enter_context(Bundle.open(args.bundle))
        ways = []
        for name, looking in looks_of(args).items():
            run = {"engine": args.engine, "threads": args.threads}
            ways.append(opened_way(name, looking, data.vocabulary, bundle, **run))
            opened.callback(ways[-1].predictor.close)
        spec = bundle.manifest.spec
        network_hw = spec.height, spec.width
        check_agreement(ways, network_hw)
        sizes = look(ways, data, indices, network_hw, args.minutes)
    report = {way.name: reported(way, thin, data.classes) for way in ways}
    for way in ways[1:]:
        report[way.name] |= gained(ways[0], way, data, thin)
    return {
        "version": __version__,
        "bundle": args.bundle,
        "network": f"{spec.height}x{spec.width}",
        "data": data.name,
        "pictures": len(sizes),
        "sizes": sorted({f"{height}x{width}" for height, width in sizes}),
        "thin": thin,
        "ways": report,
    }


def folder_data(args: argparse.Namespace) -> EvaluationData:
    """Return the split of a label folder."""
    asked = None if args.classes is None else typed_vocabulary(args.classes)
    return FolderData(LabelledFolder.open(args.data, args.split), asked)


def check_thin(names: Sequence[str], data: EvaluationData) -> None:
    """Raise BadInputError for a thin class that the data has not."""
    for name in names:
        if name not in data.classes:
            raise BadInputError(
                f"--thin {name!r} is no class of {data.name}: {', '.join(data.classes)}"
            )


def shown(report: dict[str, Any]) -> str:
    """Return the report as a table, in percent."""
    lines = [f"{report['pictures']} pictures of {report['data']} ({', '.join(report['sizes'])})"]
    for name, way in report["ways"].items():
        line = f"{name:28} mIoU {100 * way['miou']:5.1f}"
        if way["thin_miou"] is not None:
            line += f", thin {100 * way['thin_miou']:5.1f}"
        line += f", {way['runs_per_picture']:g} runs"
        for key, what in (("miou_gain", "mIoU"), ("thin_gain", "thin")):
            if gain := way.get(key):
                low, high = 100 * gain["low"], 100 * gain["high"]
                line += f"; {what} {100 * gain['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append(line + (f"; {way['ms_ratio']:.2f} times as long" if "ms_ratio" in way else ""))
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on = parser.add_mutually_exclusive_group(required=True)
    on.add_argument(
        "--scenes", type=typed(whole_number()), metavar="N", help="so many streets of 1920x1080"
    )
    on.add_argument("--data", metavar="FOLDER", help="a label folder")
    parser.add_argument("--split", default="val", help="of the folder (default: val)")
    parser.add_argument("--classes", help="of the folder, as dedos-eval takes them (default: all)")
    parser.add_argument(
        "--images", type=typed(whole_number()), help="so many of them, evenly spread (default: all)"
    )
    parser.add_argument(
        "--minutes",
        type=typed(real_number(above=0)),
        default=float("inf"),
        help="begin no picture after so many minutes",
    )
    parser.add_argument("--bundle", default="demo")
    parser.add_argument("--tiles", nargs="+", default=["auto"], help="ways to tile (default: auto)")
    parser.add_argument(
        "--tta", nargs="?", const=USUAL, help=f"test-time augmentation, too (alone: {USUAL})"
    )
    parser.add_argument(
        "--thin",
        type=lambda text: text.split(","),
        help="classes whose mean is given apart, with commas between (default: those known as thin)",
    )
    parser.add_argument("--engine", default="cpu")
    parser.add_argument("--threads", type=typed(whole_number()), default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = build_parser().parse_args(argv)
    try:
        report = measured(args)
    except DedosError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(report, allow_nan=False) if args.json else shown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
