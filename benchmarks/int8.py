"""What INT8 gains and costs: speed, memory, size, and labels that change, beside the FP32 bundle.

Both bundles run in ONNX Runtime on this CPU. First their label maps are compared; then rounds of both
alternate, the first of a round changing each time, and the median over the rounds of the ratio is
reported. Memory is the peak resident set of two processes that each load one image graph and label
a few frames. With --preset both bundles are exported from random weights, calibrated on embedded
scenes, and the time and the peak memory of that export are reported, too; random weights leave
hardly any margin between classes, so `agreement` then says little.

    python benchmarks/int8.py --preset edge-b --json
    python benchmarks/int8.py --bundles fp32.dedos int8.dedos --frames drive.mp4
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.bundle import Bundle
from dedos_deploy.calib.verdict import side_by_side
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import DedosError
from dedos_deploy.options import whole_number
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.threads import usable_threads

SCENES = 96
SCENE_HW = (480, 640)
MEMORY_RUNS = 3
GOALS = {"speedup": 1.8, "memory_ratio": 0.6, "size_ratio": 0.35}

Inputs = dict[str, NDArray[Any]]


def write_scenes(folder: Path, count: int) -> Path:
    """Render street and hall scenes to calibrate and compare on."""
    import cv2

    from dedos_deploy.scenes import KINDS, render_image

    folder.mkdir()
    for index in range(count):
        image, _ = render_image(KINDS[index % len(KINDS)], seed=index, size_hw=SCENE_HW)
        cv2.imwrite(str(folder / f"{index:03d}.png"), image)
    return folder


def export(preset: str, precision: str, dest: Path, scenes: Path, frames: int) -> dict[str, float]:
    """Export random weights in a process of its own; return its seconds and its peak memory."""
    command = [sys.executable, "-m", "dedos_deploy.cli.export", "--preset", preset]
    command += ["--random-weights", "--allow-drift", "--frame-count", "1", "--output", str(dest)]
    if precision == "int8":
        command += ["--precision", "int8", "--calib", str(scenes), "--force-int8"]
        # Random weights leave hardly any margin between classes: no layer would be left in INT8.
        command += ["--calib-frames", str(frames), "--int8-budget", "1"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"exporting {preset} in {precision} failed")
    return {"seconds": time.perf_counter() - started, "peak_mb": usage.ru_maxrss / 1024}


def inputs_for(bundle: Bundle, slots: int, picture: NDArray[np.uint8]) -> Inputs:
    """Return one frame and made-up text embeddings: their values cost nothing extra."""
    from dedos_deploy.runtime.frame import resize_frame

    spec = bundle.spec
    image = np.empty((1, spec.height, spec.width, 3), np.uint8)
    resize_frame(picture, image[0])
    rows = np.random.default_rng(0).normal(size=(slots, spec.text_width)).astype(np.float32)
    text = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return {"image": image, "text": text, "valid": np.ones(slots, np.float32)}


def agreement(
    engines: Sequence[OnnxEngine], bundle: Bundle, pictures: Sequence[NDArray[np.uint8]], slots: int
) -> float:
    """Return the part of pixels with one label."""
    from dedos_deploy.runtime.engines.agreement import label_agreement

    words, rows = bundle.vocabulary("base")
    parts = []
    for picture in pictures:
        inputs = inputs_for(bundle, len(words), picture) | {"text": rows}
        first, second = (engine.infer(inputs)["scores"][0].copy() for engine in engines)
        parts.append(label_agreement(first, second, picture.shape[:2]))
    return float(np.mean(parts))


def peak_mb() -> float:
    """Return the peak resident set of this process; see overhead.py."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM; this measurement needs Linux")


def print_peak(path: str, slots: int, threads: int | None) -> None:
    """In a process of its own: load one image graph, label some frames, print the peak memory."""
    with (
        Bundle.open(path) as bundle,
        OnnxEngine(bundle.path("model.onnx"), bundle.spec, threads=threads) as engine,
    ):
        inputs = inputs_for(bundle, slots, np.zeros((*SCENE_HW, 3), np.uint8))
        for _ in range(MEMORY_RUNS):
            engine.infer(inputs)
    print(peak_mb())


