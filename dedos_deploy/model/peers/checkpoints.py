"""Reading checkpoints that the authors of SAN and CAT-Seg published, tensor by tensor."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.files import check_regular
from dedos_deploy.model.peers import cat_seg_weights, san_weights
from dedos_deploy.model.peers.cat_seg import CatSeg
from dedos_deploy.model.peers.clip_layout import Shapes
from dedos_deploy.model.peers.san import San
from dedos_deploy.model.tensor_files import load_strictly, read_tensors

Peer = San | CatSeg

_NAMED = 3
"""How many keys a message names before it only counts."""


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
    tensors = _read(path)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
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
    problem = _difference(peer.layout(config), shapes, peer.unused)
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


def _difference(wanted: Shapes, found: Shapes, unused: frozenset[str]) -> str | None:
    """Return in what `found` differs from `wanted`, None if in nothing."""
    missing = sorted(wanted.keys() - found.keys())
    surplus = sorted(found.keys() - wanted.keys() - unused)
    other = sorted(key for key in wanted.keys() & found.keys() if wanted[key] != found[key])
    shapes = [f"{key} {shown(list(found[key]))} instead of {list(wanted[key])}" for key in other]
    parts = [
        f"{len(items)} {what}: {_some(items)}"
        for what, items in (
            ("missing", missing),
            ("surplus", [shown(key) for key in surplus]),
            ("of another shape", shapes),
        )
        if items
    ]
    return "; ".join(parts) or None


def _some(items: Sequence[str]) -> str:
    more = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _read(path: Path) -> dict[str, Tensor]:
    refusal = partial(_unreadable, path)
    if path.suffix == ".safetensors":
        return read_tensors(path, refusal)[1]
    with foreign(refusal):
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            packed = any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist())
    if packed:
        # torch never compresses; what is packed could be a thousand times its size.
        raise refusal("its parts are compressed, which torch does not do")
    with foreign(refusal):
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return _tensors(loaded, path, refusal)


def _tensors(
    loaded: object, path: Path, refusal: Callable[[str], BadInputError]
) -> dict[str, Tensor]:
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not state:
        raise refusal("it holds no table of tensors")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise refusal(f"its entry {shown(key)} is not a named tensor")
    # Views may repeat a few bytes without end: nothing may claim more than was stored.
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if claimed > path.stat().st_size:
        raise refusal(f"its tensors claim {claimed} bytes, more than the file has")
    return dict(state)


def _unreadable(path: Path, reason: str) -> BadInputError:
    return BadInputError(
        f"checkpoint {path} is not a readable file of tensors ({reason}); download or copy it again, "
        "as a .pth of torch 1.6 or newer or as .safetensors"
    )
