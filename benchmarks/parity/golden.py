"""A small model of theirs with what it computes, as the tests keep it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from parity.authors import enliven
from parity.models import BUILDERS
from parity.pictures import Inputs

GOLDEN_HW = {"san": (80, 160), "catseg": (96, 128)}
GOLDEN_SLOTS = 5


def write_golden(name: str, repository: Path, path: Path) -> None:
    """Write a small model of theirs, its input and what their code makes of it, as one .npz.

    Entries: `tensor:NAME` for their state dict, whose weights are exact in float16; image, text;
    scores float32 [K, H / 4, W / 4], before any clipping.
    """
    torch.manual_seed(3)
    build, sizes = BUILDERS[name]
    size = sizes["micro"]
    authors = build(repository, size)
    with torch.no_grad():
        enliven(authors.network, 0.2)
        for value in authors.network.parameters():
            value.copy_(value.half().float())
        inputs = Inputs.random(GOLDEN_HW[name], GOLDEN_SLOTS, size.clip[2])
        scores = authors.scores(inputs.rgb, inputs.text)
    state = {
        f"tensor:{key}": value.half().numpy() for key, value in authors.network.state_dict().items()
    }
    np.savez_compressed(
        path,
        image=inputs.image.numpy(),
        text=inputs.text.numpy(),
        scores=scores.numpy(),
        **state,  # type: ignore[arg-type]
    )
