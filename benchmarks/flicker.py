"""How much labels flicker, plain and with --stable: on still pixels, along the picture's motion, and whether
they are as right.

Every clip is labelled twice by the same bundle. *Still*: its first frame again and again, with new
noise each time (a standard deviation of 4 grey levels): the part of the pixels whose label changes from
frame to frame. *Warped*: labels of each frame are moved to the next by OpenCV's dense flow at the full
size of the frames, found forwards and backwards; the part of the pixels that then have another label.
Only pixels count whose flows agree within a pixel and whose grey differs by less than 8 levels; pairs
of frames in which fewer than 30 % do are cuts or jumps, and only their number is told. *Right*: mIoU and
boundary IoU of a labelled clip. Last, the native step is timed on one core, beside the label map of the
same scores, after its result was compared with float64.

    python benchmarks/flicker.py
    python benchmarks/flicker.py --clip "walk.mp4=floor,wall,door" --labelled camvid --split val --json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dedos_deploy import Segmenter, _native
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import DedosError
from dedos_deploy.evaluation.boundary import BoundaryIou
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.folder import LabelledFolder
from dedos_deploy.options import whole_number
from dedos_deploy.runtime import open_source
from dedos_deploy.runtime.stabilising import Stabiliser, grey_of
from dedos_deploy.scenes import class_names, render_video

Array = NDArray[Any]
NOISE_LEVELS = 4.0
SAME_LEVELS = 8
SAME_PIXELS = 1.0
LEAST_FLOW = 0.3
SLOTS, FRAME_HW = 16, (480, 640)


@dataclass
class Clip:
    """Frames in their order, and the words to label them with."""

    name: str
    classes: str
    frames: list[Array]
    labels: list[Array] = field(default_factory=list)
    """Of every frame, ids of the classes, 255 for none; empty where nothing is known."""


def clip_of(text: str, frames: int, skip: int) -> Clip:
    """Return the clip of ADDRESS=CLASSES."""
    address, _, classes = text.rpartition("=")
    if not address:
        raise SystemExit(f"--clip {text!r} names no words; write ADDRESS=WORD,WORD")
    with open_source(address) as source:
        # A copy, since a source may use its memory again.
        kept = [frame.frame_bgr.copy() for frame in islice(source, skip, skip + frames)]
    if len(kept) < 2:
        raise SystemExit(f"--clip {text!r} has fewer than two frames after the first {skip}")
    return Clip(address.rpartition("/")[2], classes, kept)


def labelled_clip(folder: str | None, split: str, frames: int) -> Clip:
    """Return the clip with labels: a folder's, or a street of this package."""
    if folder is None:
        size_hw, names = (240, 320), class_names("street")
        drawn = list(render_video("street", frames=frames, size_hw=size_hw, seed=3))
        return Clip("street", ",".join(names), *map(list, zip(*drawn, strict=True)))
    data = LabelledFolder.open(folder, split)
    items = list(islice(data, frames))
    return Clip(
        f"{data.root.name} {split}",
        ",".join(data.classes),
        [item.image_bgr for item in items],
        [item.labels for item in items],
    )


def noisy(frame: Array, count: int) -> list[Array]:
    rng = np.random.default_rng(0)
    noise = (rng.normal(0, NOISE_LEVELS, frame.shape) for _ in range(count))
    return [np.clip(frame + one, 0, 255).astype(np.uint8) for one in noise]


def label_maps(segmenter: Segmenter, clip: Clip, frames: Sequence[Array]) -> list[Array]:
    view = segmenter.share(clip.classes)  # with a past of its own
    return [view.segment(frame).label_map for frame in frames]


def changed(maps: Sequence[Array]) -> float:
    return float(np.mean([(before != now).mean() for before, now in pairwise(maps)]))


@dataclass(frozen=True)
class Flow:
    """Where every pixel of a frame was in the one before, and which of that is to be believed."""

    x: Array
    y: Array
    believed: Array


