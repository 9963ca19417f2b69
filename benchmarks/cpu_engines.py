"""OpenVINO beside ONNX Runtime on this CPU: labels first, then time in alternating rounds.

Every bundle runs in ONNX Runtime (FP32) and in OpenVINO in FP32 and, where the processor has it, in
BF16. Random weights give many words about the same score and say little of the labels of a trained
bundle; the embedded one (`demo`) is trained. Time is CPU time
of the process, which other programs disturb little, and wall time; the ratios are medians over the rounds.

    python benchmarks/cpu_engines.py --bundles demo paper-b.dedos --json
    python benchmarks/cpu_engines.py --presets edge-b dense-b --slots 171 --rounds 7
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from int8 import export, inputs_for
from numpy.typing import NDArray

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import DedosError
from dedos_deploy.options import whole_number
from dedos_deploy.runtime.engines.agreement import label_agreement
from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.engines.openvino_engine import (
    OpenVinoEngine,
    arithmetics,
    load_openvino,
    processor,
)
from dedos_deploy.threads import usable_threads

REFERENCE = "onnxruntime"
FRAME_HW = (480, 640)
GOAL = 1.6

Scores = NDArray[np.float32]


def labels_beside(expected: Scores, actual: Scores) -> dict[str, float]:
    """Return the part of pixels with one label, and the largest difference of scores."""
    return {
        "agreement": label_agreement(expected, actual, FRAME_HW),
        "max_abs": float(np.abs(expected - actual).max()),
    }


def compared(engines: Mapping[str, Engine], bundle: Bundle, count: int) -> dict[str, Any]:
    """Return the worst of `count` scenes by engine, under the bundle's own words."""
    from dedos_deploy.scenes import KINDS, render_image

    words, rows = bundle.vocabulary("base")
    worst: dict[str, dict[str, float]] = {}
    for index in range(count):
        picture, _ = render_image(KINDS[index % len(KINDS)], seed=11 + index, size_hw=FRAME_HW)
        inputs = inputs_for(bundle, len(words), picture) | {"text": rows}
        scores = {name: one.infer(inputs)["scores"][0].copy() for name, one in engines.items()}
        for name in engines:
            found = labels_beside(scores[REFERENCE], scores[name])
            if name not in worst or found["agreement"] < worst[name]["agreement"]:
                worst[name] = found
    return worst


def timed(engines: Mapping[str, Engine], inputs: Any, rounds: int) -> dict[str, dict[str, float]]:
    """Return median milliseconds, and how many times as fast as the reference, by engine."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for engine in engines.values():
        engine.infer(inputs)
    for turn in range(rounds):
        for name in engines if turn % 2 else reversed(list(engines)):
            cpu, wall = time.process_time(), time.perf_counter()
            engines[name].infer(inputs)
            spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: {
            f"{kind}_{what}": value
            for index, kind in enumerate(("cpu", "wall"))
            for what, value in (
                ("ms", 1e3 * statistics.median(run[index] for run in runs)),
                (
                    "speedup",
                    statistics.median(
                        base[index] / run[index]
                        for base, run in zip(spent[REFERENCE], runs, strict=True)
                    ),
                ),
            )
        }
        for name, runs in spent.items()
    }


def new_words(engine: Engine, bundle: Bundle, slots: int) -> dict[str, float]:
    """Return CPU milliseconds of the first frame with a number of words never met, and of the next."""
    picture = np.zeros((*FRAME_HW, 3), np.uint8)
    inputs = inputs_for(bundle, slots, picture)
    spent = []
    for _ in range(2):
        before = time.process_time()
        engine.infer(inputs)
        spent.append(1e3 * (time.process_time() - before))
    return {"first_ms": spent[0], "next_ms": spent[1]}


def measure(path: str, args: argparse.Namespace) -> dict[str, Any]:
    openvino = load_openvino()
    with Bundle.open(path) as bundle:
        model, spec = bundle.path("model.onnx"), bundle.spec
        engines: dict[str, Engine] = {REFERENCE: OnnxEngine(model, spec, threads=args.threads)}
        for arithmetic in arithmetics(openvino):
            engines[f"openvino {arithmetic}"] = OpenVinoEngine(
                model, spec, arithmetic=arithmetic, threads=args.threads
            )
        labels = compared(engines, bundle, args.compared)
        inputs = inputs_for(bundle, args.slots, np.zeros((*FRAME_HW, 3), np.uint8))
        times = timed(engines, inputs, args.rounds)
        fastest = next(name for name in engines if name != REFERENCE)
        words = new_words(engines[fastest], bundle, args.slots - 1)
        for engine in engines.values():
            engine.close()
        return {
            "bundle": Path(path).name,
            "preset": bundle.manifest.preset,
            "precision": bundle.manifest.precision["image"],
            "network_hw": [spec.height, spec.width],
            "slots": args.slots,
            "rounds": args.rounds,
            "compared": args.compared,
            "engines": {name: times[name] | labels[name] for name in engines},
            "new_number_of_words": words,
        }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundles", action="extend", nargs="+", default=[], help="paths, or demo")
    parser.add_argument(
        "--presets", action="extend", nargs="+", default=[], help="exported from random weights"
    )
    parser.add_argument(
        "--slots", type=typed(whole_number(2)), default=171, help="words K (default: 171)"
    )
    parser.add_argument("--rounds", type=typed(whole_number()), default=5, help="default: 5")
    parser.add_argument(
        "--compared", type=typed(whole_number()), default=2, help="scenes (default: 2)"
    )
    parser.add_argument(
        "--threads", type=typed(whole_number()), help="of each (default: one per usable core)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        openvino = load_openvino()
        with tempfile.TemporaryDirectory() as place:
            paths = list(args.bundles)
            for preset in args.presets:
                paths.append(str(Path(place) / preset))
                export(preset, "fp32", Path(paths[-1]), Path(place), 0)
            rows = [measure(path, args) for path in paths or ["demo"]]
    except DedosError as error:
        print(f"cpu_engines: error: {error}", file=sys.stderr)
        return 2
    for row in rows:
        for name, found in row["engines"].items():
            print(
                f"{row['preset']} {row['network_hw']} K={row['slots']} {name:14} "
                f"{found['cpu_ms']:.0f} ms CPU, {found['cpu_speedup']:.2f}x "
                f"(wall {found['wall_speedup']:.2f}x), labels {found['agreement']:.2%}"
            )
    if args.json:
        facts = {
            "processor": processor(openvino),
            "openvino": str(openvino.__version__),
            "threads": usable_threads(args.threads),
            "goal": GOAL,
        }
        print(json.dumps(facts | {"rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
