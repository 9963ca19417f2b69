"""Loss curves of the components in one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.pictures import Picture
from dedos_deploy.runtime.sinks.palette import spread_colour_bgr
from dedos_deploy.training.logs import LOG

SIZE_HW = (360, 640)
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 20, 40
LINE = 16
"""Between two names."""
SMOOTHED = 0.1
"""Part of a run that one point of a curve averages over."""

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


def read_curve(folders: Sequence[Path], gamma: float) -> Curve:
    """Return steps and L_seg, mean over the runs in `folders`, smoothed.

    gamma: weight of L_consist, which is left out as the other terms of a diffusion are, whose weight is
    1, so that rows with and without them compare.
    """
    beside = {"consist": gamma, "predict": 1.0, "distil": 1.0}
    runs = []
    for folder in folders:
        lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
        reports = {report["step"]: report for report in map(json.loads, lines)}
        runs.append(
            {
                step: report["loss"]
                - sum(beside.get(n, 0.0) * value for n, value in report["terms"].items())
                for step, report in reports.items()
            }
        )
    steps = np.array(sorted(set.intersection(*(set(run) for run in runs))), dtype=np.int64)
    losses = np.array([np.mean([run[step] for run in runs]) for step in steps.tolist()])
    width = max(1, round(SMOOTHED * len(steps)))
    kernel = np.ones(width)
    smooth = np.convolve(losses, kernel, "same") / np.convolve(np.ones(len(losses)), kernel, "same")
    return steps, smooth


def draw_curves(curves: dict[str, Curve]) -> Picture:
    """Return the picture, uint8 BGR [360, 640, 3]; names of the curves beside their ends."""
    import cv2

    height, width = SIZE_HW
    picture = np.full((height, width, 3), 255, np.uint8)
    # The start is far above all that follows and would press it flat.
    shown = np.concatenate([loss[len(loss) // 20 :] for _, loss in curves.values()])
    low, high = float(shown.min()), float(shown.max())
    last = max(int(steps[-1]) for steps, _ in curves.values())

    def place(step: float, loss: float) -> tuple[int, int]:
        x = LEFT + (width - LEFT - RIGHT) * step / last
        y = TOP + (height - TOP - BOTTOM) * (high - loss) / max(high - low, 1e-9)
        return round(x), round(min(max(y, TOP), height - BOTTOM))

    def write(text: str, x: int, y: int, colour: tuple[int, int, int] = (60, 60, 60)) -> None:
        cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)

    for level in np.linspace(low, high, 5).tolist():
        left, y = place(0, level)
        cv2.line(picture, (left, y), (width - RIGHT, y), (225, 225, 225), 1)
        write(f"{level:.2f}", 12, y + 4)
    for step in np.linspace(0, last, 5).tolist():
        write(f"{step:.0f}", place(step, low)[0] - 12, height - BOTTOM + 18)
    write("steps", width // 2 - 20, height - 6)
    ends = []
    for number, (name, (steps, losses)) in enumerate(curves.items()):
        # From red to violet: the first round of the palette, which is the brightest.
        colour = spread_colour_bgr(number)
        points = [place(s, v) for s, v in zip(steps.tolist(), losses.tolist(), strict=True)]
        cv2.polylines(picture, [np.array(points, np.int32)], False, colour, 2, cv2.LINE_AA)
        ends.append((points[-1][1], name, colour))
    ends.sort()
    for y, (_, name, colour) in zip(apart([end[0] for end in ends], height - 8), ends, strict=True):
        write(name, width - RIGHT + 8, y, colour)
    return picture


def apart(wanted: Sequence[int], lowest: int) -> list[int]:
    """Return rows for names, LINE apart at least, near those wanted, which go down the picture, and none
    below `lowest`.

    >>> apart([5, 10, 100, 195], 200), apart([190, 195, 199], 200)
    ([5, 21, 100, 195], [168, 184, 200])
    """
    rows: list[int] = []
    for row in wanted:
        rows.append(max(row, rows[-1] + LINE) if rows else row)
    for place in range(len(rows)):
        rows[-1 - place] = min(rows[-1 - place], lowest - LINE * place)
    return rows
