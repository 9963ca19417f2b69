"""Checkpoints: safetensors with the model's configuration and training record as JSON metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from dedos_deploy.borders import foreign
from dedos_deploy.config_json import config_from_dict
from dedos_deploy.errors import BadInputError, listed, shown
from dedos_deploy.fields import FieldError, checked, load_json
from dedos_deploy.files import write_atomically
from dedos_deploy.model.build import build_model
from dedos_deploy.model.dedos import Dedos
from dedos_deploy.model.tensor_files import load_strictly, read_metadata, read_tensors
from dedos_deploy.presets import ModelConfig

FORMAT = "dedos-checkpoint-1"
TOKEN_TABLE = "text_tower.token_embedding.weight"
_SCALE = ".scale"
TABLE_STEPS = 19
"""Steps on each side of zero in a compact token table: cosine above 0.998 to the original, and
entropy low enough that zip takes a third off the int8 table."""

MATRIX_STEPS = 127
SMALLEST_MATRIX = 4096
"""Numbers from which a weight matrix or kernel is worth int8 in a compact checkpoint."""

SCALE_BITS = 12
"""Significant bits of an int8 row's scale: its products with whole numbers up to 127 are then exact in
float32, so that whoever reads the rounded weights finds the same whole numbers again."""


def save_checkpoint(
    path: Path | str, model: Dedos, *, extra: dict[str, Any] | None = None, compact: bool = False
) -> None:
    """Write `model` to `path` atomically.

    extra: JSON values kept beside the weights, such as step, words, sources of the training data;
    compact: store matrices and kernels as int8 with a scale per row, the rest as float16, at a
    quarter of the size; the rounded weights are then the model, and its export loses nothing more.

    Raises BadInputError when the file cannot be written.
    """
    record = {
        "config": model.config.to_dict(),
        "bank_fill": model.proxy_queries.fill,
        "extra": extra or {},
    }
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    if compact:
        tensors = _compact(tensors)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    metadata = {"format": FORMAT, "dedos": json.dumps(record)}
    try:
        write_atomically(Path(path), save(tensors, metadata=metadata))
    except OSError as error:
        raise BadInputError(
            f"cannot write checkpoint {path} ({error.strerror or error}); make room or choose "
            "another folder"
        ) from error


def _compact(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if not _is_matrix(name, value):
            out[name] = value.half() if value.is_floating_point() else value
            continue
        rows = value.float().flatten(1)
        steps = TABLE_STEPS if name == TOKEN_TABLE else MATRIX_STEPS
        scale = _short(rows.abs().amax(1, keepdim=True) / steps)
        out[name] = (rows / scale).round().to(torch.int8).reshape(value.shape)
        out[f"{name}{_SCALE}"] = scale
    return out


def _is_matrix(name: str, value: Tensor) -> bool:
    weight = name.endswith(".weight") and value.is_floating_point() and value.ndim >= 2
    return weight and value.numel() >= SMALLEST_MATRIX


def _short(scale: Tensor) -> Tensor:
    """Return positive scales rounded up to SCALE_BITS significant bits; those of empty rows are 1."""
    fraction, exponent = torch.frexp(torch.where(scale > 0, scale, 1.0))
    whole = (fraction * 2**SCALE_BITS).ceil()
    return torch.ldexp(whole, exponent - SCALE_BITS)


def _expanded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `_compact`; plain checkpoints pass unchanged. Raises ValueError for a scale that fits no
    tensor."""
    for name in [name for name in tensors if name.endswith(_SCALE)]:
        scale, weight = tensors.pop(name), name.removesuffix(_SCALE)
        codes = tensors.get(weight, torch.empty(0)).float()
        if codes.ndim < 2 or scale.shape != (len(codes), 1):
            raise ValueError(f"{name[:100]!r} is not one scale per row")
        tensors[weight] = (codes.flatten(1) * scale).reshape(codes.shape)
    return {name: v.float() if v.is_floating_point() else v for name, v in tensors.items()}


def load_checkpoint(path: Path | str, *, preset: str | None = None) -> tuple[Dedos, dict[str, Any]]:
    """Return the model of `path`, in eval mode, and the `extra` values saved with it.

    Raises BadInputError when the file is missing, damaged, or of a preset other than `preset`.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInputError(f"checkpoint {path} does not exist; give a file written by dedos-train")
    metadata, tensors = read_tensors(path, partial(_unreadable, path))
    config, record = _record(path, metadata)
    if preset is not None and config.preset != preset:
        raise BadInputError(
            f"checkpoint {path} is of preset {shown(config.preset)}, not {preset!r}; "
            f"use --preset {listed([config.preset])} or leave it out"
        )
    try:
        tensors = _expanded(tensors)
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    model = _model_of(path, config, tensors)
    model.proxy_queries.fill = record["bank_fill"]
    return model, record["extra"]


def is_checkpoint(path: Path) -> bool:
    """Return whether a file says of itself that `save_checkpoint` wrote it."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        return read_metadata(path, partial(_unreadable, path)).get("format") == FORMAT
    except BadInputError:
        return False


def _model_of(path: Path, config: ModelConfig, tensors: dict[str, Tensor]) -> Dedos:
    def refusal(reason: str) -> BadInputError:
        return BadInputError(
            f"checkpoint {path} does not fit its own configuration ({reason}); train it again"
        )

    # First: a few bytes of a file must not decide how much is allocated.
    held, needed = sum(value.numel() for value in tensors.values()), least_numbers(config)
    if needed > held:
        raise refusal(f"it needs {needed} numbers at least, the file holds {held}")
    with foreign(refusal):
        model = build_model(config)
    load_strictly(model, tensors, refusal)
    return model


def least_numbers(config: ModelConfig) -> int:
    """Return how many numbers the weights of a model hold at least; all others grow with these.

    Counted are transformer blocks, token table and positions: 96 % of the large presets.
    """
    clip, text, width = config.clip, config.clip.text, config.query_width
    decoder_block = 8 * width**2 + 2 * width * config.decoder_ffn
    return (
        (clip.layers * 12 * clip.width + clip.grid**2) * clip.width
        + text.layers * 12 * text.width**2
        + text.tokens * text.width
        + config.decoder_layers * decoder_block
        + config.pixel_layers * 2 * width * config.pixel_ffn
        + config.text_blocks * (6 * width + 2 * clip.text_width) * width
    )


def _unreadable(path: Path, reason: str) -> BadInputError:
    return BadInputError(
        f"checkpoint {path} is not a readable safetensors file ({reason}); train or copy it again"
    )


@dataclass(frozen=True)
class _Header:
    """What a checkpoint says of itself; see `save_checkpoint`."""

    config: Any
    bank_fill: Literal["static", "ema", "calibrated"]
    extra: dict[str, Any]


def _record(path: Path, metadata: dict[str, str]) -> tuple[ModelConfig, dict[str, Any]]:
    if metadata.get("format") != FORMAT:
        raise BadInputError(
            f"{path} is not a DEDOS checkpoint (format {shown(metadata.get('format'))}, expected "
            f"{FORMAT!r}); give a file written by dedos-train"
        )
    try:
        record = load_json(metadata.get("dedos", ""))
        header: _Header = checked(_Header, record, "")
        return config_from_dict(header.config), {
            "bank_fill": header.bank_fill,
            "extra": header.extra,
        }
    except (FieldError, BadInputError) as error:
        raise BadInputError(
            f"checkpoint {path} has a damaged header ({error}); train or copy it again"
        ) from error
