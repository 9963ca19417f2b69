"""Native confusion matrix against numpy.bincount, and boundary IoU against one erosion per class.

For each case both first must count the same. Then they take turns on one thread, and medians of
process CPU time are reported, which other programs on the machine disturb less than the clock.
Scenes are label maps of regions with a tenth of the labels ignored, and predictions whose contours
lie elsewhere; `random` draws every pixel alone, the worst case.

    python benchmarks/confusion.py --json
    python benchmarks/confusion.py --classes 847 --size 683 1024
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.cli._options import typed
from dedos_deploy.evaluation import Confusion
from dedos_deploy.evaluation.boundary import BoundaryIou
from dedos_deploy.options import whole_number

Ids = NDArray[np.uint8] | NDArray[np.uint16]
Maps = tuple[Ids, Ids]

GOAL = 500.0
"""Million pixels per second and core."""
REGIONS = 24
"""Classes that a scene shows at most."""


def ignored(classes: int) -> int:
    return 255 if classes < 255 else 65535


def as_ids(values: NDArray[Any], classes: int) -> Ids:
    return values.astype(np.uint8 if classes < 255 else np.uint16)


def scene_maps(classes: int, size_hw: tuple[int, int]) -> Maps:
    """Return labels and predictions of regions, whose contours differ by some pixels."""
    import cv2

    random = np.random.default_rng(0)
    shown = random.permutation(classes)[:REGIONS]
    height, width = size_hw
    labels, predictions = np.zeros((2, height, width), np.int64)
    best = np.full((2, height, width), -np.inf, np.float32)
    for number, index in enumerate(shown):
        # Features of 50 to 120 pixels, and errors of 12.
        cells = [max(2, side // (50 + 3 * number)) for side in size_hw]
        coarse = random.standard_normal(cells).astype(np.float32)
        errors = random.standard_normal([max(2, side // 12) for side in size_hw])
        field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        error = cv2.resize(errors.astype(np.float32), (width, height))
        for ids, leader, score in (
            (labels, best[0], field),
            (predictions, best[1], field + 0.1 * error),
        ):
            ahead = score > leader
            ids[ahead], leader[ahead] = index, score[ahead]
    labels[: height // 10] = ignored(classes)
    return as_ids(labels, classes), as_ids(predictions, classes)


def random_maps(classes: int, size_hw: tuple[int, int]) -> Maps:
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, classes, (2, *size_hw))
    labels[random.random(size_hw) < 0.1] = ignored(classes)
    return as_ids(labels, classes), as_ids(predictions, classes)


def numpy_matrix(labels: Ids, predictions: Ids, classes: int) -> NDArray[np.int64]:
    """Count as evaluators do in numpy: one bincount of the pixels with a label."""
    known = labels != ignored(classes)
    cells = labels[known].astype(np.int64) * classes + predictions[known]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def erosion_counts(
    labels: Ids, predictions: Ids, classes: int, reach: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pixels in both bands and in either, per class, by the paper's erosions."""
    import cv2

    both, either = np.zeros((2, classes), np.int64)
    known = labels != ignored(classes)
    for index in np.union1d(labels[known], predictions[known]):
        bands = []
        for mask in ((labels == index).astype(np.uint8), (predictions == index).astype(np.uint8)):
            inner = cv2.erode(
                mask,
                np.ones((3, 3), np.uint8),
                iterations=reach,
                borderType=cv2.BORDER_CONSTANT,
                borderValue=0,
            )
            bands.append((mask > inner) & known)
        both[index] = (bands[0] & bands[1]).sum()
        either[index] = (bands[0] | bands[1]).sum()
    return both, either


def cpu_s(work: Callable[[], object], least_s: float = 0.02) -> float:
    """Return CPU seconds of one call, of as many as the clock can tell."""
    calls, before = 0, time.process_time()
    while (spent := time.process_time() - before) < least_s:
        work()
        calls += 1
    return spent / calls


