"""What the runtime costs on top of a bare ONNX Runtime loop: throughput and memory.

Bare: one session with the same options, run over frames that are already resized, and nothing else.
Ours: the whole way, from frames of the camera's size through source thread, resize, engine and
label map at frame size into a null sink. First both must give the same labels. Then rounds of
both alternate, their order swapped each time, and the median over the rounds of the ratio is
reported, so that other programs on the machine disturb it little; `throughput_ratio_best` compares
the fastest round of each, which a busy machine disturbs least. Memory is the difference of the
peak resident sets of two processes that each do only one of the two.

    python benchmarks/overhead.py --preset edge-b --json
    python benchmarks/overhead.py --bundle street.dedos --frames 8 --rounds 7
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import DedosError
from dedos_deploy.options import whole_number
from dedos_deploy.runtime import Frame, Outcome, Segmenter, Source, open_sink, run
from dedos_deploy.runtime.engines.onnx_runtime import session_options

CLASSES = (
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,tree,grass,sky,person,"
    "rider,car,truck,bus,train,motorcycle,bicycle,floor"
)
RATIO_GOAL = 0.97
EXTRA_MB_GOAL = 60.0


@dataclass(frozen=True)
class Prepared:
    """What both sides work on.

    frames: uint8 [N, H, W, 3] of the camera's size; images: uint8 [N, 1, H0, W0, 3], resized;
    text: float32 [K, D].
    """

    frames: NDArray[np.uint8]
    images: NDArray[np.uint8]
    text: NDArray[np.float32]

    def save(self, folder: Path) -> None:
        for name, array in vars(self).items():
            np.save(folder / f"{name}.npy", array)


class ArraySource(Source):
    """Frames from memory, so that decoding does not blur the comparison."""

    source_id = "memory"

    def __init__(self, frames: Sequence[NDArray[np.uint8]]) -> None:
        self.frames = len(frames)
        self._frames = list(enumerate(frames))

    def read(self, timeout_s: float) -> Frame | Outcome:
        if not self._frames:
            return Outcome.END
        index, picture = self._frames.pop(0)
        return Frame(picture, index, time.monotonic(), self.source_id, f"{index:06d}")

    def close(self) -> None:
        self._frames.clear()


class BareLoop:
    """A session and the loop around it that everybody writes first."""

    def __init__(self, model: Path, text: NDArray[np.float32], threads: int | None) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(
            str(model), session_options(threads), providers=["CPUExecutionProvider"]
        )
        self._text, self._valid = text, np.ones(len(text), dtype=np.float32)

    def scores(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        feeds = {"image": image, "text": self._text, "valid": self._valid}
        output: NDArray[Any] = self._session.run(None, feeds)[0]
        return output

    def run(self, images: NDArray[np.uint8]) -> None:
        for image in images:
            self.scores(image)


def prepare(bundle: Bundle, count: int, size_hw: tuple[int, int], classes: str) -> Prepared:
    from dedos_deploy.runtime.frame import resize_frame
    from dedos_deploy.runtime.loading import bundle_parts
    from dedos_deploy.scenes import render_image

    frames = [render_image("street", seed=seed, size_hw=size_hw)[0] for seed in range(count)]
    spec = bundle.spec
    images = np.empty((count, 1, spec.height, spec.width, 3), dtype=np.uint8)
    for frame, image in zip(frames, images, strict=True):
        resize_frame(frame, image[0])
    encode = bundle_parts(bundle, background="none", threshold=None).encode
    return Prepared(np.stack(frames), images, encode(classes.split(",")))


def check_agreement(segmenter: Segmenter, bare: BareLoop, prepared: Prepared) -> bool:
    """Return whether both give the same label maps, for all frames."""
    from dedos_deploy import _native

    slots = len(prepared.text)
    thresholds = np.full(slots, -1.0, dtype=np.float32)
    slot_ids = np.arange(slots, dtype=np.uint16)
    for frame, image in zip(prepared.frames, prepared.images, strict=True):
        result = segmenter.segment(frame)
        ids, confidence = np.empty_like(result.label_map), np.empty_like(result.confidence)
        counts = np.zeros(slots + 1, dtype=np.uint64)
        scores = np.ascontiguousarray(bare.scores(image)[0], dtype=np.float32)
        _native.label_map(scores, thresholds, slot_ids, ids, confidence, counts, 1)
        if not np.array_equal(ids, result.label_map):
            return False
    return True


def run_ours(segmenter: Segmenter, frames: NDArray[np.uint8]) -> None:
    with open_sink("null") as sink:
        run(ArraySource(list(frames)), segmenter, [sink])


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds of `work`: by the clock, and of all cores of this process."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def compare(
    segmenter: Segmenter, bare: BareLoop, prepared: Prepared, rounds: int
) -> dict[str, Any]:
    """Time both in turn and return the medians."""
    work = {
        "bare": lambda: bare.run(prepared.images),
        "ours": lambda: run_ours(segmenter, prepared.frames),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for number in range(rounds):
        for name in sorted(work, reverse=number % 2 == 1):
            times[name].append(timed(work[name]))
    pairs = list(zip(times["bare"], times["ours"], strict=True))
    wall_ratios = [bare_s[0] / ours_s[0] for bare_s, ours_s in pairs]
    frames = len(prepared.frames)
    return {
        "throughput_ratio": statistics.median(wall_ratios),
        "throughput_ratio_rounds": [round(ratio, 4) for ratio in wall_ratios],
        "throughput_ratio_best": min(run[0] for run in times["bare"])
        / min(run[0] for run in times["ours"]),
        "cpu_ratio": statistics.median(bare_s[1] / ours_s[1] for bare_s, ours_s in pairs),
        **{
            f"{name}_ms": 1e3 * statistics.median(wall_s for wall_s, _ in runs) / frames
            for name, runs in times.items()
        },
    }


def peak_mb() -> float:
    """Return the peak resident set of this process.

    Not getrusage: its maximum starts at that of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM; this measurement needs Linux")


