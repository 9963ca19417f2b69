"""What others have published that becomes a bundle here: where it lies, whose terms it has, how large it
is, and whether it is on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from dedos_deploy.errors import BadInputError, require
from dedos_deploy.model.clip_layout import clip_shapes
from dedos_deploy.model.hub_files import HubFile, published_sha256
from dedos_deploy.model.open_clip_files import clip_facts, tag_file, terms
from dedos_deploy.presets import DENSE_PRESETS, ClipConfig

_SAN = "Mendel192/san"
_CAT_SEG = "hamacojr/CAT-Seg-weights"
_PEERS = {
    "san-b": HubFile(_SAN, ("san_vit_b_16.pth",)),
    "san-l": HubFile(_SAN, ("san_vit_large_14.pth",)),
    "catseg-b": HubFile(_CAT_SEG, ("model_base.pth",), space=True),
    "catseg-l": HubFile(_CAT_SEG, ("model_large.pth",), space=True),
}
"""Under MIT licence, like all of the code of their authors."""

State = Literal["absent", "cached", "unverified", "damaged"]


@dataclass(frozen=True)
class Weights:
    """One published file of weights, and its state on this machine."""

    use: str
    """Options of dedos-export that take it."""
    licence: str
    address: str
    """Its page, without https://."""
    file: str
    """Its name there; of older and newer repositories both."""
    bytes: int | None
    """Size as counted from its shapes in float32, or that of the cached file; None if neither is known."""
    state: State
    """`cached` files have the published hash; `unverified` ones lie in a cache that lost it."""
    path: str | None = None
    """Of the cached file."""
    problem: str = ""
    """Of a damaged one, with what to do about it."""


def published_weights() -> list[Weights]:
    """Return everything that is known, cached files held against their hash. Asks nobody.

    Raises MissingExtraError without open_clip.
    """
    open_clip = require("open_clip", extra="export", purpose="listing published weights")
    clips = [weights for row in _tags(open_clip) for weights in [_clip(*row)]]
    return clips + [
        _looked_up(file, f"--from {kind}:{file.names[0]}", "MIT", None)
        for kind, file in _PEERS.items()
    ]


def _tags(open_clip: ModuleType) -> Iterator[tuple[str, str, ClipConfig, HubFile]]:
    """Yield preset, tag, architecture and file of all that fit a dense preset."""
    for name, preset in DENSE_PRESETS.items():
        quick = preset.clip.activation == "quick_gelu"
        for tag in open_clip.list_pretrained_tags_by_model(preset.clip.architecture):
            if clip_facts(open_clip, preset.clip, tag).quick_gelu == quick:
                yield name, tag, preset.clip, tag_file(open_clip, preset.clip, tag)


def _clip(preset: str, tag: str, clip: ClipConfig, file: HubFile) -> Weights:
    size = 4 * sum(math.prod(shape) for shape in clip_shapes(clip).values())
    return _looked_up(file, f"--preset {preset} --clip-weights {tag}", terms(tag, file)[0], size)


def _looked_up(file: HubFile, use: str, licence: str, size: int | None) -> Weights:
    path = file.cached()
    if path is None:
        name = " or ".join(file.names)
        return Weights(use, licence, file.home, name, size, "absent")
    state, problem = _state(file, path)
    size = path.stat().st_size
    return Weights(use, licence, file.home, path.name, size, state, str(path), problem)


def _state(file: HubFile, path: Path) -> tuple[State, str]:
    try:
        file.checked(path)
    except BadInputError as error:
        return "damaged", str(error)
    return ("unverified" if published_sha256(path) is None else "cached"), ""
