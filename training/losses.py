"""The segmentation loss L_seg (Eq. 15) with deep supervision, and two auxiliary terms.

Letters: B batch, Q queries, K slots, M matched pairs, h, w grid.

The auxiliary terms are not in the paper. They are off for the paper's presets, whose CLIP trunk
arrives trained, and on for `nano`, whose trunk starts from nothing: a matched query teaches one
mask, while a dense term teaches every pixel in every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.training.matcher import Matches, match
from dedos_deploy.training.targets import IGNORE, MaskTargets, mask_targets

UNMATCHED_WEIGHT = 0.1
"""Weight of a query without target in L_cls: most queries have none, and would drown the rest."""

_FALSE_LIMIT = 0.9
"""Score from which the penalty of a wrong class goes on as a straight line, see `score_loss`."""


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term. cls, bce and dice are the lambdas of Eq. 15, equal in the paper."""

    cls: float = 1.0
    bce: float = 1.0
    dice: float = 1.0
    auxiliary: float = 1.0
    """Weight of each intermediate decoder layer's L_seg."""
    dense: float = 0.0
    """Cross-entropy of the pixel map's cosine logits (0: off)."""
    score: float = 0.0
    """Likelihood of the deployed scores (0: off)."""


@dataclass(frozen=True)
class Outputs:
    """What the model predicts for one batch."""

    layers: Sequence[tuple[Tensor, Tensor]]
    """(class logits [B, Q, K], mask logits [B, Q, h, w]) per decoder layer, final one last."""
    dense_logits: Tensor | None = None
    """[B, K, h', w'] or None."""


@dataclass(frozen=True)
class Totals:
    """What the terms are averaged over: counts of the labels of a whole step.

    They depend on labels alone, so they are known before any forward pass, and add up over
    micro-batches and processes. Every term is its own sum divided by them, which makes the gradient
    of a step the same however the step is cut into pieces.
    """

    images: float
    """B."""
    masks: float
    """Classes present, summed over images."""
    labelled: float
    """Images' worth of pixels with any label."""
    named: float
    """Images' worth of pixels whose class the batch asks for."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(a + b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[float, float, float, float]:
        return self.images, self.masks, self.labelled, self.named


def count_labels(labels: Tensor, annotated: Tensor) -> Totals:
    """Return the totals of labels int64 [B, H, W] and annotated bool [B, K]."""
    masks, named = 0, 0.0
    for image, known in zip(labels, annotated, strict=True):
        slots, counts = image[image >= 0].unique(return_counts=True)
        asked = known[slots]
        masks += int(asked.sum())
        named += float(counts[asked].sum()) / image.numel()
    labelled = float((labels != IGNORE).float().mean((1, 2)).sum())
    return Totals(float(len(labels)), float(masks), labelled, named)


def segmentation_loss(
    outputs: Outputs,
    labels: Tensor,
    annotated: Tensor,
    weights: LossWeights,
    totals: Totals | None = None,
    slot_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the total loss and its detached terms by name.

    labels: int64 [B, H, W], slot, IGNORE or OTHER; annotated: bool [B, K]; totals: of all pieces
    of the step (None: these images are the whole step); slot_weights: float32 [K], how much a pixel
    of each class counts in the terms `dense` and `score` (None: 1). Everything is computed in
    float32 whatever the precision of the logits.
    """
    class_logits, mask_logits = outputs.layers[-1]
    totals = totals or count_labels(labels, annotated)
    targets = mask_targets(labels, annotated, _grid(mask_logits))
    total = torch.zeros((), device=mask_logits.device)
    terms: dict[str, Tensor] = {}
    for depth, (classes, masks) in enumerate(reversed(outputs.layers)):
        factor = weights.auxiliary if depth else 1.0
        if factor == 0.0:
            break
        parts = layer_losses(classes.float(), masks.float(), targets, totals)
        total = total + factor * sum(getattr(weights, name) * part for name, part in parts.items())
        terms.update({name: part.detach() for name, part in parts.items()} if not depth else {})
    if weights.score:
        score = score_loss(class_logits.float(), mask_logits.float(), targets, totals, slot_weights)
        total, terms["score"] = total + weights.score * score, score.detach()
    if weights.dense and outputs.dense_logits is not None:
        logits = outputs.dense_logits.float()
        on_grid = mask_targets(labels, annotated, _grid(logits))
        dense = dense_loss(logits, on_grid, totals, slot_weights)
        total, terms["dense"] = total + weights.dense * dense, dense.detach()
    return total, terms


def layer_losses(
    class_logits: Tensor, mask_logits: Tensor, targets: MaskTargets, totals: Totals
) -> dict[str, Tensor]:
    """Return L_cls, L_bce and L_dice of one decoder layer under its own matching."""
    matches = match(class_logits, mask_logits, targets)
    masks = mask_logits[matches.images, matches.queries]
    soft = targets.coverage[matches.images, matches.slots]
    weight = targets.weight[matches.images]
    return {
        "cls": class_loss(class_logits, targets.annotated, matches, totals),
        "bce": mask_bce(masks, soft, weight, totals.masks),
        "dice": mask_dice(masks, soft, weight, totals.masks),
    }


