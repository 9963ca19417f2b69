"""The matcher against brute force over every assignment."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from dedos_deploy.training import matcher
from dedos_deploy.training.losses import mask_bce, mask_dice
from dedos_deploy.training.matcher import match, pair_costs
from dedos_deploy.training.targets import MaskTargets


def make_targets(random: torch.Generator, slots: int, h: int, w: int) -> MaskTargets:
    owner = torch.randint(0, slots, (1, h, w), generator=random)
    coverage = torch.nn.functional.one_hot(owner, slots).permute(0, 3, 1, 2).float()
    weight = torch.rand(1, h, w, generator=random)
    return MaskTargets(coverage, weight, torch.ones(1, slots, dtype=torch.bool))


@pytest.mark.parametrize("seed", range(6))
def test_matching_is_the_cheapest_of_all_assignments(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    queries, slots, h, w = 5, 3, 6, 7
    classes = torch.randn(1, queries, slots, generator=random)
    masks = torch.randn(1, queries, h, w, generator=random)
    targets = make_targets(random, slots, h, w)
    costs = torch.empty(queries, slots)
    for q in range(queries):
        for k in range(slots):
            mask, soft = masks[0, q][None], targets.coverage[0, k][None]
            costs[q, k] = (
                -torch.log(classes[0, q, k].sigmoid())
                + mask_bce(mask, soft, targets.weight, 1.0)
                + mask_dice(mask, soft, targets.weight, 1.0)
            )
    best = min(
        permutations(range(queries), slots),
        key=lambda chosen: sum(float(costs[q, k]) for k, q in enumerate(chosen)),
    )
    found = match(classes, masks, targets)
    assert {int(k): int(q) for q, k in zip(found.queries, found.slots, strict=True)} == dict(
        enumerate(best)
    )


def test_pair_costs_equal_the_losses_of_that_pair() -> None:
    random = torch.Generator().manual_seed(1)
    targets = make_targets(random, 2, 4, 4)
    masks = torch.randn(3, 16, generator=random)
    logits = torch.randn(3, 2, generator=random)
    soft = targets.coverage[0].flatten(1)
    costs = pair_costs(logits, masks, soft, targets.weight[0].flatten())
    pair = (masks[1].reshape(1, 4, 4), targets.coverage[0, 1][None], targets.weight, 1.0)
    expected = -torch.log(logits[1, 1].sigmoid()) + mask_bce(*pair) + mask_dice(*pair)
    assert costs[1, 1] == pytest.approx(float(expected), rel=1e-5)


def test_more_classes_than_queries_leave_classes_unmatched() -> None:
    random = torch.Generator().manual_seed(2)
    targets = make_targets(random, 5, 8, 8)
    found = match(torch.randn(1, 2, 5), torch.randn(1, 2, 8, 8), targets)
    assert sorted(found.queries.tolist()) == [0, 1]
    assert len(set(found.slots.tolist())) == 2


def test_absent_classes_and_unlabelled_images_are_not_matched() -> None:
    targets = MaskTargets(
        torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4), torch.ones(2, 3, dtype=torch.bool)
    )
    targets.coverage[1, 2] = 1.0
    targets.weight[1] = 1.0
    found = match(torch.randn(2, 4, 3), torch.randn(2, 4, 4, 4), targets)
    assert (found.images.tolist(), found.slots.tolist()) == ([1], [2])


def test_sampled_cells_find_an_obvious_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "MATCH_POINTS", 64)
    owner = torch.zeros(1, 32, 32, dtype=torch.int64)
    owner[:, :, 16:] = 1
    coverage = torch.nn.functional.one_hot(owner, 2).permute(0, 3, 1, 2).float()
    targets = MaskTargets(coverage, torch.ones(1, 32, 32), torch.ones(1, 2, dtype=torch.bool))
    masks = torch.stack([coverage[0, 1], coverage[0, 0], torch.zeros(32, 32)])[None] * 8 - 4
    found = match(torch.zeros(1, 3, 2), masks, targets)
    assert {int(k): int(q) for q, k in zip(found.queries, found.slots, strict=True)} == {1: 0, 0: 1}
