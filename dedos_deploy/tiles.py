"""Tiles as command lines and bundles name them: through which windows a large frame is looked at.

What becomes of them for a frame is worked out in `runtime/tiling.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from dedos_deploy.errors import BadInputError, nearest, shown

LONGEST_STRIDE = 0.75
"""Of a window's side; neighbours share at least the rest, over which one fades into the other."""

MOST_WINDOWS = 256
"""Of a frame and one grid; more is rather a slip than a wish, and would take seconds."""


@dataclass(frozen=True)
class Grid:
    """Rows and columns of windows, as large as it takes to cover the frame with them."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1 or self.rows * self.columns > MOST_WINDOWS:
            raise BadInputError(
                f"tiles {self} are no grid; rows and columns are at least 1, and {MOST_WINDOWS} windows at "
                "most"
            )

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


@dataclass(frozen=True)
class Stride:
    """Windows of the network's size in the frame's own pixels, this far apart at most."""

    pixels: int

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise BadInputError(f"a stride of tiles is at least 1 pixel, not {self.pixels}")

    def __str__(self) -> str:
        return str(self.pixels)


Tiles = Literal["off", "auto"] | Grid | Stride
"""`off`: the whole frame at once; `auto`: as many windows as the frame's size asks for, often none."""


def parse_tiles(text: str) -> Tiles:
    """Return the tiles of `off`, `auto`, ROWSxCOLUMNS or a stride in pixels. Raises BadInputError.

    >>> parse_tiles("2x3"), parse_tiles("192"), parse_tiles("auto")
    (Grid(rows=2, columns=3), Stride(pixels=192), 'auto')
    """
    word = text.strip().lower()
    if word == "off":
        return "off"
    if word == "auto":
        return "auto"
    if match := re.fullmatch(r"(\d{1,4})x(\d{1,4})", word, re.ASCII):
        return Grid(int(match[1]), int(match[2]))
    if re.fullmatch(r"\d{1,6}", word, re.ASCII):
        return Stride(int(word))
    raise BadInputError(
        f"{shown(text)} are no tiles{nearest(word, ('off', 'auto'))}; write auto, off, ROWSxCOLUMNS such as "
        "2x3, or a stride in pixels such as 192"
    )


def check_tiles(tiles: Tiles, network_hw: tuple[int, int]) -> None:
    """Raise BadInputError for what are no tiles, and where windows of the network's size would share too
    little, or nothing."""
    if not _are_tiles(tiles):
        raise BadInputError(
            f"{shown(tiles)} are no tiles; give 'off', 'auto', a Grid, a Stride, or what parse_tiles makes of a "
            "text such as 2x3"
        )
    longest = int(LONGEST_STRIDE * min(network_hw))
    if isinstance(tiles, Stride) and tiles.pixels > longest:
        height, width = network_hw
        raise BadInputError(
            f"tiles {tiles} are a stride longer than {longest} pixels, three quarters of the shorter side of "
            f"this network ({height}x{width}), so that neighbours would share too little; give a shorter "
            "stride, or rows and columns such as 2x3"
        )


def _are_tiles(given: object) -> bool:
    return isinstance(given, Grid | Stride) or given in ("off", "auto")