def in_turns(
    first: Callable[[], object], second: Callable[[], object], repeats: int
) -> list[float]:
    """Return the median CPU seconds of two works."""
    work = (first, second)
    spent = [[cpu_s(one) for one in work] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*spent, strict=True)]


def compare_confusion(maps: Maps, classes: int, repeats: int) -> dict[str, Any]:
    labels, predictions = maps
    confusion = Confusion(classes, ignore=ignored(classes))
    confusion.add(labels, predictions)
    expected = numpy_matrix(labels, predictions, classes)
    identical = np.array_equal(confusion.matrix[:, :classes], expected)
    ours, theirs = in_turns(
        lambda: confusion.add(labels, predictions),
        lambda: numpy_matrix(labels, predictions, classes),
        repeats,
    )
    mpixels = labels.size / 1e6
    return {
        "identical": identical,
        "native_mpixel_s": mpixels / ours,
        "numpy_mpixel_s": mpixels / theirs,
        "speedup": theirs / ours,
    }


def compare_boundary(maps: Maps, classes: int, repeats: int) -> dict[str, Any]:
    # What is erased of the labels makes a contour in plain erosion, so nothing is ignored here.
    labels, predictions = (
        np.where(ids == ignored(classes), 0, ids).astype(ids.dtype) for ids in maps
    )
    counted = BoundaryIou(classes, ignore=ignored(classes))
    counted.add(labels, predictions)
    reach = max(1, round(counted.dilation * float(np.hypot(*labels.shape))))
    both, either = erosion_counts(labels, predictions, classes, reach)
    identical = np.array_equal(counted.both, both) and np.array_equal(counted.either, either)
    ours, theirs = in_turns(
        lambda: counted.add(labels, predictions),
        lambda: erosion_counts(labels, predictions, classes, reach),
        repeats,
    )
    return {
        "identical": identical,
        "ours_ms": 1e3 * ours,
        "erosion_per_class_ms": 1e3 * theirs,
        "speedup": theirs / ours,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import cv2

    cv2.setNumThreads(1)
    cases: list[dict[str, Any]] = []
    for classes in args.classes:
        case = {"classes": classes, "size_hw": args.size}
        scene = scene_maps(classes, tuple(args.size))
        for name, maps in (("scene", scene), ("random", random_maps(classes, tuple(args.size)))):
            result = compare_confusion(maps, classes, args.repeats)
            cases.append({"measure": "confusion", "maps": name, **case, **result})
        result = compare_boundary(scene, classes, args.repeats)
        cases.append({"measure": "boundary", "maps": "scene", **case, **result})
    return {
        "identical": all(case["identical"] for case in cases),
        "goal_mpixel_s": GOAL,
        "cases": cases,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "machine": platform.machine(),
    }


def table(cases: Sequence[dict[str, Any]]) -> str:
    lines = []
    for case in cases:
        if case["measure"] == "confusion":
            figures = f"{case['native_mpixel_s']:.0f} Mpixel/s, numpy {case['numpy_mpixel_s']:.0f}"
        else:
            figures = f"{case['ours_ms']:.1f} ms, by class {case['erosion_per_class_ms']:.1f} ms"
        lines.append(
            f"{case['measure']:>9} {case['maps']:>6} {case['classes']:4} classes: {figures} "
            f"({case['speedup']:.1f}x), counts {'identical' if case['identical'] else 'DIFFER'}"
        )
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--classes",
        type=typed(whole_number(1, 4096)),
        nargs="+",
        default=[19, 171],
        help="sizes of class lists (default: 19 171)",
    )
    parser.add_argument(
        "--size", type=typed(whole_number()), nargs=2, default=[1024, 2048], metavar=("H", "W")
    )
    parser.add_argument(
        "--repeats", type=typed(whole_number()), default=5, help="turns timed (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    report = measure(args)
    print(table(report["cases"]))
    if args.json:
        print(json.dumps(report))
    return 0 if report["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
