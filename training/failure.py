"""What is kept of a step whose loss or gradient is not a finite number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.files import write_atomically
from dedos_deploy.training.data import Batch

FAILED = "failed_step.safetensors"


class DivergedError(DedosError):
    """The loss, a gradient or a score is not a finite number."""


def failed_path(output: Path, rank: int) -> Path:
    """Return where process `rank` keeps its part of a failed step."""
    return output / (FAILED if rank == 0 else FAILED.replace(".", f".{rank}.", 1))


def save_failed_step(path: Path, micro: Sequence[Batch], words: Sequence[str], step: int) -> None:
    """Write the micro-batches of a step as tensors `<number>.images` and so on.

    words: the union vocabulary that `slots` index; those of each micro-batch are in the metadata.
    The number is left out where there is one micro-batch.

    Raises BadInputError when the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for number, batch in enumerate(micro):
        prefix = f"{number}." if len(micro) > 1 else ""
        for name in ("images", "labels", "annotated", "whole", "scenes"):
            value = getattr(batch, name)
            if value is not None:
                tensors[prefix + name] = value.contiguous()
    named = [[words[slot] for slot in batch.slots] for batch in micro]
    metadata = {"step": str(step), "words": json.dumps(named)}
    try:
        write_atomically(path, save(tensors, metadata=metadata))
    except OSError as error:
        raise BadInputError(
            f"step {step} is not finite, and its batch cannot be written to {path} "
            f"({error.strerror or error}); make room and --resume to meet it again"
        ) from error
