"""Tensors out of files that anybody may have written: safetensors, and tables as torch saves them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from dedos_deploy.borders import Refusal, foreign
from dedos_deploy.errors import shown
from dedos_deploy.files import check_regular

Shapes = Mapping[str, tuple[int, ...]]

_NAMED = 3
"""How many keys a message names before it only counts."""


def read_metadata(path: Path, refusal: Refusal) -> dict[str, str]:
    """Return the texts in the header of a safetensors file, or raise what `refusal` makes."""
    with foreign(refusal):
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})


def read_tensors(path: Path, refusal: Refusal) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the texts in the header and the tensors of a safetensors file, on the CPU.

    Never more than the file's own size is allocated: the library holds its header against that.
    """
    with foreign(refusal):
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            return metadata, {name: file.get_tensor(name) for name in file.keys()}


def read_weights(path: Path, refusal: Refusal, *, entry: str) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, or of a file as torch saves it, on the CPU.

    entry: where a file of torch keeps them, if it holds more than them. Never more than the file's own
    size is allocated, and nothing in it is run. Raises what `refusal` makes.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path, refusal)[1]
    with foreign(refusal):
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    if any("/code/" in one.filename for one in parts):
        raise refusal("it is a program of TorchScript, which would be run, and no table of tensors")
    if any(one.compress_type != zipfile.ZIP_STORED for one in parts):
        # torch never compresses; what is packed could be a thousand times its size.
        raise refusal("its parts are compressed, which torch does not do")
    with foreign(refusal):
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return _tensors(loaded, path, refusal, entry)


def _tensors(loaded: object, path: Path, refusal: Refusal, entry: str) -> dict[str, Tensor]:
    state = loaded.get(entry, loaded) if isinstance(loaded, dict) else loaded
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


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by its name."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


def difference(wanted: Shapes, found: Shapes, unused: Set[str]) -> str | None:
    """Return in what `found` differs from `wanted`, None if in nothing.

    unused: names that `found` may have beyond those.
    """
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


def load_strictly(module: torch.nn.Module, tensors: dict[str, Tensor], refusal: Refusal) -> None:
    """Copy `tensors` into `module`, every one and no other, or raise what `refusal` makes."""
    problem = mismatch(module, tensors)
    if problem is not None:
        raise refusal(problem)
    with foreign(refusal):
        module.load_state_dict(tensors)


def mismatch(module: torch.nn.Module, tensors: dict[str, Tensor]) -> str | None:
    """Return the first tensor that `module`, which may be on the meta device, has otherwise."""
    wanted = module.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            return f"{name} is missing"
        if name not in wanted:
            return f"{shown(name)} is not part of it"
        if tensors[name].shape != wanted[name].shape:
            return f"{name} is {shown(list(tensors[name].shape))}, not {list(wanted[name].shape)}"
    return None
