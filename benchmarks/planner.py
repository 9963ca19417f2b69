"""What a planner asks of a label map: milliseconds of one core for each question, after a check.

The label map is of a scene of this package, labelled by the embedded nano bundle. All answers but the
ground from above, which the tests hold against rays cast one by one, are first compared with plain
references; then all are timed in turns, in thread CPU time: the median, and the fastest, which other
programs on the machine disturb least.

    python benchmarks/planner.py
    python benchmarks/planner.py --size 720x1280 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dedos_deploy import Segmentation, Segmenter
from dedos_deploy.cli._options import typed
from dedos_deploy.options import size_hw, whole_number
from dedos_deploy.runtime import GroundCamera, GroundGrid
from dedos_deploy.scenes import class_names, render_image

ROUNDS = 50
FREE = "road|sidewalk"


def labelled(frame_hw: tuple[int, int], seed: int) -> Segmentation:
    frame, _ = render_image("street", seed=seed, size_hw=frame_hw)
    with Segmenter.load("demo", classes=",".join(class_names("street"))) as segmenter:
        return segmenter.segment(frame)


def questions(result: Segmentation) -> dict[str, Callable[[], object]]:
    height, width = result.label_map.shape
    camera = GroundCamera(
        width, width, (width - 1) / 2, (height - 1) / 2, height_m=1.2, pitch_rad=0.1
    )
    grid = GroundGrid(ahead_m=20.0, aside_m=10.0, cell_m=0.1)
    return {
        "mask": lambda: result.mask(FREE),
        "regions": lambda: result.regions(min_area=100),
        "polygons": lambda: result.polygons(2.0, min_area=100),
        "free_space": lambda: result.free_space(FREE, below=height // 2),
        "project_ground": lambda: result.project_ground(camera, FREE, grid),
        "resized": lambda: result.resized((min(200, height), min(400, width))),
        "painted": result.painted,
    }


def filled(result: Segmentation) -> NDArray[Any]:
    """Return the label map that the outlines of all regions make."""
    label_map = np.full_like(result.label_map, result.none_id)
    for polygon in result.polygons(tolerance=0.0):
        inside = np.zeros(label_map.shape, np.uint8)
        cv2.fillPoly(inside, [polygon.exterior_xy], 1)
        for outline in polygon.holes_xy:
            hole = cv2.fillPoly(np.zeros_like(inside), [outline], 1)
            inside[cv2.polylines(hole, [outline], True, 0) > 0] = 0
        label_map[inside > 0] = polygon.class_id
    return label_map


def most_of_each_block(label_map: NDArray[Any]) -> NDArray[Any]:
    """Return the most frequent id of every 8x8 pixels, the lowest of several."""
    height, width = label_map.shape
    blocks = label_map.reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2)
    return np.apply_along_axis(
        lambda ids: np.bincount(ids).argmax(), 2, blocks.reshape(height // 8, width // 8, 64)
    )


def agreement(result: Segmentation) -> bool:
    """Return whether the answers, the ground from above excepted, are those of plain references."""
    mask = np.isin(result.label_map, result.ids(FREE))
    areas = []
    for class_id in result.class_ids:
        binary = (result.label_map == class_id).astype(np.uint8)
        areas += cv2.connectedComponentsWithStats(binary, connectivity=8)[2][1:, 4].tolist()
    rows = [np.flatnonzero(~column) for column in mask.T]
    lowest = [int(blocked[-1]) if len(blocked) else -1 for blocked in rows]
    height, width = (side // 8 for side in result.label_map.shape)
    whole = replace(result, label_map=result.label_map[: 8 * height, : 8 * width])
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(result.classes)] = result.colours_bgr
    return (
        np.array_equal(result.mask(FREE), mask)
        and sorted(region.area for region in result.regions()) == sorted(areas)
        and result.free_space(FREE).tolist() == lowest
        and np.array_equal(whole.resized((height, width)), most_of_each_block(whole.label_map))
        and np.array_equal(filled(result), result.label_map)
        and np.array_equal(result.painted(), colours[result.label_map])
    )


def measure(frame_hw: tuple[int, int], seed: int, rounds: int) -> dict[str, object]:
    cv2.setNumThreads(1)
    result = labelled(frame_hw, seed)
    if not agreement(result):
        raise SystemExit("the answers differ from their references; no time is worth anything")
    asked = questions(result)
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(rounds + 1):  # the first fills tables
        for name, answer in asked.items():
            started = time.thread_time()
            answer()
            if turn:
                taken[name].append(1e3 * (time.thread_time() - started))
    return {
        "frame_hw": list(frame_hw),
        "regions": len(result.regions()),
        "agreed": True,
        "ms": {name: statistics.median(values) for name, values in taken.items()},
        "fastest_ms": {name: min(values) for name, values in taken.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=typed(size_hw), default=(480, 640), metavar="HxW")
    parser.add_argument("--seed", type=typed(whole_number(0)), default=5, help="of the scene (5)")
    parser.add_argument(
        "--rounds", type=typed(whole_number()), default=ROUNDS, help=f"per question ({ROUNDS})"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    if min(args.size) < 8:
        parser.error("--size from 8x8 on is needed")
    values = measure(args.size, args.seed, args.rounds)
    print(
        f"{args.size[0]}x{args.size[1]}, {values['regions']} regions; ms of one core: median, fastest"
    )
    fastest: dict[str, float] = values["fastest_ms"]  # type: ignore[assignment]
    for name, ms in values["ms"].items():  # type: ignore[attr-defined]
        print(f"  {name:15} {ms:6.2f} {fastest[name]:6.2f}")
    if args.json:
        print(json.dumps(values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
