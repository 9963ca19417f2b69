"""Reading checkpoints that the authors of SAN and CAT-Seg published, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.model.peers import cat_seg_weights, san_weights
from dedos_deploy.model.peers.cat_seg import CatSeg
from dedos_deploy.model.peers.san import San
from dedos_deploy.model.tensor_files import (
    Shapes,
    difference,
    load_strictly,
    read_weights,
    shapes_of,
)

Peer = San | CatSeg


@dataclass(frozen=True)
class _Format:
    """How one peer stores its weights."""

    title: str
    """Name in messages."""
    marker: str
    """A tensor that only this peer has."""
    unused: frozenset[str]
    """Tensors that a checkpoint may have and inference needs not."""
    config_from_shapes: Callable[[Shapes], Any]
    """From shapes of tensors to sizes."""
    layout: Callable[[Any], dict[str, tuple[int, ...]]]
    """From sizes to the names that there must be, with their shapes."""
    converted: Callable[[dict[str, Tensor], Any], dict[str, Tensor]]
    """From the authors' tensors to ours."""
    build: Callable[[Any], Peer]
    """From sizes to our module."""


PEERS: dict[str, _Format] = {
    "san": _Format(
        "SAN",
        san_weights.MARKER,
        san_weights.UNUSED,
        san_weights.config_from_shapes,
        san_weights.layout,
        san_weights.converted,
        San,
    ),
    "catseg": _Format(
        "CAT-Seg",
        cat_seg_weights.MARKER,
        cat_seg_weights.UNUSED,
        cat_seg_weights.config_from_shapes,
        cat_seg_weights.layout,
        cat_seg_weights.converted,
        CatSeg,
    ),
}


def load_peer(path: Path | str, name: str, *, preset: str | None = None) -> Peer:
    """Return the model that a published checkpoint holds, in eval mode.

    path: a .pth as torch saves it (its `model` entry, if it has one) or a .safetensors; name: a key
    of PEERS; preset: the size it must have, such as `san-b`; by default whatever its shapes say.

    Raises BadInputError in one sentence when the file is missing or damaged, holds Python objects
    beside tensors, is of another model or size, or lacks or adds a tensor.
    """
    path, peer = Path(path), PEERS[name]
    if not path.is_file():
        raise BadInputError(f"checkpoint {path} does not exist; give the file that was published")
    tensors = read_weights(path, partial(_unreadable, path), entry="model")
    shapes = shapes_of(tensors)
    refusal = partial(_misfit, path, peer.title, _of_another(peer, shapes))
    try:
        config = peer.config_from_shapes(shapes)
    except BadInputError as error:
        raise refusal(str(error)) from error
    if preset is not None and config.preset != preset:
        raise BadInputError(
            f"checkpoint {path} is of {config.preset} (its CLIP is {config.clip.width} wide with "
            f"patches of {config.clip.patch}), not of {preset}; name that one, or give another file"
        )
    problem = difference(peer.layout(config), shapes, peer.unused)
    if problem is not None:
        raise refusal(problem)
    used = {key: value.float() for key, value in tensors.items() if key not in peer.unused}
    model = peer.build(config)
    load_strictly(model, peer.converted(used, config), refusal)
    return model.eval()


def _of_another(peer: _Format, shapes: Shapes) -> str:
    """Return the name of the peer whose checkpoint this is, "" unless it is another's."""
    others = (name for name, one in PEERS.items() if one is not peer and one.marker in shapes)
    return "" if peer.marker in shapes else next(others, "")


def _misfit(path: Path, title: str, other: str, reason: str) -> BadInputError:
    if other:
        return BadInputError(
            f"checkpoint {path} is of {PEERS[other].title}, not of {title}; read it as {other!r}"
        )
    return BadInputError(
        f"checkpoint {path} is not {title} as its authors publish it ({reason}); download it again "
        "or give another file"
    )


def _unreadable(path: Path, reason: str) -> BadInputError:
    return BadInputError(
        f"checkpoint {path} is not a readable file of tensors ({reason}); download or copy it again, "
        "as a .pth of torch 1.6 or newer or as .safetensors"
    )
