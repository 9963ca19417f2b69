"""Bipartite matching of proxy queries to the classes present in an image (Eq. 15's matcher).

Letters: Q queries, K slots, N classes present in one image, P grid cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.training.targets import MaskTargets

MATCH_POINTS = 12544
"""Cells used to compare masks; finer maps are sampled. 112 x 112, as Mask2Former's recipe."""


@dataclass(frozen=True)
class Matches:
    """Matched triples of a batch, all int64 [M]: image, query, and slot of the batch vocabulary."""

    images: Tensor
    queries: Tensor
    slots: Tensor

    def __len__(self) -> int:
        return len(self.images)


@torch.no_grad()
def match(class_logits: Tensor, mask_logits: Tensor, targets: MaskTargets) -> Matches:
    """Return the cheapest one-to-one matching of queries to present classes, image by image.

    class_logits: [B, Q, K]; mask_logits: [B, Q, h, w]; the targets live on the same grid.
    The cost of a pair is L_cls + L_bce + L_dice with equal weights, as in the loss itself. With
    more classes than queries the dearest classes stay unmatched.
    """
    points = _sampled_cells(mask_logits)
    masks = mask_logits.flatten(2)[..., points].float()
    weights = targets.weight.flatten(1)[..., points]
    triples: list[Tensor] = []
    for image in range(len(masks)):
        present = targets.present(image)
        if not len(present):
            continue
        soft = targets.coverage[image, present].flatten(1)[:, points]
        cost = pair_costs(
            class_logits[image][:, present].float(), masks[image], soft, weights[image]
        )
        # A diverged model must reach the loop's own check of the loss, which keeps the batch.
        cost = cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        queries = torch.as_tensor(rows, device=masks.device)
        slots = present[torch.as_tensor(columns, device=masks.device)]
        triples.append(torch.stack([torch.full_like(queries, image), queries, slots]))
    if not triples:
        empty = torch.zeros(0, dtype=torch.int64, device=masks.device)
        return Matches(empty, empty, empty)
    images, queries, slots = torch.cat(triples, dim=1)
    return Matches(images, queries, slots)


def pair_costs(logits: Tensor, masks: Tensor, soft: Tensor, weight: Tensor) -> Tensor:
    """Return [Q, N], the cost of giving query q the target n of one image.

    logits: [Q, N] class logits of the present classes; masks: [Q, P] mask logits;
    soft: [N, P] soft masks in [0, 1]; weight: [P] labelled part of each cell.
    """
    weighted = soft * weight
    area = weight.sum().clamp(min=1e-6)
    # BCE(m, t) = softplus(m) - m t, so both sums over P are matrix products.
    bce = ((F.softplus(masks) @ weight)[:, None] - masks @ weighted.T) / area
    probabilities = masks.sigmoid()
    overlap = probabilities @ weighted.T
    sizes = (probabilities @ weight)[:, None] + weighted.sum(1)[None, :]
    dice = 1 - (2 * overlap + 1) / (sizes + 1)
    return F.softplus(-logits) + bce + dice


def _sampled_cells(mask_logits: Tensor) -> Tensor:
    cells = mask_logits.shape[2] * mask_logits.shape[3]
    if cells <= MATCH_POINTS:
        return torch.arange(cells, device=mask_logits.device)
    return torch.randperm(cells, device=mask_logits.device)[:MATCH_POINTS]
