"""The files of a nano diffusion: weights and configurations as diffusers names them, and pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import Temporary, sweep, write_atomically

if TYPE_CHECKING:
    from diffusers import ConfigMixin

INDEX = "model_index.json"
GAP = 6
"""White pixels between the pictures of a sheet."""


def write_model(model: ConfigMixin, folder: Path) -> None:
    """Write what diffusers saves of a network or a scheduler into `folder`, each file whole.

    Raises BadInputError when it cannot be written.
    """
    sweep(folder.parent)
    try:
        draft = Temporary(folder, folder=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        model.save_pretrained(draft.path)
        folder.mkdir(parents=True, exist_ok=True)
        # Weights before the configuration that announces them.
        for file in sorted(draft.path.iterdir(), key=lambda path: path.suffix == ".json"):
            os.replace(file, folder / file.name)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        draft.discard()


def write_prompt(path: Path, embedding: Tensor) -> None:
    """Write the embedded empty prompt, float32 [1, tokens, width], as the tensor `embedding`."""
    write_bytes(path, save({"embedding": embedding.detach().float().cpu().contiguous()}))


def write_index(path: Path) -> None:
    """Write what lets diffusers open the folder as a StableDiffusionPipeline without a text encoder."""
    import diffusers

    absent = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "image_encoder")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        **{name: [None, None] for name in absent},
    }
    write_bytes(path, json.dumps(index, indent=2).encode() + b"\n")


def write_sheet(path: Path, panels: Sequence[NDArray[np.uint8]], *, columns: int = 1) -> None:
    """Write panels side by side as one PNG: each `columns` pictures wide, rows filled in order.

    panels: uint8 BGR [N, H, W, 3], the same N and size in all.
    """
    import cv2

    parts = [_tiled(panel, columns) for panel in panels]
    band = np.full((parts[0].shape[0], 2 * GAP, 3), 255, np.uint8)
    joined = [piece for part in parts for piece in (band, part)][1:]
    found, data = cv2.imencode(".png", np.concatenate(joined, axis=1))
    if not found:
        raise BadInputError(f"cannot encode the pictures of {path} as PNG")
    write_bytes(path, data.tobytes())


def _tiled(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for index, image in enumerate(images):
        y, x = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        sheet[y : y + height, x : x + width] = image
    return sheet


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises BadInputError when it cannot be written."""
    try:
        write_atomically(path, data)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> BadInputError:
    return BadInputError(f"cannot write {path}: {error}; free space or choose another --output")