def print_peak(args: argparse.Namespace) -> None:
    """In a process of its own: do one side's work and print its peak memory."""
    folder = Path(args.prepared)
    if args.only == "bare":
        bare = BareLoop(
            Path(args.bundle) / "model.onnx", np.load(folder / "text.npy"), args.threads
        )
        bare.run(np.load(folder / "images.npy"))
    else:
        with load(args.bundle, args) as segmenter:
            run_ours(segmenter, np.load(folder / "frames.npy"))
    print(peak_mb())


def measured_peak(only: str, args: argparse.Namespace, bundle: Bundle, folder: Path) -> float:
    command = [sys.executable, __file__, "--only", only, "--prepared", str(folder)]
    command += ["--bundle", str(bundle.folder), "--classes", args.classes]
    command += ["--threads", str(args.threads)] if args.threads else []
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(finished.stdout)


def load(bundle: Bundle | str, args: argparse.Namespace) -> Segmenter:
    return Segmenter.load(bundle, classes=args.classes, background="none", threads=args.threads)


@contextmanager
def chosen_bundle(args: argparse.Namespace) -> Iterator[Bundle]:
    """Open the bundle, or export one with random weights for the time of the run."""
    if args.bundle:
        with Bundle.open(args.bundle) as bundle:
            yield bundle
        return
    from dedos_deploy.cli._progress import ProgressLines
    from dedos_deploy.export import ExportOptions, WeightsSource, export_bundle

    with tempfile.TemporaryDirectory() as folder:
        dest = Path(folder) / "bundle"
        weights = WeightsSource(None, args.preset, True)
        # Random weights have no labels worth comparing; one frame shows that the graph runs.
        options = ExportOptions(frame_count=1, allow_drift=True)
        export_bundle(weights, dest, options=options, progress=ProgressLines())
        with Bundle.open(dest) as bundle:
            yield bundle


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--bundle", metavar="PATH", help="a bundle for the cpu")
    source.add_argument(
        "--preset", default="edge-b", help="export this one with random weights (default: edge-b)"
    )
    parser.add_argument("--classes", default=CLASSES, help="comma-separated (default: 20 classes)")
    parser.add_argument(
        "--frames", type=typed(whole_number()), default=4, help="per round and side (default: 4)"
    )
    parser.add_argument("--rounds", type=typed(whole_number()), default=7, help="default: 7")
    parser.add_argument(
        "--size", type=typed(whole_number()), nargs=2, default=[720, 1280], metavar=("H", "W")
    )
    parser.add_argument(
        "--threads", type=typed(whole_number()), help="of both (default: one per usable core)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--only", choices=("bare", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--prepared", help=argparse.SUPPRESS)
    return parser


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with chosen_bundle(args) as bundle, tempfile.TemporaryDirectory() as folder:
        with load(bundle, args) as segmenter:
            prepared = prepare(bundle, args.frames, tuple(args.size), args.classes)
            prepared.save(Path(folder))
            bare = BareLoop(bundle.path("model.onnx"), prepared.text, args.threads)
            report: dict[str, Any] = {"identical": check_agreement(segmenter, bare, prepared)}
            report |= compare(segmenter, bare, prepared, args.rounds)
        del bare
        peaks = {only: measured_peak(only, args, bundle, Path(folder)) for only in ("bare", "ours")}
        spec = bundle.spec
        return report | {
            "extra_mb": peaks["ours"] - peaks["bare"],
            **{f"{only}_peak_mb": peak for only, peak in peaks.items()},
            "preset": bundle.manifest.preset,
            "network_hw": [spec.height, spec.width],
            "frame_hw": list(args.size),
            "slots": len(prepared.text),
            "machine": platform.machine(),
        }


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.only:
        print_peak(args)
        return 0
    try:
        report = measure(args)
    except DedosError as error:
        print(f"overhead: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{report['preset']} at {report['network_hw']}, frames of {report['frame_hw']}, "
        f"{report['slots']} slots; labels {'identical' if report['identical'] else 'DIFFER'}\n"
        f"bare {report['bare_ms']:.1f} ms a frame, ours {report['ours_ms']:.1f} ms: "
        f"{report['throughput_ratio']:.1%} of the throughput (goal {RATIO_GOAL:.0%}; best "
        f"rounds {report['throughput_ratio_best']:.1%}, CPU time {report['cpu_ratio']:.1%})\n"
        f"peak memory {report['bare_peak_mb']:.0f} MB and {report['ours_peak_mb']:.0f} MB: "
        f"{report['extra_mb']:.1f} MB extra (goal at most {EXTRA_MB_GOAL:g})"
    )
    if args.json:
        print(json.dumps(report))
    return 0 if report["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
