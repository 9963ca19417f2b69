"""Every loss term against a float64 reference written as loops over pixels, queries and classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dedos_deploy.training.losses import (
    UNMATCHED_WEIGHT,
    LossWeights,
    Outputs,
    Totals,
    class_loss,
    count_labels,
    dense_loss,
    mask_bce,
    mask_dice,
    score_loss,
    segmentation_loss,
)
from dedos_deploy.training.matcher import Matches
from dedos_deploy.training.targets import IGNORE, OTHER, MaskTargets, mask_targets


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce(x: float, target: float) -> float:
    p = sigmoid(x)
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def soft_targets(seed: int, batch: int, slots: int, h: int, w: int) -> MaskTargets:
    random = torch.Generator().manual_seed(seed)
    coverage = torch.rand(batch, slots + 1, h, w, generator=random)
    coverage = (coverage / coverage.sum(1, keepdim=True))[:, :slots]
    weight = torch.rand(batch, h, w, generator=random)
    weight[0, 0] = 0
    annotated = torch.ones(batch, slots, dtype=torch.bool)
    annotated[0, -1] = False
    coverage[0, -1] = 0
    return MaskTargets(coverage, weight, annotated)


def of_cells(targets: MaskTargets) -> Totals:
    """Return the totals that soft targets stand for, images in cells."""
    mass = targets.coverage * targets.weight[:, None] * targets.annotated[:, :, None, None]
    cells = targets.weight[0].numel()
    masks = sum(len(targets.present(image)) for image in range(len(targets.weight)))
    return Totals(
        float(len(targets.weight)),
        float(masks),
        float(targets.weight.sum()) / cells,
        float(mass.sum()) / cells,
    )


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def test_class_loss_equals_loops() -> None:
    logits = normal(0, 2, 4, 3)
    annotated = torch.tensor([[True, True, False], [True, True, True]])
    matches = Matches(torch.tensor([0, 1, 1]), torch.tensor([2, 0, 3]), torch.tensor([1, 2, 0]))
    targets = {(0, 2): 1, (1, 0): 2, (1, 3): 0}
    total = weights = 0.0
    for b in range(2):
        for q in range(4):
            weight = 1.0 if (b, q) in targets else UNMATCHED_WEIGHT
            weights += weight
            for k in range(3):
                if annotated[b, k]:
                    hit = float(targets.get((b, q)) == k)
                    total += weight * bce(float(logits[b, q, k]), hit)
    totals = Totals(images=2.0, masks=3.0, labelled=2.0, named=2.0)
    assert class_loss(logits, annotated, matches, totals) == pytest.approx(
        total / weights, rel=1e-5
    )


def test_mask_losses_equal_loops() -> None:
    masks, soft = normal(1, 3, 4, 5), torch.rand(3, 4, 5)
    weight = torch.rand(3, 4, 5)
    weight[1] = 0
    bces, dices = [], []
    for m in range(3):
        cells = [(y, x) for y in range(4) for x in range(5)]
        area = sum(float(weight[m, y, x]) for y, x in cells)
        loss = sum(
            float(weight[m, y, x]) * bce(float(masks[m, y, x]), float(soft[m, y, x]))
            for y, x in cells
        )
        bces.append(loss / area if area else 0.0)
        overlap = sizes = 0.0
        for y, x in cells:
            p, t, w = sigmoid(float(masks[m, y, x])), float(soft[m, y, x]), float(weight[m, y, x])
            overlap, sizes = overlap + w * p * t, sizes + w * (p + t)
        dices.append(1 - (2 * overlap + 1) / (sizes + 1))
    assert mask_bce(masks, soft, weight, 3.0) == pytest.approx(np.mean(bces), rel=1e-5)
    assert mask_dice(masks, soft, weight, 3.0) == pytest.approx(np.mean(dices), rel=1e-5)


def test_dense_loss_equals_loops() -> None:
    logits, targets = normal(2, 2, 3, 4, 5), soft_targets(3, 2, 3, 4, 5)
    total = mass = 0.0
    for b in range(2):
        known = [k for k in range(3) if targets.annotated[b, k]]
        for y in range(4):
            for x in range(5):
                norm = math.log(sum(math.exp(float(logits[b, k, y, x])) for k in known))
                for k in known:
                    part = float(targets.coverage[b, k, y, x]) * float(targets.weight[b, y, x])
                    total -= part * (float(logits[b, k, y, x]) - norm)
                    mass += part
    assert dense_loss(logits, targets, of_cells(targets)) == pytest.approx(total / mass, rel=1e-5)


def test_score_loss_equals_loops() -> None:
    classes, masks = normal(4, 2, 6, 3) - 2, normal(5, 2, 6, 4, 5)
    targets = soft_targets(6, 2, 3, 4, 5)
    total = area = 0.0
    for b in range(2):
        known = [k for k in range(3) if targets.annotated[b, k]]
        for y in range(4):
            for x in range(5):
                score = {
                    k: 1e-6
                    + sum(
                        sigmoid(float(classes[b, q, k])) * sigmoid(float(masks[b, q, y, x]))
                        for q in range(6)
                    )
                    for k in known
                }
                weight = float(targets.weight[b, y, x])
                area += weight
                for k, s in score.items():
                    part = float(targets.coverage[b, k, y, x])
                    right = -math.log(s / sum(score.values())) - math.log(min(s, 1))
                    wrong = -math.log(1 - s) if s < 0.9 else math.log(10) + 10 * (s - 0.9)
                    total += weight * (part * right + (1 - part) * wrong)
    assert score_loss(classes, masks, targets, of_cells(targets)) == pytest.approx(
        total / area, rel=1e-4
    )


def test_a_wrong_score_above_one_still_has_a_gradient() -> None:
    classes = torch.full((1, 4, 2), 3.0, requires_grad=True)
    masks = torch.full((1, 4, 1, 1), 3.0)
    coverage = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    targets = MaskTargets(coverage, torch.ones(1, 1, 1), torch.ones(1, 2, dtype=torch.bool))
    score_loss(classes, masks, targets, of_cells(targets)).backward()
    assert classes.grad is not None and (classes.grad[..., 1] > 0.01).all()


def test_targets_count_pixels_of_each_cell() -> None:
    labels = torch.tensor([[[0, 0, 1, IGNORE], [OTHER, 0, 1, IGNORE], [2, 2, 2, 2], [2, 2, 2, 2]]])
    targets = mask_targets(labels, torch.ones(1, 3, dtype=torch.bool), (2, 2))
    assert targets.coverage[0, :, 0, 0].tolist() == [0.75, 0.0, 0.0]
    assert targets.coverage[0, :, 0, 1].tolist() == [0.0, 1.0, 0.0]
    assert targets.coverage[0, 2, 1].tolist() == [1.0, 1.0]
    assert targets.weight[0].tolist() == [[1.0, 0.5], [1.0, 1.0]]
    assert targets.present(0).tolist() == [0, 1, 2]


def problem(requires_grad: bool = True) -> tuple[Outputs, Tensor, Tensor]:
    layers = tuple(
        (
            normal(10 + i, 2, 5, 3).requires_grad_(requires_grad),
            normal(20 + i, 2, 5, 8, 8).requires_grad_(requires_grad),
        )
        for i in range(3)
    )
    labels = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(7))
    annotated = torch.ones(2, 3, dtype=torch.bool)
    dense = normal(30, 2, 3, 4, 4).requires_grad_(requires_grad)
    return Outputs(layers, dense), labels, annotated


FULL = LossWeights(dense=1.0, score=1.0)


def test_ignored_pixels_have_no_gradient() -> None:
    outputs, labels, annotated = problem()
    labels[:, :16] = IGNORE
    segmentation_loss(outputs, labels, annotated, FULL)[0].backward()
    for _, masks in outputs.layers:
        assert masks.grad is not None
        assert masks.grad[:, :, :4].abs().max() == 0
        assert masks.grad[:, :, 4:].abs().max() > 0
    assert outputs.dense_logits is not None and outputs.dense_logits.grad is not None
    assert outputs.dense_logits.grad[:, :, :2].abs().max() == 0


def test_classes_that_a_data_set_does_not_annotate_have_no_gradient() -> None:
    outputs, labels, annotated = problem()
    annotated[0, 2] = False
    labels[0][labels[0] == 2] = OTHER
    segmentation_loss(outputs, labels, annotated, FULL)[0].backward()
    for classes, _ in outputs.layers:
        assert classes.grad is not None
        assert classes.grad[0, :, 2].abs().max() == 0
        assert classes.grad[1, :, 2].abs().max() > 0


def test_an_image_without_any_label_gives_a_finite_loss() -> None:
    outputs, labels, annotated = problem()
    labels[:] = IGNORE
    loss, _ = segmentation_loss(outputs, labels, annotated, FULL)
    loss.backward()
    assert torch.isfinite(loss)


def test_an_image_none_of_whose_classes_are_asked_for_gives_a_finite_loss() -> None:
    """Dropping words can leave an image without a single annotated slot."""
    outputs, labels, annotated = problem()
    annotated[0] = False
    labels[0] = OTHER
    loss, _ = segmentation_loss(outputs, labels, annotated, FULL)
    loss.backward()
    assert torch.isfinite(loss)
    for classes, masks in outputs.layers:
        assert classes.grad is not None and torch.isfinite(classes.grad).all()
        assert masks.grad is not None and torch.isfinite(masks.grad).all()


def test_terms_add_up_with_equal_weights_over_all_layers() -> None:
    outputs, labels, annotated = problem(requires_grad=False)
    total, _ = segmentation_loss(outputs, labels, annotated, LossWeights())
    alone = [
        segmentation_loss(Outputs((layer,)), labels, annotated, LossWeights())[1]
        for layer in outputs.layers
    ]
    assert total == pytest.approx(
        sum(float(v) for terms in alone for v in terms.values()), rel=1e-5
    )
    assert set(alone[0]) == {"cls", "bce", "dice"}


def test_no_auxiliary_term_is_computed_under_the_papers_weights() -> None:
    outputs, labels, annotated = problem(requires_grad=False)
    assert set(segmentation_loss(outputs, labels, annotated, LossWeights())[1]) == {
        "cls",
        "bce",
        "dice",
    }


def test_pieces_of_a_step_add_up_to_the_step() -> None:
    random = torch.Generator().manual_seed(8)
    labels = torch.randint(-2, 3, (4, 16, 16), generator=random)
    labels[1] = IGNORE
    labels[2, :8] = IGNORE
    annotated = torch.rand(4, 3, generator=random) > 0.3
    classes, masks = normal(9, 4, 5, 3), normal(10, 4, 5, 8, 8)
    early, dense = normal(11, 4, 5, 3), normal(12, 4, 3, 4, 4)
    outputs = Outputs(((early, masks), (classes, masks)), dense)
    whole, terms = segmentation_loss(outputs, labels, annotated, FULL)
    totals = sum(
        (count_labels(labels[i : i + 1], annotated[i : i + 1]) for i in range(4)),
        start=Totals(0.0, 0.0, 0.0, 0.0),
    )
    assert totals.values() == pytest.approx(count_labels(labels, annotated).values())
    pieces = []
    for start, stop in ((0, 1), (1, 4)):
        cut = Outputs(
            tuple((c[start:stop], m[start:stop]) for c, m in outputs.layers), dense[start:stop]
        )
        pieces.append(
            segmentation_loss(cut, labels[start:stop], annotated[start:stop], FULL, totals)
        )
    assert float(sum(loss for loss, _ in pieces)) == pytest.approx(float(whole), rel=1e-5)
    for name, value in terms.items():
        assert sum(float(t[name]) for _, t in pieces) == pytest.approx(float(value), rel=1e-5)
