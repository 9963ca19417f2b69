"""Published open-vocabulary models as data: what decides their shapes, without torch."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from dedos_deploy.config_limits import check_limits
from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.presets import ClipConfig
from dedos_deploy.spec import SCORE_STRIDE

PeerKind = Literal["san", "catseg"]

SIDE_PATCH = 16
"""Pixels of a patch of SAN's side adapter."""

SIDE_HEADS = 6
"""Attention heads of the side adapter, which no tensor tells."""

GRID = 24
"""Patches along each side of what CAT-Seg's CLIP sees, and cells of its cost volume."""

_SAN_LIMITS = {
    "split": (3, 128),
    "queries": (1, 4096),
    "side_width": (SIDE_HEADS, 8192),
    "side_layers": (3, 128),
    "side_grid": (1, 256),
    "embed_width": (1, 8192),
    "head_width": (1, 8192),
}
_CAT_SEG_LIMITS = {
    "layers": (1, 64),
    "width": (1, 8192),
    "guidance": (1, 8192),
    "text_guidance": (1, 8192),
}
_CHANNELS = (1, 8192)


@dataclass(frozen=True)
class SanConfig:
    """Everything that decides the shape of a SAN."""

    preset: str
    clip: ClipConfig
    """CLIP, whose grid is that of the stored positions."""
    size_hw: tuple[int, int]
    """Default network size."""
    split: int
    """CLIP blocks before the attention bias begins."""
    clip_scale: tuple[int, int]
    """CLIP's picture over the network size, as numerator and denominator."""
    queries: int
    side_width: int
    side_layers: int
    side_grid: int
    """Side of the side adapter's stored positions."""
    embed_width: int
    """Channels of the product between query and pixel."""
    head_width: int
    """Channels inside the MLPs of the heads."""

    def __post_init__(self) -> None:
        check_limits(self, "", _SAN_LIMITS)
        numerator, denominator = self.clip_scale
        if not 0 < numerator <= denominator <= self.clip.patch * denominator // numerator <= 4096:
            raise BadInputError(f"clip_scale must lie in (0, 1], not {numerator}/{denominator}")
        if self.split >= self.clip.layers or self.side_width % SIDE_HEADS:
            raise BadInputError(
                f"split {self.split} must be below the {self.clip.layers} blocks of CLIP, and "
                f"side_width {self.side_width} a multiple of {SIDE_HEADS}"
            )
        self.check_size(self.size_hw)

    def check_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return `size_hw` if both patch grids fit it; raises BadInputError naming the nearest."""
        numerator, denominator = self.clip_scale
        step = math.lcm(SIDE_PATCH, self.clip.patch * denominator // numerator)
        return _checked_size(size_hw, step, self.preset)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size of CLIP's picture."""
        numerator, denominator = self.clip_scale
        height, width = size_hw
        return height * numerator // denominator, width * numerator // denominator

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `config_json.any_config_from_dict` is the inverse."""
        return asdict(self)


@dataclass(frozen=True)
class CatSegConfig:
    """Everything that decides the shape of a CAT-Seg."""

    preset: str
    clip: ClipConfig
    """CLIP, whose grid is that of the stored positions."""
    size_hw: tuple[int, int]
    """Default network size."""
    layers: int
    """Layers of the aggregation."""
    width: int
    """Channels of the aggregation."""
    guidance: int
    """Channels of the projected picture in the aggregation."""
    text_guidance: int
    """Channels of the projected words in the aggregation."""
    lifted: tuple[int, int]
    """Channels of the two finer CLIP maps."""
    decoder_guidance: tuple[int, int]
    """Channels of the two finer CLIP maps, projected."""
    decoder: tuple[int, int]
    """Channels of the decoder's two steps."""

    def __post_init__(self) -> None:
        check_limits(self, "", _CAT_SEG_LIMITS)
        for name in ("lifted", "decoder_guidance", "decoder"):
            if not all(_CHANNELS[0] <= one <= _CHANNELS[1] for one in getattr(self, name)):
                raise BadInputError(
                    f"{name} must lie in [{_CHANNELS[0]}, {_CHANNELS[1]}], not {getattr(self, name)}"
                )
        if self.clip.layers < 3:
            raise BadInputError(f"CAT-Seg needs a CLIP of 3 blocks, not {self.clip.layers}")
        self.check_size(self.size_hw)

    def check_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return `size_hw` if the score map fits it; raises BadInputError naming the nearest."""
        return _checked_size(size_hw, SCORE_STRIDE, self.preset)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size of CLIP's picture, the same for every network size."""
        return GRID * self.clip.patch, GRID * self.clip.patch

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `config_json.any_config_from_dict` is the inverse."""
        return asdict(self)


PeerConfig = SanConfig | CatSegConfig


@dataclass(frozen=True)
class PublishedFile:
    """A checkpoint as its authors published it."""

    kind: PeerKind
    """Whose it is."""
    size: str | None
    """The preset that it must be, such as san-b; None for whatever its shapes say."""
    path: Path


def published_file(text: str) -> PublishedFile:
    """Return the checkpoint of `KIND:PATH`. Raises BadInputError.

    >>> published_file("san-b:weights.pth")
    PublishedFile(kind='san', size='san-b', path=PosixPath('weights.pth'))
    """
    match = re.fullmatch(r"((san|catseg)(?:-[bl])?):(.+)", text, re.DOTALL)
    if match is None:
        raise BadInputError(
            f"{shown(text)} is no published checkpoint; write {' or '.join(get_args(PeerKind))}, "
            "with -b or -l for the size that it must have, a colon and the file, as san:weights.pth"
        )
    word, path = match[1], Path(match[3])
    kind: PeerKind = "san" if match[2] == "san" else "catseg"
    return PublishedFile(kind, None if word == kind else word, path)


def _checked_size(size_hw: tuple[int, int], step: int, name: str) -> tuple[int, int]:
    """Return `size_hw` if both sides are positive multiples of `step`.

    Raises BadInputError naming the nearest size that fits.
    """
    if all(side > 0 and side % step == 0 for side in size_hw):
        return size_hw
    near = tuple(max(step, round(side / step) * step) for side in size_hw)
    raise BadInputError(
        f"size {size_hw[0]}x{size_hw[1]} does not fit {name}, whose sides must be multiples of "
        f"{step}; the nearest is {near[0]}x{near[1]}"
    )