def flows(frames: Sequence[Array]) -> Iterator[Flow]:
    greys = (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames)
    for before, now in pairwise(greys):
        back, forth = (_dense(one, other) for one, other in ((now, before), (before, now)))
        rows, columns = np.mgrid[: now.shape[0], : now.shape[1]].astype(np.float32)
        x, y = columns + back[..., 0], rows + back[..., 1]
        grey = cv2.remap(before, x, y, cv2.INTER_LINEAR)
        returned = cv2.remap(forth, x, y, cv2.INTER_LINEAR) + back
        inside = (x >= 0) & (y >= 0) & (x <= now.shape[1] - 1) & (y <= now.shape[0] - 1)
        same = np.abs(grey.astype(int) - now) < SAME_LEVELS
        yield Flow(x, y, inside & same & (np.hypot(*np.moveaxis(returned, -1, 0)) < SAME_PIXELS))


def _dense(now: Array, before: Array) -> Array:
    return cv2.calcOpticalFlowFarneback(now, before, None, 0.5, 3, 21, 3, 7, 1.5, 0)  # type: ignore[call-overload, no-any-return]


def disagreement(maps: Sequence[Array], moved: Sequence[Flow]) -> float:
    """Return the part of the believed pixels with another label than where they were."""
    other = counted = 0
    for (before, now), flow in zip(pairwise(maps), moved, strict=True):
        if flow.believed.mean() < LEAST_FLOW:
            continue
        warped = cv2.remap(before, flow.x, flow.y, cv2.INTER_NEAREST)
        other += int((warped != now)[flow.believed].sum())
        counted += int(flow.believed.sum())
    return other / counted if counted else 0.0


def rightness(clip: Clip, maps: Sequence[Array]) -> tuple[float, float]:
    """Return mIoU and boundary IoU in per cent."""
    classes = len(clip.classes.split(","))
    regions, borders = Confusion(classes), BoundaryIou(classes)
    for labels, label_map in zip(clip.labels, maps, strict=True):
        regions.add(labels, label_map)
        borders.add(labels, label_map)
    return 100 * regions.miou_present, 100 * borders.miou_present


def measured(segmenters: Sequence[Segmenter], clip: Clip, still_frames: int) -> dict[str, Any]:
    """Return what is seen of a clip, every figure plain and stable, as the segmenters are."""
    still = noisy(clip.frames[0], still_frames)
    moved = list(flows(clip.frames))
    report: dict[str, Any] = {
        "frames": len(clip.frames),
        "jumps": sum(bool(flow.believed.mean() < LEAST_FLOW) for flow in moved),
        "still_change": [],
        "warped_disagreement": [],
    }
    for segmenter in segmenters:
        report["still_change"].append(changed(label_maps(segmenter, clip, still)))
        maps = label_maps(segmenter, clip, clip.frames)
        report["warped_disagreement"].append(disagreement(maps, moved))
        if clip.labels:
            region, border = rightness(clip, maps)
            report.setdefault("miou", []).append(region)
            report.setdefault("boundary_iou", []).append(border)
    return report


def timed(rounds: int) -> dict[str, float]:
    """Return median and least milliseconds of one core for scores of 640x480 frames, after a check."""
    rng = np.random.default_rng(0)
    cells = FRAME_HW[0] // 4, FRAME_HW[1] // 4
    coarse = rng.random((2, SLOTS, 12, 16)).astype(np.float32)
    past, scores = (
        np.stack([cv2.resize(plane, cells[::-1]) for plane in planes]) for planes in coarse
    )
    picture = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), FRAME_HW[::-1])
    stabiliser = Stabiliser()
    stabiliser.smoothed(past, picture, None)
    smoothed = stabiliser.smoothed(scores, picture, None)
    gap = past.astype(float) - scores
    part = 0.85 * np.clip((0.9 - np.abs(gap).max(0)) / 0.3, 0, 1)
    if not np.allclose(smoothed, scores + part * gap, atol=1e-3):
        raise SystemExit("smoothed scores differ from float64; no time is worth anything")
    steps = _steps(scores, picture)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.thread_time()
            step()
            taken[name].append(1e3 * (time.thread_time() - started))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    # What a machine takes that other programs leave alone.
    return {**medians, **{f"least_{name}": min(values) for name, values in taken.items()}}


