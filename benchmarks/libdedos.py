"""libdedos beside the Python runtime: the same label maps, how fast, and in how much memory.

A program in C++ (libdedos_loop.cpp) and one in Python label the same frames, each in a process of its own,
with the same ONNX Runtime. First label maps, confidences and counts of all frames are compared byte by
byte. Then rounds of both alternate, and the median over the rounds of the ratio of their times is
reported, above 1 where C++ is faster; memory is the ratio of their peak resident sets.

    python benchmarks/libdedos.py --frames pictures_and_videos --count 200 --json
    python benchmarks/libdedos.py --libraries 1.20.1/libonnxruntime.so.1.20.1 …
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.bench.memory import memory_mb
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import DedosError
from dedos_deploy.options import whole_number

HERE = Path(__file__).parent
SOURCE = HERE.parent / "runtime" / "cpp"
DEMO = HERE.parent / "dedos_deploy" / "assets" / "demo.dedos"
CLASSES = (
    "road,sidewalk|pavement,building,wall,fence,pole,traffic light,traffic sign,tree,grass,sky,person,"
    "rider,car|automobile,truck,bus,bicycle,floor,door,water bottle"
)
VIDEOS = (".mp4", ".avi", ".mkv")


@dataclass(frozen=True)
class Run:
    """What one process says of its work."""

    seconds: float
    peak_mb: float


def rendered(count: int) -> Iterator[NDArray[np.uint8]]:
    from dedos_deploy.scenes import render_image

    sizes = ((480, 640), (360, 480), (719, 1279))
    for number in range(count):
        yield render_image("street", seed=number, size_hw=sizes[number % 3])[0]


def pictured(folder: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield frames of all pictures and videos below a folder, evenly taken from all of them."""
    import cv2

    found = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg", *VIDEOS))
    videos = [path for path in found if path.suffix in VIDEOS]
    pictures = [path for path in found if path.suffix not in VIDEOS]
    each = count // (len(videos) + bool(pictures)) if found else 0
    for path in videos:
        capture = cv2.VideoCapture(str(path))
        length = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted = set(np.linspace(0, length - 2, each, dtype=int).tolist())
        for number in range(length):
            read, frame = capture.read()
            if read and number in wanted:
                yield np.asarray(frame, np.uint8)
        capture.release()
    left = count - each * len(videos)
    for place in np.linspace(0, len(pictures) - 1, min(left, len(pictures)), dtype=int):
        picture = cv2.imread(str(pictures[place]))
        if picture is not None:
            yield np.asarray(picture, np.uint8)


def write_frames(path: Path, frames: Iterator[NDArray[np.uint8]]) -> int:
    count = 0
    with path.open("wb") as stream:
        for frame in frames:
            stream.write(np.array(frame.shape[:2], np.int32).tobytes())
            stream.write(np.ascontiguousarray(frame).tobytes())
            count += 1
    return count


def read_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    with path.open("rb") as stream:
        while head := stream.read(8):
            height, width = np.frombuffer(head, np.int32)
            pixels = stream.read(int(height) * int(width) * 3)
            yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def label_in_python(args: argparse.Namespace) -> None:
    """In a process of its own: what libdedos_loop.cpp does."""
    from dedos_deploy.runtime import Segmenter

    frames, results = map(Path, args.only)
    seconds = 0.0
    with (
        Segmenter.load(
            args.bundle, classes=args.classes, threads=args.threads or None
        ) as segmenter,
        results.open("wb") as stream,
    ):
        for frame in read_frames(frames):
            started = time.perf_counter()
            result = segmenter.segment(frame)
            seconds += time.perf_counter() - started
            if not args.discard:
                stream.write(result.label_map.tobytes() + result.confidence.tobytes())
                stream.write(result.counts.tobytes())
    print(seconds, 1024 * memory_mb("VmHWM"))


