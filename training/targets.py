"""Label maps turned into mask targets at the resolution of the score map.

Letters: B batch, K slots of the batch vocabulary, H, W label map, h, w target grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -1
"""Label of a pixel that nothing is known about: no loss term may see it."""

OTHER = -2
"""Label of a pixel whose class is known but is not in the batch vocabulary."""


@dataclass(frozen=True)
class MaskTargets:
    """Soft masks of one batch on an h x w grid.

    Classes it does not annotate may well be in the image, so nothing is learned about them from it.
    """

    coverage: Tensor
    """float32 [B, K, h, w], part of the cell's labelled pixels that show class k."""
    weight: Tensor
    """float32 [B, h, w], part of the cell's pixels that are labelled at all."""
    annotated: Tensor
    """bool [B, K], whether image b's data set annotates class k."""

    def present(self, image: int) -> Tensor:
        """Return int64 [n], the slots with at least one labelled pixel in `image`."""
        seen = self.coverage[image].flatten(1).sum(1) > 0
        return (seen & self.annotated[image]).nonzero().flatten()


def mask_targets(labels: Tensor, annotated: Tensor, grid_hw: tuple[int, int]) -> MaskTargets:
    """Return the soft masks of `labels` on a grid.

    labels: int64 [B, H, W], slot in [0, K), IGNORE or OTHER; annotated: bool [B, K].
    A nearest-neighbour mask would lose poles and signs that are thinner than a cell, and a soft
    one puts the bilinear upsampling's zero crossing where the real border is.
    """
    batch, height, width = labels.shape
    slots = annotated.shape[1]
    cells = grid_hw[0] * grid_hw[1]
    rows = torch.arange(height, device=labels.device) * grid_hw[0] // height
    columns = torch.arange(width, device=labels.device) * grid_hw[1] // width
    cell = (rows[:, None] * grid_hw[1] + columns[None, :]).flatten()

    flat = labels.flatten(1)
    # Row K collects OTHER, row K + 1 IGNORE, so that one bincount serves every pixel.
    row = torch.where(flat >= 0, flat, torch.where(flat == OTHER, slots, slots + 1))
    counts = torch.stack(
        [torch.bincount(r * cells + cell, minlength=(slots + 2) * cells) for r in row]
    ).reshape(batch, slots + 2, *grid_hw)
    labelled = counts[:, : slots + 1].sum(1)
    coverage = counts[:, :slots].float() / labelled.clamp(min=1)[:, None]
    total = counts.sum(1).clamp(min=1)
    return MaskTargets(coverage, labelled.float() / total, annotated)