def _steps(scores: Array, picture: Array) -> dict[str, Callable[[], object]]:
    grey = grey_of(picture)
    flow = np.full((*grey.shape, 2), 0.37, np.float32)
    past = np.zeros((*scores.shape[1:], SLOTS), np.float32)
    smoothed, following = np.empty_like(scores), np.empty_like(past)
    _native.remember(scores, past)
    thresholds, slot_ids = np.zeros(SLOTS, np.float32), np.arange(SLOTS, dtype=np.uint16)
    ids, confidence = np.empty(FRAME_HW, np.uint8), np.empty(FRAME_HW, np.uint8)
    counts = np.empty(SLOTS + 1, np.uint64)
    stabiliser = Stabiliser()
    stabiliser.smoothed(scores, picture, None)  # the first frame of a stream has nothing to move
    return {
        "native_ms": lambda: _native.stabilise(scores, grey, grey, flow, past, smoothed, following),
        "all_ms": lambda: stabiliser.smoothed(scores, picture, None),
        "label_map_ms": lambda: _native.label_map(
            scores, thresholds, slot_ids, ids, confidence, counts, 1
        ),
    }


def parser_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="demo")
    parser.add_argument(
        "--clip",
        action="append",
        default=[],
        metavar="ADDRESS=CLASSES",
        help="a source and its words; repeat for several (a hall of this package)",
    )
    parser.add_argument("--labelled", metavar="FOLDER", help="images/ and labels/ (a street)")
    parser.add_argument("--split", default="val", help="of that folder (val)")
    parser.add_argument(
        "--frames", type=typed(whole_number(2)), default=60, help="of each --clip at most (60)"
    )
    parser.add_argument(
        "--skip", type=typed(whole_number(0)), default=0, help="frames before them (0)"
    )
    parser.add_argument(
        "--still", type=typed(whole_number(2)), default=12, help="noisy copies of a frame (12)"
    )
    parser.add_argument(
        "--rounds", type=typed(whole_number()), default=200, help="of the timing (200)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = parser_of().parse_args(argv)
    cv2.setNumThreads(1)
    try:
        seen = measured_clips(args)
    except DedosError as error:
        print(f"flicker: error: {error}", file=sys.stderr)
        return 2
    times = timed(args.rounds)
    print(", ".join(f"{name} {value:.2f}" for name, value in times.items()))
    if args.json:
        print(json.dumps(summary(seen, times)))
    return 0


def measured_clips(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return by name what is seen of the clips that are asked for, and print it as it comes."""
    hall = f"scene:hall?size=240x320={','.join(class_names('hall'))}"
    clips = [clip_of(text, args.frames, args.skip) for text in args.clip or [hall]]
    longest = 10**6 if args.labelled else args.frames
    clips.append(labelled_clip(args.labelled, args.split, longest))
    seen = {}
    with contextlib.ExitStack() as opened:
        segmenters = [
            opened.enter_context(
                Segmenter.load(
                    args.bundle, classes="floor", background="none", stable=stable, threads=1
                )
            )
            for stable in (False, True)
        ]
        for clip in clips:
            seen[clip.name] = found = measured(segmenters, clip, args.still)
            print(line_of(clip.name, found), flush=True)
    return seen


def line_of(name: str, found: dict[str, Any]) -> str:
    pairs = {what: values for what, values in found.items() if isinstance(values, list)}
    shown = ", ".join(f"{what} {plain:.4f} -> {now:.4f}" for what, (plain, now) in pairs.items())
    return f"{name}: {found['frames']} frames, {found['jumps']} jumps, {shown}"


def summary(seen: dict[str, dict[str, Any]], times: dict[str, float]) -> dict[str, Any]:
    """Return means over the clips, and what is known of each."""
    means = {
        f"{name}{ending}": float(np.mean([clip[name][turn] for clip in seen.values()]))
        for name in ("still_change", "warped_disagreement")
        for turn, ending in enumerate(("", "_stable"))
    }
    (right,) = (clip for clip in seen.values() if "miou" in clip)
    changes = {
        f"{name}_change": right[name][1] - right[name][0] for name in ("miou", "boundary_iou")
    }
    return {**means, **changes, **times, "clips": seen}


if __name__ == "__main__":
    raise SystemExit(main())
