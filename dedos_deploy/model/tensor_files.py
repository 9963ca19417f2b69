"""Tensors out of safetensors files that anybody may have written."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from dedos_deploy.borders import Refusal, foreign
from dedos_deploy.errors import shown
from dedos_deploy.files import check_regular


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