def measured_peak(path: Path, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--only", str(path), "--slots", str(args.slots)]
    command += ["--threads", str(args.threads)] if args.threads else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def size_of(path: Path) -> int:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files)


def compare(paths: Sequence[Path], source: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return the ratios of the second bundle beside the first."""
    from dedos_deploy.calib import sample_frames

    pictures = sample_frames(source, count=args.compared)
    with Bundle.open(paths[0]) as reference, Bundle.open(paths[1]) as candidate:
        bundles = (reference, candidate)
        engines = [
            OnnxEngine(one.path("model.onnx"), one.spec, threads=args.threads) for one in bundles
        ]
        same = agreement(engines, reference, pictures, args.slots)
        inputs = inputs_for(reference, args.slots, pictures[0])
        timing = side_by_side(
            lambda: engines[0].infer(inputs), lambda: engines[1].infer(inputs), rounds=args.rounds
        )
        for engine in engines:
            engine.close()
        facts = {
            "preset": reference.manifest.preset,
            "precision": candidate.manifest.precision["image"],
            "network_hw": [reference.spec.height, reference.spec.width],
        }
    peaks = [measured_peak(path, args) for path in paths]
    sizes = [size_of(path) for path in paths]
    return {
        "speedup": timing.speedup,
        "memory_ratio": peaks[1] / peaks[0],
        "size_ratio": sizes[1] / sizes[0],
        "agreement": same,
        "reference_ms": 1e3 * timing.reference_s,
        "int8_ms": 1e3 * timing.candidate_s,
        "peak_mb": peaks,
        "size_mb": [size / 1e6 for size in sizes],
        "slots": args.slots,
        "threads": usable_threads(args.threads),
        "rounds": args.rounds,
        "machine": platform.machine(),
        **facts,
    }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", default="edge-b", help="export it first (default: edge-b)")
    source.add_argument("--bundles", nargs=2, type=Path, metavar=("FP32", "INT8"))
    parser.add_argument("--frames", type=Path, help="pictures to compare on (default: scenes)")
    parser.add_argument(
        "--compared", type=typed(whole_number()), default=4, help="how many of them (default: 4)"
    )
    parser.add_argument(
        "--calib-frames", type=typed(whole_number()), default=64, help="default: 64"
    )
    parser.add_argument(
        "--slots", type=typed(whole_number()), default=171, help="classes K (default: 171)"
    )
    parser.add_argument("--rounds", type=typed(whole_number()), default=7, help="default: 7")
    parser.add_argument(
        "--threads", type=typed(whole_number()), help="of both (default: one per usable core)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        needs_scenes = args.frames is None or args.bundles is None
        scenes = write_scenes(folder / "scenes", SCENES) if needs_scenes else args.frames
        if args.bundles is not None:
            return compare(args.bundles, args.frames or scenes, args)
        paths = (folder / "fp32.dedos", folder / "int8.dedos")
        export(args.preset, "fp32", paths[0], scenes, args.calib_frames)
        cost = export(args.preset, "int8", paths[1], scenes, args.calib_frames)
        report = compare(paths, args.frames or scenes, args)
        return report | {
            "export_s": cost["seconds"],
            "export_peak_mb": cost["peak_mb"],
            "calib_frames": args.calib_frames,
        }


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.only:
        print_peak(args.only, args.slots, args.threads)
        return 0
    try:
        report = measure(args)
    except DedosError as error:
        print(f"int8: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{report['preset']} at {report['network_hw']}, K={report['slots']}: "
        f"{report['reference_ms']:.0f} → {report['int8_ms']:.0f} ms, {report['speedup']:.2f}x "
        f"(goal {GOALS['speedup']}x)\n"
        f"peak memory {report['memory_ratio']:.2f}x (goal {GOALS['memory_ratio']}x), bundle "
        f"{report['size_ratio']:.2f}x (goal {GOALS['size_ratio']}x), "
        f"{report['agreement']:.2%} of pixels keep their label"
    )
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
