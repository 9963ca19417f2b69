"""How an evaluation looks at pictures: through tiles, at several scales, in the mirror; scores averaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.runtime.tiling import MOST_SCALE, Tiling, check_apart
from dedos_deploy.tiles import Tiles, parse_tiles

FLIP = "flip"


@dataclass(frozen=True)
class Looking:
    """What a model is shown of every picture, where not what it is when deployed."""

    tiles: Tiles | None = None
    """None: the bundle's own, and of a checkpoint the whole picture."""
    scales: tuple[float, ...] = (1.0,)
    """How many times larger than deployed things are shown; scores of all scales are averaged."""
    flips: bool = False
    """Whether every look is also taken in the mirror, its scores mirrored back."""

    def tiling(self, own: Tiling) -> Tiling:
        """Return how frames are looked at; own: what the model has when deployed.

        With tiles the whole picture stays in; without them it is what scale 1 shows.
        """
        deployed = own if self.tiles is None else Tiling(self.tiles)
        whole = deployed.whole and (deployed.tiles != "off" or 1.0 in self.scales)
        return replace(deployed, whole=whole, scales=self.scales, flips=self.flips)

    @property
    def named(self) -> tuple[str, ...]:
        """What tells such an evaluation from the usual one, for people."""
        tiles = () if self.tiles is None else (f"tiles {self.tiles}",)
        if self.scales == (1.0,) and not self.flips:
            return tiles
        scales = () if self.scales == (1.0,) else tuple(f"{scale:g}" for scale in self.scales)
        return (*tiles, f"tta {' '.join((*scales, *((FLIP,) if self.flips else ())))}")


AS_DEPLOYED = Looking()


def parse_augmentation(text: str) -> tuple[tuple[float, ...], bool]:
    """Return scales and whether to flip of a text such as `1,1.25,flip`, each scale once.

    Raises BadInputError for anything else, also for what is one look at the picture as it is, and for scales
    that show nearly the same.

    >>> parse_augmentation("flip"), parse_augmentation("1,1.5"), parse_augmentation("2, 1, flip")
    (((1.0,), True), ((1.0, 1.5), False), ((1.0, 2.0), True))
    """
    words = [word.strip().lower() for word in text.split(",")]
    try:
        scales = {float(word) for word in words if word != FLIP}
    except ValueError:
        raise BadInputError(
            f"--tta {shown(text)} is no augmentation; write scales such as 1,1.25,1.5, flip, or both with "
            "a comma between"
        ) from None
    for scale in scales:
        if not 1.0 <= scale <= MOST_SCALE:
            raise BadInputError(
                f"scale {scale:g} of --tta cannot be shown: a graph has one input size, which the whole "
                f"picture fills at 1; give scales from 1 to {MOST_SCALE:g}"
            )
    flips = FLIP in words
    if not flips and scales == {1.0}:
        raise BadInputError(
            "--tta 1 shows every picture once as it is, which changes nothing; add other scales or flip"
        )
    check_apart(sorted(scales))
    return tuple(sorted(scales or {1.0})), flips


def tiling_identity(tiling: Tiling) -> dict[str, Any]:
    """Return what tells it in the identity of a predictor, as JSON values; nothing of the whole picture
    alone, as earlier releases had it."""
    if tiling.is_off:
        return {}
    return {
        "tiling": {
            "tiles": str(tiling.tiles),
            "whole": tiling.whole,
            "scales": list(tiling.scales),
            "flips": tiling.flips,
        }
    }


def tiling_of(identity: Mapping[str, Any]) -> Tiling:
    """Return how the predictor of an identity looked at pictures."""
    said = identity.get("tiling")
    if said is None:
        return Tiling()
    return Tiling(parse_tiles(said["tiles"]), said["whole"], tuple(said["scales"]), said["flips"])


def idle_looks(
    identity: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
) -> tuple[tuple[str, int], ...]:
    """Return what of how a predictor looked showed nothing of its own, and in how many pictures.

    identity: of the predictor; sizes: height and width of every picture that it labelled.
    """
    tiling = tiling_of(identity)
    if tiling.is_off:
        return ()
    height, width = identity["model"]["size_hw"]
    counts: Counter[str] = Counter()
    for size, pictures in Counter(sizes).items():
        for what in tiling.idle(size, (height, width)):
            counts[what] += pictures
    return tuple(counts.items())


def idle_said(what: str, pictures: int, of: int) -> str:
    """Return an entry of `idle_looks` as a sentence; of: how many pictures were labelled."""
    return f"{what} changed nothing in {pictures} of {of} pictures, where it shows only what is seen without it"
