"""How a frame is looked at: whole, through overlapping windows, larger, mirrored, and what of each counts where.

A *look* is a way to see all of a frame once: whole, or through a grid of windows. Every look has the same
say in the score map that comes of them; within a look one window fades into the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.spec import SCORE_STRIDE
from dedos_deploy.tiles import LONGEST_STRIDE, MOST_WINDOWS, Grid, Stride, Tiles, check_tiles

AUTO_REDUCTION = 2.0
"""`auto` wants a frame's pixel no smaller than one over this in the network's picture, along either axis."""

AUTO_STRETCH = 1.4
"""And no picture of another shape than this many times the network's: 16:9 in 4:3 is 1.33."""

AUTO_MOST = 8
"""Windows that `auto` makes of a frame at most, beside the whole."""

MOST_SCALE = 8.0

LEAST_STEP = 1.05
"""Of scales that are next to each other, and of the smallest above 1: nearer ones show nearly the same."""

LEAST_SHARE = 1e-6
"""Weight of a window's very border, where nothing else may be: frames of a few pixels round that way."""

Size = tuple[int, int]
Box = tuple[int, int, int, int]
Weights = NDArray[np.float32]
Coordinates = NDArray[np.float64]


@dataclass(frozen=True)
class Tiling:
    """How frames are looked at. Raises BadInputError for scales that no graph of one input size can have."""

    tiles: Tiles = "off"
    """Windows of the network's own aspect, in place of the whole frame."""

    whole: bool = True
    """Whether the whole frame is looked at, too, beside windows."""

    scales: tuple[float, ...] = (1.0,)
    """How much larger than that the network sees things: at 2 through windows of half the sides."""

    flips: bool = False
    """Whether every look is also taken in the mirror, left and right exchanged."""

    def __post_init__(self) -> None:
        if not self.scales or not all(1.0 <= scale <= MOST_SCALE for scale in self.scales):
            raise BadInputError(
                f"scales lie in [1, {MOST_SCALE:g}], not {', '.join(f'{s:g}' for s in self.scales) or 'none'}: "
                "a graph has one input size, which the whole frame fills at 1"
            )
        check_apart(self.scales)

    @property
    def is_off(self) -> bool:
        """Whether every frame is looked at once and whole."""
        return self.tiles == "off" and self.scales == (1.0,) and not self.flips

    def check(self, network_hw: Size) -> None:
        """Raise BadInputError for a stride that is too long for a network's input size."""
        check_tiles(self.tiles, network_hw)

    def plan(self, frame_hw: Size, network_hw: Size) -> Plan:
        """Return through which windows a frame is looked at.

        network_hw: input size of the graph, height and width. Plans are kept, as frames come in few
        sizes. Raises BadInputError for more than MOST_WINDOWS windows in a grid, and as `check` does.
        """
        return _planned(self, frame_hw, network_hw)

    def idle(self, frame_hw: Size, network_hw: Size) -> tuple[str, ...]:
        """Return what of this shows nothing of such a frame that is not seen without it, as `tiles auto`
        or `scale 1.25`: windows that are the whole frame, or those of another scale.

        frame_hw, network_hw: as `plan` has them.
        """
        whole = _Look(frame_hw, (0,), (0,))
        base = _base_look(self.tiles, frame_hw, network_hw)
        tiled = self.tiles != "off" and 1.0 in self.scales
        found = [f"tiles {self.tiles}"] if tiled and base == whole else []
        seen = {whole}
        for scale in self.scales:
            look = _at_scale(base, scale, frame_hw)
            if scale != 1.0 and look in seen:
                found.append(f"scale {scale:g}")
            seen.add(look)
        return tuple(found)

    def __str__(self) -> str:
        """What frames are looked at through, for people."""
        if self.is_off:
            return "the whole"
        parts = []
        if self.tiles != "off":
            parts.append(f"tiles {self.tiles}{' and the whole' if self.whole else ''}")
        if self.scales != (1.0,):
            parts.append(f"scales {', '.join(f'{scale:g}' for scale in self.scales)}")
        if self.flips:
            parts.append("mirror images")
        return ", ".join(parts)


