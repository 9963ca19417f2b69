"""Checkpoints: safetensors with the model's configuration and training record as JSON metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dedos_deploy.errors import BadInputError
from dedos_deploy.model.dedos import Dedos, build_model
from dedos_deploy.presets import ModelConfig, config_from_dict

FORMAT = "dedos-checkpoint-1"


def save_checkpoint(path: Path | str, model: Dedos, *, extra: dict[str, Any] | None = None) -> None:
    """Write `model` to `path` atomically.

    extra: JSON values kept beside the weights, such as step, words, sources of the training data.
    """
    path = Path(path)
    record = {
        "config": model.config.to_dict(),
        "bank_fill": model.proxy_queries.fill,
        "extra": extra or {},
    }
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata={"format": FORMAT, "dedos": json.dumps(record)})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise BadInputError(
            f"cannot write checkpoint {path}: {error}; free space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path | str, *, preset: str | None = None) -> tuple[Dedos, dict[str, Any]]:
    """Return the model of `path`, in eval mode, and the `extra` values saved with it.

    Raises BadInputError when the file is missing, damaged, or of a preset other than `preset`.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInputError(f"checkpoint {path} does not exist; give a file written by dedos-train")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            config, record = _record(path, metadata)
            if preset is not None and config.preset != preset:
                raise BadInputError(
                    f"checkpoint {path} is of preset {config.preset!r}, not {preset!r}; "
                    f"use --preset {config.preset} or leave it out"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise BadInputError(
            f"checkpoint {path} is not a readable safetensors file ({error}); train or copy it again"
        ) from error
    model = build_model(config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise BadInputError(
            f"checkpoint {path} does not fit its own configuration ({first}); train it again"
        ) from error
    model.proxy_queries.fill = record["bank_fill"]
    return model, record["extra"]


def _record(path: Path, metadata: dict[str, str]) -> tuple[ModelConfig, dict[str, Any]]:
    if metadata.get("format") != FORMAT:
        raise BadInputError(
            f"{path} is not a DEDOS checkpoint (format {metadata.get('format')!r}, expected "
            f"{FORMAT!r}); give a file written by dedos-train"
        )
    try:
        record = json.loads(metadata["dedos"])
        if record["bank_fill"] not in ("static", "ema", "calibrated"):
            raise ValueError(f"bank_fill {record['bank_fill']!r}")
        return config_from_dict(record["config"]), record
    except (KeyError, ValueError, TypeError) as error:
        raise BadInputError(
            f"checkpoint {path} has a damaged header ({error}); train or copy it again"
        ) from error