def onnx_runtime() -> Path:
    import onnxruntime

    (found,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    return found


def build(folder: Path, prefix: Path | None) -> Path:
    """Build the C++ program, and libdedos where it is not installed below `prefix`."""
    if prefix is None:
        prefix = folder / "prefix"
        place = str(folder / "build")
        where = f"-DCMAKE_INSTALL_PREFIX={prefix}"
        called("cmake", "-S", str(SOURCE), "-B", place, where, "-DCMAKE_INSTALL_LIBDIR=lib")
        called("cmake", "--build", place, "--parallel", "2", "--target", "install")
    program = folder / "loop"
    paths = (f"-I{prefix / 'include'}", f"-L{prefix / 'lib'}", f"-Wl,-rpath,{prefix / 'lib'}")
    source = str(HERE / "libdedos_loop.cpp")
    called("g++", "-std=c++17", "-O2", source, *paths, "-ldedos", "-o", str(program))
    return program


def called(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DedosError(f"{command[0]} failed: {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


class Sides:
    """Both programs on one file of frames."""

    def __init__(self, program: Path, folder: Path, args: argparse.Namespace) -> None:
        self._program, self._folder, self._args = program, folder, args

    def cpp(self, frames: Path, results: Path | None, library: Path) -> Run:
        args = self._args
        words = args.bundle, args.classes, str(library), str(args.threads), str(frames)
        return _run(called(str(self._program), *words, str(results or "")))

    def python(self, frames: Path, results: Path | None) -> Run:
        args = self._args
        command = [sys.executable, __file__, "--bundle", args.bundle, "--classes", args.classes]
        command += ["--threads", str(args.threads), "--only", str(frames)]
        command += [str(results or self._folder / "none"), *(["--discard"] * (results is None))]
        return _run(called(*command))


def _run(printed: str) -> Run:
    seconds, peak_kb = map(float, printed.split())
    return Run(seconds, peak_kb / 1024)


def compare(sides: Sides, frames: Path, few: Path, folder: Path, rounds: int) -> dict[str, Any]:
    library = onnx_runtime()
    ours, theirs = folder / "cpp.results", folder / "python.results"
    sides.cpp(frames, ours, library)
    sides.python(frames, theirs)
    identical = ours.read_bytes() == theirs.read_bytes()
    pairs = []
    for number in range(rounds):
        work = (lambda: sides.cpp(few, None, library), lambda: sides.python(few, None))
        # Swapped each time, so that a machine that slows down favours neither.
        done = [one() for one in (work if number % 2 == 0 else work[::-1])]
        pairs.append(done if number % 2 == 0 else done[::-1])
    cpp_mb, python_mb = (max(pair[side].peak_mb for pair in pairs) for side in range(2))
    return {
        "identical": identical,
        "speed_ratio": statistics.median(python.seconds / cpp.seconds for cpp, python in pairs),
        "memory_ratio": cpp_mb / python_mb,
        "cpp_mb": cpp_mb,
        "python_mb": python_mb,
    }


def agreements(
    sides: Sides, frames: Path, folder: Path, libraries: Sequence[Path]
) -> dict[str, float]:
    """Return the part of all bytes that other versions of ONNX Runtime give as the installed one."""
    results = folder / "other.results"
    sides.cpp(frames, results, onnx_runtime())
    expected = np.fromfile(results, np.uint8)
    found = {}
    for library in libraries:
        sides.cpp(frames, results, library)
        found[library.name] = float((np.fromfile(results, np.uint8) == expected).mean())
    return found


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundle", default=str(DEMO), metavar="PATH", help="default: the embedded one"
    )
    parser.add_argument("--classes", default=CLASSES, help="at most 254 (default: 20 classes)")
    parser.add_argument(
        "--frames", type=Path, metavar="DIR", help="pictures and videos (default: rendered scenes)"
    )
    parser.add_argument(
        "--count", type=typed(whole_number()), default=12, help="frames to compare (default: 12)"
    )
    parser.add_argument(
        "--timed", type=typed(whole_number()), default=20, help="frames of a round (default: 20)"
    )
    parser.add_argument("--rounds", type=typed(whole_number()), default=5, help="default: 5")
    parser.add_argument(
        "--threads", type=typed(whole_number(0)), default=0, help="of both (default: one per core)"
    )
    parser.add_argument("--prefix", type=Path, help="where libdedos is installed (default: built)")
    parser.add_argument(
        "--libraries",
        action="extend",
        type=Path,
        nargs="+",
        default=[],
        help="other libonnxruntime.so to run with",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--discard", action="store_true", help=argparse.SUPPRESS)
    return parser


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sides = Sides(build(folder, args.prefix), folder, args)
    frames, few = folder / "frames", folder / "few"
    source = rendered(args.count) if args.frames is None else pictured(args.frames, args.count)
    count = write_frames(frames, source)
    if count == 0:
        raise DedosError(f"{args.frames} has no pictures or videos; give another folder")
    write_frames(few, islice(read_frames(frames), args.timed))
    report = compare(sides, frames, few, folder, args.rounds)
    report |= {"frames": count, "slots": len(args.classes.replace("|", ",").split(","))}
    if args.libraries:
        report["libraries"] = agreements(sides, few, folder, args.libraries)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.only:
        label_in_python(args)
        return 0
    try:
        with tempfile.TemporaryDirectory(prefix="dedos-") as folder:
            report = measure(args, Path(folder))
    except DedosError as error:
        print(f"libdedos: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{report['frames']} frames, {report['slots']} words: results "
        f"{'identical' if report['identical'] else 'DIFFER'}; C++ at {report['speed_ratio']:.2f} of "
        f"Python's speed, in {report['cpp_mb']:.0f} MB beside {report['python_mb']:.0f} "
        f"({report['memory_ratio']:.2f})"
    )
    for name, part in report.get("libraries", {}).items():
        print(f"{name}: {part:.4%} as with the installed one")
    if args.json:
        print(json.dumps(report))
    return 0 if report["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