def check_apart(scales: Sequence[float]) -> None:
    """Raise BadInputError where two scales, or one and the 1 of the whole frame, show nearly the same."""
    for one, other in pairwise(sorted({1.0, *scales})):
        if other < (LEAST_STEP - 1e-9) * one:
            raise BadInputError(
                f"scales {one:.12g} and {other:.12g} show nearly the same, at the cost of both; give scales "
                f"that are {100 * (LEAST_STEP - 1):.0f} % apart, or one of them"
            )


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a frame that the network is shown at its input size."""

    box: Box
    """Top, left, bottom and right in the frame's pixels, the last two beyond it."""

    flipped: bool
    """Whether it is shown in the mirror."""

    rows: Coordinates
    """float64 [h'], where the rows of the blended score map lie in the window's own, in its cells."""

    columns: Coordinates
    """float64 [w'], the same of the columns, which run backwards in the mirror."""

    down: Weights
    """float32 [h'], weights of the rows of the blended score map, 0 outside of the window."""

    across: Weights
    """float32 [w'], weights of its columns: cell (i, j) takes `down[i] * across[j]` of this window."""

    @property
    def weights(self) -> Weights:
        """float32 [h', w'], how much of this window every cell takes."""
        return np.outer(self.down, self.across)

    def is_whole(self, frame_hw: tuple[int, ...]) -> bool:
        """Whether it shows all of a frame of this size, in pixels, as it is."""
        return self.box == (0, 0, frame_hw[0], frame_hw[1]) and not self.flipped

    def blend(self, scores: Weights, blended: Weights, *, threads: int) -> None:
        """Add this window's part to a score map; that of all windows of a plan makes it whole.

        scores: float32 [K, h, w], what the network gave for this window; blended: float32 [K, h', w'],
        zeros before the first window; threads: CPU threads. Scores that are no numbers stay so.
        """
        from dedos_deploy import _native

        _native.blend_window(
            scores, self.rows, self.columns, self.down, self.across, blended, threads
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """The windows of a frame, whose weights sum to one in every cell of the blended score map."""

    frame_hw: Size
    """Height and width of the frame, in pixels."""

    score_hw: Size
    """h', w' of the blended score map, whose cells are as fine as those of the smallest windows."""

    windows: tuple[Window, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the frame is looked at once and whole, so that there is nothing to blend."""
        return len(self.windows) == 1


@dataclass(frozen=True)
class _Look:
    """A grid of windows of one size that covers the frame."""

    size: Size
    tops: tuple[int, ...]
    lefts: tuple[int, ...]


@lru_cache(maxsize=32)
def _planned(tiling: Tiling, frame_hw: Size, network_hw: Size) -> Plan:
    tiling.check(network_hw)
    looks = _looks(tiling, frame_hw, network_hw)
    score_hw = _finest(looks, frame_hw, network_hw)
    mirrors = (False, True) if tiling.flips else (False,)
    share = 1.0 / (len(looks) * len(mirrors))
    cells_hw = network_hw[0] // SCORE_STRIDE, network_hw[1] // SCORE_STRIDE
    windows = tuple(
        window
        for look in looks
        for flipped in mirrors
        for window in _windows(look, flipped, share, frame_hw, cells_hw, score_hw)
    )
    return Plan(frame_hw, score_hw, windows)


def _looks(tiling: Tiling, frame_hw: Size, network_hw: Size) -> list[_Look]:
    """Return every look once; where windows come out as the frame itself, that is the whole."""
    whole = _Look(frame_hw, (0,), (0,))
    base = _base_look(tiling.tiles, frame_hw, network_hw)
    found = {whole: None} if tiling.whole else {}
    for scale in tiling.scales:
        look = _at_scale(base, scale, frame_hw)
        _check_count(look, tiling.tiles, scale, frame_hw)
        found[look] = None
    return list(found)


def _check_count(look: _Look, tiles: Tiles, scale: float, frame_hw: Size) -> None:
    count = len(look.tops) * len(look.lefts)
    if count <= MOST_WINDOWS:
        return
    at, remedy = "", "a longer stride, or rows and columns such as 2x3"
    if scale != 1.0:
        at, remedy = f" at scale {scale:g}", "a smaller scale, or fewer tiles"
    height, width = frame_hw
    raise BadInputError(
        f"tiles {tiles}{at} make {count} windows of a frame of {height}x{width}, more than "
        f"{MOST_WINDOWS}; give {remedy}"
    )


def _base_look(tiles: Tiles, frame_hw: Size, network_hw: Size) -> _Look:
    fits = all(side <= most for side, most in zip(frame_hw, network_hw, strict=True))
    if tiles == "off" or (fits and not isinstance(tiles, Grid)):
        return _Look(frame_hw, (0,), (0,))
    if tiles == "auto":
        return _auto_look(frame_hw, network_hw)
    if isinstance(tiles, Grid):
        return _grid_look(tiles, frame_hw, network_hw)
    factor = min(1.0, *(side / most for side, most in zip(frame_hw, network_hw, strict=True)))
    height, width = (max(1, int(factor * side)) for side in network_hw)
    return _covering((height, width), frame_hw, tiles)


def _auto_look(frame_hw: Size, network_hw: Size) -> _Look:
    """Return the fewest windows that show the frame well enough, or as well as AUTO_MOST of them can."""
    grids = [
        Grid(rows, columns)
        for rows in range(1, AUTO_MOST + 1)
        for columns in range(1, AUTO_MOST // rows + 1)
    ]
    looks = [
        _Look(frame_hw, (0,), (0,)),
        *(_grid_look(grid, frame_hw, network_hw) for grid in grids),
    ]

    def badness(look: _Look) -> tuple[float, int]:
        down, across = (side / most for side, most in zip(look.size, network_hw, strict=True))
        reduction = max(down, across, AUTO_REDUCTION)
        stretch = max(down / across, across / down, AUTO_STRETCH)
        return reduction * stretch, len(look.tops) * len(look.lefts)

    return min(looks, key=badness)


def _grid_look(grid: Grid, frame_hw: Size, network_hw: Size) -> _Look:
    counts = grid.rows, grid.columns
    # Windows of the network's aspect, just large enough; a frame that is too long for them along one
    # axis bounds them there.
    factor = max(
        length / (1 + (count - 1) * LONGEST_STRIDE) / side
        for length, count, side in zip(frame_hw, counts, network_hw, strict=True)
    )
    height, width = (
        min(length, math.ceil(factor * side))
        for length, side in zip(frame_hw, network_hw, strict=True)
    )
    tops = _starts(frame_hw[0], height, grid.rows)
    return _Look((height, width), tops, _starts(frame_hw[1], width, grid.columns))


def _covering(size: Size, frame_hw: Size, stride: Stride | None = None) -> _Look:
    """Return as many windows of a size as cover the frame, `stride` apart at most."""
    starts = []
    for side, length in zip(size, frame_hw, strict=True):
        step = LONGEST_STRIDE * side
        step = min(step, stride.pixels) if stride is not None else step
        starts.append(_starts(length, side, 1 + math.ceil((length - side) / step)))
    return _Look(size, starts[0], starts[1])


def _at_scale(base: _Look, scale: float, frame_hw: Size) -> _Look:
    """Return a look at which things are that much larger than at `base`."""
    if scale == 1.0:
        return base
    height, width = (max(1, round(side / scale)) for side in base.size)
    return _covering((height, width), frame_hw)


def _starts(length: int, side: int, count: int) -> tuple[int, ...]:
    """Return where windows begin, evenly apart, the last one at the end; each place once."""
    if count == 1 or side == length:
        return (0,)
    return tuple(sorted({index * (length - side) // (count - 1) for index in range(count)}))


def _finest(looks: Sequence[_Look], frame_hw: Size, network_hw: Size) -> Size:
    """Return the size of a score map with cells as small as those of the smallest windows."""
    height, width = (
        max(
            round(frame_hw[axis] / look.size[axis] * (network_hw[axis] // SCORE_STRIDE))
            for look in looks
        )
        for axis in range(2)
    )
    return height, width


def _windows(
    look: _Look, flipped: bool, share: float, frame_hw: Size, cells_hw: Size, score_hw: Size
) -> Iterator[Window]:
    """Yield the windows of a look, row by row; share: what it says in all; cells_hw: of their scores."""
    down = _axis(look.tops, look.size[0], frame_hw[0], cells_hw[0], score_hw[0])
    across = _axis(look.lefts, look.size[1], frame_hw[1], cells_hw[1], score_hw[1])
    for top, (rows, row_weights) in zip(look.tops, down, strict=True):
        for left, (columns, weights) in zip(look.lefts, across, strict=True):
            yield Window(
                box=(top, left, top + look.size[0], left + look.size[1]),
                flipped=flipped,
                rows=rows,
                columns=cells_hw[1] - 1 - columns if flipped else columns,
                down=(share * row_weights).astype(np.float32),
                across=weights.astype(np.float32),
            )


def _axis(
    starts: Sequence[int], side: int, length: int, cells: int, blended: int
) -> list[tuple[Coordinates, Coordinates]]:
    """Return coordinates and weights, float64 [blended] each, of the windows along an axis."""
    centres = (np.arange(blended) + 0.5) * length / blended
    weights = _fading(starts, side, centres)
    return [
        (np.clip((centres - start) * cells / side - 0.5, 0.0, cells - 1.0), weight)
        for start, weight in zip(starts, weights, strict=True)
    ]


def _fading(starts: Sequence[int], side: int, centres: Coordinates) -> list[Coordinates]:
    """Return the weights of windows at the centres of cells, which sum to one at each.

    A window counts in full in its middle and falls to nothing towards its neighbours, linearly over what
    they share (at most half of it), but not towards the frame's border: no seam is left.
    """
    weights = []
    for index, start in enumerate(starts):
        end, weight = start + side, np.ones(len(centres))
        if index > 0:
            fade = _fade(starts[index - 1] + side - start, side)
            weight = np.minimum(weight, (centres - start) / fade)
        if index < len(starts) - 1:
            fade = _fade(end - starts[index + 1], side)
            weight = np.minimum(weight, (end - centres) / fade)
        inside = (centres >= start) & (centres <= end)
        weights.append(np.where(inside, np.maximum(weight, LEAST_SHARE), 0.0))
    total = np.sum(weights, axis=0)
    return [weight / total for weight in weights]


def _fade(shared: int, side: int) -> float:
    """Return over how many pixels a window fades that shares so many with its neighbour."""
    return max(1.0, min(shared, side / 2))