def class_loss(class_logits: Tensor, annotated: Tensor, matches: Matches, totals: Totals) -> Tensor:
    """Return L_cls: sigmoid BCE summed over annotated classes, averaged over weighted queries.

    A matched query has target 1 for its class; every other (query, class) pair has target 0, with
    UNMATCHED_WEIGHT where the query has no target at all. The sum over classes keeps the pull on
    the right class independent of the vocabulary's size.
    """
    target = torch.zeros_like(class_logits)
    target[matches.images, matches.queries, matches.slots] = 1.0
    weight = torch.full_like(class_logits[..., 0], UNMATCHED_WEIGHT)
    weight[matches.images, matches.queries] = 1.0
    bce = F.binary_cross_entropy_with_logits(class_logits, target, reduction="none")
    per_query = (bce * annotated[:, None, :]).sum(2)
    queries = class_logits.shape[1]
    unmatched = totals.images * queries - totals.masks
    return (per_query * weight).sum() / (totals.masks + UNMATCHED_WEIGHT * unmatched)


def mask_bce(masks: Tensor, soft: Tensor, weight: Tensor, count: float) -> Tensor:
    """Return L_bce over matched masks: BCE averaged over labelled pixels, summed, over `count`.

    masks: logits [M, h, w]; soft: [M, h, w] in [0, 1]; weight: [M, h, w], 0 where nothing is known;
    count: masks of the whole step.
    """
    bce = F.binary_cross_entropy_with_logits(masks, soft, reduction="none")
    per_mask = (bce * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)
    return per_mask.sum() / max(count, 1.0)


def mask_dice(masks: Tensor, soft: Tensor, weight: Tensor, count: float) -> Tensor:
    """Return L_dice over matched masks, smoothed by one pixel; arguments as in `mask_bce`."""
    probabilities = masks.sigmoid() * weight
    overlap = (probabilities * soft).sum((1, 2))
    sizes = probabilities.sum((1, 2)) + (soft * weight).sum((1, 2))
    return (1 - (2 * overlap + 1) / (sizes + 1)).sum() / max(count, 1.0)


def dense_loss(
    logits: Tensor, targets: MaskTargets, totals: Totals, slot_weights: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of `logits` [B, K, h, w] over each image's annotated classes.

    Cells count by how much of them is labelled with a class of the vocabulary, and by that class's
    weight in `slot_weights` [K].
    """
    blocked = ~targets.annotated[:, :, None, None]
    log_probabilities = logits.masked_fill(blocked, -1e4).log_softmax(1)
    mass = _weighted(targets.coverage * targets.weight[:, None] * ~blocked, slot_weights)
    cells = mass.shape[2] * mass.shape[3]
    return -(mass * log_probabilities).sum() / max(totals.named * cells, 1e-6)


def score_loss(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: MaskTargets,
    totals: Totals,
    slot_weights: Tensor | None = None,
) -> Tensor:
    """Return the negative log-likelihood of the deployed scores, per labelled cell.

    With S[k] = sum over q of sigmoid(class) sigmoid(mask), the unclipped score, a cell of class y
    costs -log(S[y] / sum of S), which makes the arg-max right, plus binary terms that keep the
    scores meaningful for thresholds: -log(min(S[y], 1)) and, for every other class, -log(1 - S).
    The latter goes on as its tangent above 0.9, because clipping there would stop the gradient
    exactly where the score is most wrong. `slot_weights` [K] weigh the first two terms by y.
    """
    grid = mask_logits.shape[2:]
    scores = class_logits.sigmoid().transpose(1, 2) @ mask_logits.sigmoid().flatten(2)
    scores = scores.reshape(*scores.shape[:2], *grid) + 1e-6
    known = targets.annotated[:, :, None, None]
    weight = targets.weight[:, None]
    mass = _weighted(targets.coverage * weight * known, slot_weights)
    # The clamp is for an image none of whose classes are in the vocabulary: mass 0, not NaN.
    log_total = (scores * known).sum(1, keepdim=True).clamp(min=1e-6).log()
    right = log_total - scores.log() - scores.clamp(max=1.0).log()
    wrong_mass = (1 - targets.coverage) * weight * known
    wrong = _minus_log_complement(scores)
    area = max(totals.labelled * grid[0] * grid[1], 1e-6)
    return ((mass * right).sum() + (wrong_mass * wrong).sum()) / area


def _weighted(mass: Tensor, slot_weights: Tensor | None) -> Tensor:
    return mass if slot_weights is None else mass * slot_weights[None, :, None, None]


def _minus_log_complement(scores: Tensor) -> Tensor:
    near: Tensor = -torch.log1p(-scores.clamp(max=_FALSE_LIMIT))
    return near + (scores - _FALSE_LIMIT).clamp(min=0.0) / (1 - _FALSE_LIMIT)


def _grid(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
