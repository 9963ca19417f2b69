"""Freezing a peer: preprocessing and positions become constants, as in `dedos_deploy.model.freeze`."""

from __future__ import annotations

import copy

import torch

from dedos_deploy.model.blocks import Arithmetic
from dedos_deploy.model.clip_trunk import ClipTrunk, PatchEmbedding, PositionEmbedding
from dedos_deploy.model.freeze import halve
from dedos_deploy.model.peers.checkpoints import Peer
from dedos_deploy.model.peers.san import SIDE_PATCH, San, SideAdapter


def freeze_peer(
    model: Peer,
    *,
    size_hw: tuple[int, int],
    precision: Arithmetic = "fp32",
    score_dtype: torch.dtype = torch.float32,
) -> Peer:
    """Return an independent copy of `model` ready for export at one input size, without text tower.

    Raises BadInputError when `size_hw` does not fit.
    """
    height, width = model.config.check_size(size_hw)
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    del frozen.text_tower
    clip_hw, patch = model.config.clip_hw((height, width)), model.config.clip.patch
    _fold(frozen.trunk, (clip_hw[0] // patch, clip_hw[1] // patch))
    if isinstance(frozen, San):
        _fold(frozen.side, (height // SIDE_PATCH, width // SIDE_PATCH))
    if precision == "fp16":
        halve(frozen)
    frozen.score_dtype = score_dtype
    return frozen


def _fold(part: ClipTrunk | SideAdapter, grid_hw: tuple[int, int]) -> None:
    """Fold preprocessing into the patch embedding of `part`, and its positions at one grid."""
    if isinstance(part.patch_embedding, PatchEmbedding):
        part.patch_embedding = part.patch_embedding.folded()
    if isinstance(part.position, PositionEmbedding):
        part.position = part.position.frozen(grid_hw)
