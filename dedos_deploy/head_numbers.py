"""Dense heads as data: which blocks of a CLIP each one reads, its numbers, and windows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from dedos_deploy.errors import BadInputError
from dedos_deploy.spec import SCORE_STRIDE

HeadKind = Literal["sc-clip", "naclip", "maskclip"]


@dataclass(frozen=True)
class ScClipHead:
    """Numbers of the head `sc-clip`. Blocks are counted from 1; the last one is the head's own."""

    similar: int
    """Block whose patches tell what belongs together."""
    shallow: int
    """Block whose patches spread the result."""
    summed: tuple[int, int]
    """First and last block of the sum that runs through the last block once more."""
    cls_weight: float
    """Share of the CLS token that is added."""
    cut: float = 0.4
    """Cosines below it count as 0."""
    neighbours: int = 30
    """Nearest patches of the local density."""
    quantile: float = 0.95
    """Densities above it are outliers."""
    sharpness: float = 3.0
    """Factor before the softmax over cosines."""
    kind: Literal["sc-clip"] = "sc-clip"

    def __post_init__(self) -> None:
        if self.neighbours < 1 or not 0 < self.quantile < 1:
            raise BadInputError(
                f"sc-clip needs at least 1 neighbour and a quantile in (0, 1), not "
                f"{self.neighbours} and {self.quantile}"
            )


@dataclass(frozen=True)
class NaclipHead:
    """Numbers of the head `naclip`."""

    variance: float = 25.0
    """σ² of the Gaussian of its neighbours, in patches²."""
    kind: Literal["naclip"] = "naclip"

    def __post_init__(self) -> None:
        if self.variance <= 0:
            raise BadInputError(f"the variance of naclip must be above 0, not {self.variance}")


@dataclass(frozen=True)
class MaskclipHead:
    """The head `maskclip`, which has no numbers."""

    kind: Literal["maskclip"] = "maskclip"


Head = ScClipHead | NaclipHead | MaskclipHead

_SC_CLIP = {12: ScClipHead(9, 4, (4, 10), 0.3), 24: ScClipHead(17, 7, (9, 19), 0.1)}
"""The published numbers, by depth of the trunk: of ViT-B/16 and ViT-L/14."""


def sc_clip_head(layers: int) -> ScClipHead:
    """Return the numbers of sc-clip for a trunk of `layers` blocks, at least 2.

    A depth for which none were published has those of 12 blocks, scaled and rounded, among the blocks
    before the last.

    >>> sc_clip_head(6).similar, sc_clip_head(6).shallow, sc_clip_head(6).summed
    (4, 2, (2, 5))
    """
    if layers in _SC_CLIP:
        return _SC_CLIP[layers]
    base = _SC_CLIP[12]

    def scaled(block: int) -> int:
        return min(max(1, round(block * layers / 12)), layers - 1)

    first, last = base.summed
    return replace(
        base,
        similar=scaled(base.similar),
        shallow=scaled(base.shallow),
        summed=(scaled(first), scaled(last)),
    )


HEADS: dict[HeadKind, Callable[[int], Head]] = {
    "sc-clip": sc_clip_head,
    "naclip": lambda layers: NaclipHead(),
    "maskclip": lambda layers: MaskclipHead(),
}
"""The dense heads: from the depth of a trunk to the numbers for it."""


MOST_WINDOWS = 100
"""Windows of one picture: each is a pass of the trunk and a part of the graph."""


@dataclass(frozen=True)
class WindowConfig:
    """Square windows of `size` pixels, every `stride` pixels and at the far edge, in a picture."""

    size: int
    stride: int

    def __post_init__(self) -> None:
        if (
            not 0 < self.stride <= self.size
            or self.size % SCORE_STRIDE
            or self.stride % SCORE_STRIDE
        ):
            raise BadInputError(
                f"windows {self.size}/{self.stride} must be SIZE/STRIDE in pixels, multiples of "
                f"{SCORE_STRIDE} with a stride of at most the size, such as 224/112"
            )

    def check(self, size_hw: tuple[int, int]) -> None:
        """Raise BadInputError unless a picture of this size takes the windows, and not too many."""
        rows, columns = (len(self.offsets(side)) for side in size_hw)
        if rows * columns > MOST_WINDOWS:
            raise BadInputError(
                f"windows {self.size}/{self.stride} are {rows * columns} in a picture of "
                f"{size_hw[0]}x{size_hw[1]}, and at most {MOST_WINDOWS} are allowed; choose a larger "
                f"stride"
            )

    def offsets(self, length: int) -> list[int]:
        """Return where windows start along a side of `length` pixels; the last one ends with it.

        Raises BadInputError for a side that is shorter than a window or falls between two cells of
        the score map.

        >>> WindowConfig(224, 112).offsets(448), WindowConfig(224, 112).offsets(256)
        ([0, 112, 224], [0, 32])
        """
        room = length - self.size
        if room < 0 or room % SCORE_STRIDE:
            raise BadInputError(
                f"a side of {length} pixels does not take windows of {self.size}: sides must be at "
                f"least {self.size} and longer by multiples of {SCORE_STRIDE}; choose another size, "
                f"or no windows"
            )
        return [min(i * self.stride, room) for i in range(-(-room // self.stride) + 1)]


def windows(text: str) -> WindowConfig:
    """Return the windows of `SIZE/STRIDE`. Raises BadInputError.

    >>> windows("224/112")
    WindowConfig(size=224, stride=112)
    """
    match = re.fullmatch(r"0*([1-9]\d{0,4})/0*([1-9]\d{0,4})", text.strip(), re.ASCII)
    if match is None:
        raise BadInputError(f"{text!r} are no windows; write SIZE/STRIDE in pixels, as 224/112")
    return WindowConfig(int(match[1]), int(match[2]))
