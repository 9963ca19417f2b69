"""Whether several images per run cost less per image, and whether each row is what it is alone.

Takes bundles of one model that differ in `dedos-export --batch`, the first with batch 1, and runs them in
ONNX Runtime on this CPU. First every row is compared with the same image alone. Then rounds: each bundle
labels the same images, as many runs as that takes, the first of a round changing each time; the median over
the rounds of the ratio to batch 1 is reported, of CPU seconds and of the clock. --int8 quantizes every
layer that INT8 can have, by ranges that are made up: that changes scores, not time.

    dedos-export --preset nano --batch 2 --output nano-2.dedos        (and 1, and 4)
    python benchmarks/batches.py nano-1.dedos nano-2.dedos nano-4.dedos --json
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.runtime.engines.agreement import label_agreement
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.spec import GraphSpec
from dedos_deploy.threads import usable_threads

SCENE_HW = (480, 640)
MADE_UP_RANGE = 4.0

Images = NDArray[np.uint8]
Text = NDArray[np.float32]


def scenes(spec: GraphSpec, count: int) -> Images:
    """Return pictures of the network's size, uint8 [N, H, W, 3]."""
    from dedos_deploy.scenes import KINDS, render_image

    images = np.empty((count, spec.height, spec.width, 3), np.uint8)
    for index, image in enumerate(images):
        resize_frame(render_image(KINDS[index % 2], seed=index, size_hw=SCENE_HW)[0], image)
    return images


def unit_rows(slots: int, width: int) -> Text:
    rows = np.random.default_rng(0).normal(size=(slots, width)).astype(np.float32)
    unit: Text = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def quantized(model: Path, dest: Path) -> Path:
    """Write the graph with all its sites in INT8."""
    import onnx

    from dedos_deploy.calib.placement import quantize, site_tensors

    graph = onnx.load(str(model))
    runs = site_tensors(graph)
    tensors = {name for run in runs for name in (run.activation, run.result) if name is not None}
    ranges = dict.fromkeys(tensors, MADE_UP_RANGE)
    quantize(graph, ranges, {run.site for run in runs}, target="cpu")
    onnx.save(graph, str(dest))
    return dest


def label(engine: OnnxEngine, images: Images, text: Text) -> list[NDArray[Any]]:
    """Return the scores of all images, [K, h, w] each."""
    step = engine.spec.batch
    found = []
    for first in range(0, len(images), step):
        inputs = {"image": images[first : first + step], "text": text}
        scores = engine.infer(inputs | {"valid": np.ones(len(text), np.float32)})["scores"]
        found += [row.copy() for row in scores]
    return found


def agreement(alone: Sequence[NDArray[Any]], together: Sequence[NDArray[Any]]) -> dict[str, float]:
    """Return the least part of pixels with one label, and the largest difference of scores."""
    pairs = list(zip(alone, together, strict=True))
    return {
        "agreement": min(label_agreement(one, other, SCENE_HW) for one, other in pairs),
        "max_abs": max(float(np.abs(one - other).max()) for one, other in pairs),
    }


def seconds_per_image(
    engines: Sequence[OnnxEngine], images: Images, text: Text, rounds: int
) -> list[list[tuple[float, float]]]:
    """Return for every round the seconds of CPU and of the clock per image, engine by engine."""
    found = []
    for number in range(rounds):
        order = [(number + turn) % len(engines) for turn in range(len(engines))]
        taken = {}
        for index in order:
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            label(engines[index], images, text)
            taken[index] = (time.process_time() - cpu_s, time.perf_counter() - wall_s)
        found.append(
            [(cpu / len(images), wall / len(images)) for _, (cpu, wall) in sorted(taken.items())]
        )
    return found


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with ExitStack() as stack:
        bundles = [stack.enter_context(Bundle.open(path)) for path in args.bundles]
        if bundles[0].spec.batch != 1:
            raise BadInputError(f"the first bundle has batch {bundles[0].spec.batch}, not 1")
        engines = []
        for index, bundle in enumerate(bundles):
            model = bundle.path("model.onnx")
            if args.int8:
                model = quantized(model, folder / f"{index}.onnx")
            engine = OnnxEngine(model, bundle.spec, threads=args.threads)
            engines.append(stack.enter_context(engine))
        spec = bundles[0].spec
        images = scenes(spec, math.lcm(*(engine.spec.batch for engine in engines)))
        text = unit_rows(args.slots, spec.text_width)
        alone, *others = [label(engine, images, text) for engine in engines]
        same = [agreement(alone, other) for other in others]
        times = seconds_per_image(engines, images, text, args.rounds)
    return {
        "preset": bundles[0].manifest.preset,
        "precision": "int8" if args.int8 else bundles[0].manifest.precision["image"],
        "network_hw": [spec.height, spec.width],
        "slots": args.slots,
        "threads": usable_threads(args.threads),
        "rounds": args.rounds,
        "machine": platform.machine(),
        "cpu_s_per_image": statistics.median(row[0][0] for row in times),
        "batches": {
            str(engines[index].spec.batch): {
                **same[index - 1],
                "cpu_gain": statistics.median(row[0][0] / row[index][0] for row in times),
                "wall_gain": statistics.median(row[0][1] / row[index][1] for row in times),
            }
            for index in range(1, len(engines))
        },
    }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="the first with batch 1")
    parser.add_argument("--int8", action="store_true", help="quantize the graphs first")
    parser.add_argument("--slots", type=int, default=171, help="classes K (default: 171)")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--threads", type=int, help="of all (default: one per usable core)")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if min(len(args.bundles) - 1, args.slots, args.rounds) < 1:
            raise BadInputError("two bundles, --slots and --rounds from 1 on are needed")
        with tempfile.TemporaryDirectory() as folder:
            report = compare(args, Path(folder))
    except DedosError as error:
        print(f"batches: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{report['preset']} {report['precision']} at {report['network_hw']}, K={report['slots']}: "
        f"{1e3 * report['cpu_s_per_image']:.0f} ms of CPU per image alone"
    )
    for batch, row in report["batches"].items():
        print(
            f"  batch {batch}: {row['cpu_gain']:.2f}x by CPU time, {row['wall_gain']:.2f}x by the "
            f"clock; {row['agreement']:.2%} of pixels keep their label, scores within "
            f"{row['max_abs']:.1e}"
        )
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
