"""How fast training data is made: images per second of one worker, and how long a step waits.

First a batch is made twice and must be the same. Then, for each augmentation recipe, one process
makes batches from JPEGs and label PNGs of 640x480 (generated: procedural scenes with camera noise,
about as large as COCO's files), and its own CPU time counts, so that other programs disturb it
little; so it does for the check of all files before the first step. Then workers make batches ahead of a training process that sleeps for the seconds of a step,
as one that waits for its GPU; what it waits for batches is a share of the whole.

    python benchmarks/loading.py --json
    python benchmarks/loading.py --size 644 --batch 4 --workers 1 2 --step 0.25 0.5
    python benchmarks/loading.py --data coco-stuff:/data/coco
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from dedos_deploy.cli._options import typed
from dedos_deploy.errors import DedosError
from dedos_deploy.options import real_number, whole_number
from dedos_deploy.threads import usable_cores
from dedos_deploy.training.augment import AugmentRecipe, AugmentSettings, augment
from dedos_deploy.training.data import Batch, BatchSettings, BatchStream, Share, batches
from dedos_deploy.training.folders import LabelFolder, read_pair
from dedos_deploy.training.sources import open_data
from dedos_deploy.training.survey import survey

FILE_HW = (480, 640)
RECIPES: tuple[AugmentRecipe, ...] = get_args(AugmentRecipe)
WARM_UP = 4
"""Steps before waiting counts: the workers start, and fill their queues."""


def write_folder(root: Path, count: int) -> None:
    """Write a label folder of `count` scenes with the noise and the file size of photographs."""
    import cv2

    from dedos_deploy.scenes import class_names, render_image

    for part in ("images", "labels"):
        (root / part / "train").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(class_names("street")) + "\n")
    random = np.random.default_rng(0)
    for number in range(count):
        image, labels = render_image("street", seed=number, size_hw=FILE_HW)
        noisy = np.clip(image + random.normal(0, 9, image.shape), 0, 255).astype(np.uint8)
        jpeg = str(root / "images" / "train" / f"{number:04}.jpg")
        cv2.imwrite(jpeg, noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
        cv2.imwrite(str(root / "labels" / "train" / f"{number:04}.png"), labels)


@contextmanager
def chosen_data(args: argparse.Namespace) -> Iterator[list[LabelFolder]]:
    """Open --data, or write a folder for the time of the run."""
    if args.data:
        yield open_data(args.data, "train")
        return
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder) / "scenes", args.images)
        yield open_data([str(Path(folder) / "scenes")], "train")


def check_repeats(stream: BatchStream) -> bool:
    """Return whether a batch made twice is the same."""
    one, two = (made(stream, 0) for _ in range(2))
    return torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)


def made(stream: BatchStream, step: int) -> Batch:
    batch = stream[step]
    if isinstance(batch, DedosError):
        raise batch
    return batch


def cpu_ms(work: Sequence[Any]) -> float:
    """Return the median CPU milliseconds of calling each of `work`."""
    spent = []
    for call in work:
        before = time.process_time()
        call()
        spent.append(1e3 * (time.process_time() - before))
    return statistics.median(spent)


def stages(stream: BatchStream, items: int) -> dict[str, float]:
    """Return CPU milliseconds per image: reading, the recipe, and a batch in all."""
    folder, settings = stream.folders[0], stream.settings
    table = folder.lookup({word: slot for slot, word in enumerate(folder.annotated)})
    pairs = [read_pair(folder, item) for item in range(min(items, len(folder.items)))]
    labelled = [(image, table[raw]) for image, raw in pairs]
    random = np.random.default_rng(0)
    batch_ms = cpu_ms([lambda step=step: made(stream, step) for step in range(1, items)])
    return {
        "read_ms": cpu_ms([lambda i=i: read_pair(folder, i) for i in range(len(pairs))]),
        "augment_ms": cpu_ms(
            [
                lambda pair=pair: augment(
                    *pair, settings.size_hw, settings.augmentation, random, outside=-1
                )
                for pair in labelled
            ]
        ),
        "image_ms": batch_ms / settings.batch,
        "images_per_s_per_worker": 1e3 * settings.batch / batch_ms,
    }


def waiting(stream: BatchStream, workers: int, step_s: float, steps: int) -> float:
    """Return the part of training's time that it waits for batches."""
    waited = 0.0
    made_ahead = batches(stream, Share(0, WARM_UP + steps), workers=workers)
    for number in range(WARM_UP + steps):
        before = time.perf_counter()
        next(made_ahead)
        if number >= WARM_UP:
            waited += time.perf_counter() - before
        time.sleep(step_s)
    made_ahead.close()
    return waited / (waited + steps * step_s)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with chosen_data(args) as folders:
        files = [image.stat().st_size for image, _ in folders[0].items[: args.images]]
        report: dict[str, Any] = {
            "identical": True,
            "image_kb": statistics.mean(files) / 1e3,
            "check_ms": cpu_ms([lambda: survey(folders)])
            / sum(len(folder.items) for folder in folders),
            "size_hw": [args.size, args.size],
            "batch": args.batch,
            "cores": usable_cores(),
            "machine": platform.machine(),
            "recipes": {},
        }
        plain = BatchSettings((args.size, args.size), args.batch)
        for recipe in RECIPES:
            settings = replace(plain, augmentation=AugmentSettings(recipe=recipe))
            stream = BatchStream(folders, settings)
            report["identical"] &= check_repeats(stream)
            result: dict[str, Any] = stages(stream, args.images)
            result["waiting"] = [
                {"workers": n, "step_s": step_s, "share": waiting(stream, n, step_s, args.steps)}
                for n in args.workers
                for step_s in args.step
            ]
            report["recipes"][recipe] = result
    return report


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", metavar="[KIND:]FOLDER", help="in place of scenes")
    parser.add_argument(
        "--images", type=typed(whole_number(2)), default=32, help="to make and read (default: 32)"
    )
    parser.add_argument(
        "--size", type=typed(whole_number()), default=640, help="side of a crop (default: 640)"
    )
    parser.add_argument("--batch", type=typed(whole_number()), default=4, help="default: 4")
    parser.add_argument(
        "--workers", type=typed(whole_number(0)), nargs="+", default=[1, 2], help="default: 1 2"
    )
    parser.add_argument(
        "--step",
        type=typed(real_number(above=0)),
        nargs="+",
        default=[0.1, 0.3],
        metavar="S",
        help="seconds of a simulated step (default: 0.1 0.3)",
    )
    parser.add_argument(
        "--steps", type=typed(whole_number()), default=16, help="that count (default: 16)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    torch.set_num_threads(1)
    try:
        report = measure(args)
    except DedosError as error:
        print(f"loading: error: {error}", file=sys.stderr)
        return 2
    print(
        f"crops of {args.size}, batches of {args.batch}, files of {report['image_kb']:.0f} kB, "
        f"{report['cores']} cores; batches {'repeat' if report['identical'] else 'DIFFER'}; checked "
        f"before the first step in {report['check_ms']:.1f} ms of CPU an image"
    )
    for recipe, result in report["recipes"].items():
        print(
            f"{recipe}: {result['images_per_s_per_worker']:.0f} images/s per worker "
            f"({result['image_ms']:.1f} ms of CPU: reading {result['read_ms']:.1f}, recipe "
            f"{result['augment_ms']:.1f})"
        )
        for case in result["waiting"]:
            print(
                f"  {case['workers']} workers, steps of {case['step_s']:g} s: "
                f"{case['share']:.0%} waiting"
            )
    if args.json:
        print(json.dumps(report))
    return 0 if report["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
