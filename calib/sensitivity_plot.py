"""Sensitivity to look at: a table in markdown, and a picture of the damage of every site."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dedos_deploy.calib.plan import QuantizationPlan
from dedos_deploy.calib.sensitivity import Sensitivity, SiteSensitivity
from dedos_deploy.pictures import Picture

Colour = tuple[int, int, int]

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1000, 290, 90, 94, 44
ROW, BAR = 17, 11
MOST_DECADES = 8
"""Decades of the axis: what lies further below the largest damage differs in nothing that matters."""

INT8: Colour = (196, 128, 58)
FLOAT: Colour = (52, 122, 240)
BUDGET: Colour = (60, 60, 200)
TEXT: Colour = (50, 50, 50)
PALE: Colour = (225, 225, 225)


def sensitivity_table(sensitivity: Sensitivity, plan: QuantizationPlan) -> str:
    """Return a markdown table of all sites in the order in which they are given back."""
    parts = {item.site: item for item in sensitivity.sites}
    rows = [
        "| site | damage | weights | activations | MACs | runs in |",
        "|---|---|---|---|---|---|",
    ]
    given, kept = plan.given_back, plan.quantized
    total = math.fsum(item.macs for item in (*given, *kept))
    places = [f"float ({item.reason})" for item in given] + ["int8"] * len(kept)
    for item, place in zip((*given, *kept), places, strict=True):
        part, share = parts[item.site], 100 * item.macs / total
        figures = f"{part.damage:.2e} | {part.weight:.2e} | {part.activation:.2e} | {share:.2f} %"
        rows.append(f"| {item.site} | {figures} | {place} |")
    return "\n".join(rows) + "\n"


def draw_sensitivity(sensitivity: Sensitivity, plan: QuantizationPlan) -> Picture:
    """Return the picture, uint8 BGR [H, 1000, 3]: a row per site, grouped by part of the model.

    A bar is the damage of quantizing that site alone, on a log axis; its colour says where the plan
    runs it; a square marks the part of the weights, a circle that of the activations; the dashed
    line is the budget for the sum over all sites in int8.
    """
    groups: dict[str, list[SiteSensitivity]] = {}
    for item in sensitivity.sites:
        groups.setdefault(_part(item), []).append(item)
    axis = _Axis.around(sensitivity, plan.budget)
    height = TOP + ROW * (len(sensitivity.sites) + len(groups)) + BOTTOM
    canvas = _Canvas(np.full((height, WIDTH, 3), 255, np.uint8))
    _draw_axis(canvas, axis, height - BOTTOM)
    _draw_legend(canvas, sensitivity, plan)
    given = {item.site for item in plan.given_back}
    y = TOP
    for part, items in groups.items():
        canvas.write(part, 12, y + 12, size=0.48, thick=True)
        y += ROW
        for item in items:
            _draw_site(canvas, axis, item, y, FLOAT if item.site in given else INT8)
            y += ROW
    if plan.budget is not None and axis.holds(plan.budget):
        _draw_budget(canvas, axis.place(plan.budget), height - BOTTOM)
    return canvas.picture


def sensitivity_png(sensitivity: Sensitivity, plan: QuantizationPlan) -> bytes:
    """Return the picture of `draw_sensitivity` as a PNG file."""
    import cv2

    small = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    _, encoded = cv2.imencode(".png", draw_sensitivity(sensitivity, plan), small)
    return encoded.tobytes()


def _part(item: SiteSensitivity) -> str:
    return item.site.split(".")[0]


@dataclass(frozen=True)
class _Axis:
    """Whole powers of ten, from 10 ** low to 10 ** high."""

    low: int
    high: int

    @classmethod
    def around(cls, sensitivity: Sensitivity, budget: float | None) -> _Axis:
        values = [item.damage for item in sensitivity.sites if item.damage > 0]
        largest = max([*values, budget or 0]) or 1.0
        high = math.ceil(math.log10(largest))
        low = math.floor(math.log10(min(values, default=largest)))
        return cls(max(min(low, high - 1), high - MOST_DECADES), high)

    def holds(self, value: float) -> bool:
        return value >= 10.0**self.low

    def place(self, value: float) -> int:
        """Return the column of a value, the left end for all that is smaller than the axis."""
        exponent = math.log10(value) if self.holds(value) else self.low
        part = (min(exponent, self.high) - self.low) / (self.high - self.low)
        return round(LEFT + (WIDTH - LEFT - RIGHT) * part)


class _Canvas:
    """The few strokes that the picture is made of."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture

    def write(
        self,
        text: str,
        x: int,
        y: int,
        *,
        size: float = 0.42,
        colour: Colour = TEXT,
        thick: bool = False,
    ) -> None:
        import cv2

        font, weight = cv2.FONT_HERSHEY_SIMPLEX, 2 if thick else 1
        cv2.putText(self.picture, text, (x, y), font, size, colour, weight, cv2.LINE_AA)

    def fill(self, x: int, y: int, width: int, height: int, colour: Colour) -> None:
        self.picture[y : y + height, x : x + width] = colour

    def square(self, x: int, y: int) -> None:
        import cv2

        cv2.rectangle(self.picture, (x - 3, y - 3), (x + 3, y + 3), (255, 255, 255), -1)
        cv2.rectangle(self.picture, (x - 3, y - 3), (x + 3, y + 3), TEXT, 1)

    def circle(self, x: int, y: int) -> None:
        import cv2

        cv2.circle(self.picture, (x, y), 4, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(self.picture, (x, y), 4, TEXT, 1, cv2.LINE_AA)


def _draw_axis(canvas: _Canvas, axis: _Axis, bottom: int) -> None:
    for exponent in range(axis.low, axis.high + 1):
        x = axis.place(10.0**exponent)
        canvas.fill(x, TOP, 1, bottom - TOP, PALE)
        for y in (TOP - 6, bottom + 16):
            canvas.write(f"1e{exponent}", x - 14, y)
    canvas.write("damage", WIDTH - RIGHT + 16, TOP - 6)
    canvas.write(
        "damage: change of the scores' energy when this site alone is int8", LEFT, bottom + 34
    )


def _draw_site(canvas: _Canvas, axis: _Axis, item: SiteSensitivity, y: int, colour: Colour) -> None:
    name = item.site.removeprefix(_part(item) + ".")
    canvas.write(name, 26, y + 12)
    end, middle = axis.place(item.damage), y + ROW // 2
    canvas.fill(LEFT, y + (ROW - BAR) // 2, end - LEFT, BAR, colour)
    for value, mark in ((item.weight, canvas.square), (item.activation, canvas.circle)):
        if axis.holds(value):
            mark(axis.place(value), middle)
    canvas.write(f"{item.damage:.1e}", WIDTH - RIGHT + 16, y + 12)


def _draw_budget(canvas: _Canvas, x: int, bottom: int) -> None:
    for y in range(TOP - 18, bottom, 8):
        canvas.fill(x, y, 2, 5, BUDGET)
    canvas.write("budget", x - 22, TOP - 22, colour=BUDGET)


def _draw_legend(canvas: _Canvas, sensitivity: Sensitivity, plan: QuantizationPlan) -> None:
    limit = "none" if plan.budget is None else f"{plan.budget:.1e}"
    canvas.write(
        f"{len(plan.quantized)} of {len(sensitivity.sites)} sites in int8, predicted damage "
        f"{plan.predicted_damage:.1e} of {sensitivity.total:.1e}, budget {limit}",
        12,
        22,
        size=0.5,
        thick=True,
    )
    canvas.fill(12, 38, 22, BAR, INT8)
    canvas.write("int8", 42, 49)
    canvas.fill(112, 38, 22, BAR, FLOAT)
    canvas.write("given back to float", 142, 49)
    canvas.square(322, 44)
    canvas.write("weights alone", 334, 49)
    canvas.circle(472, 44)
    canvas.write("activations alone", 484, 49)
