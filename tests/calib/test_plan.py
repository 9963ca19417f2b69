"""The order of giving back, the two budgets, and the plan as a record."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dedos_deploy.calib.plan import (
    PlannedSite,
    QuantizationPlan,
    give_back,
    plan,
    site_macs,
)
from dedos_deploy.calib.sensitivity import Sensitivity, SiteSensitivity
from dedos_deploy.calib.sensitivity_plot import FLOAT, INT8, draw_sensitivity, sensitivity_table
from dedos_deploy.errors import BadInputError
from dedos_deploy.model import FrozenDedos

DAMAGES = {"a.one": 0.5, "a.two": 0.2, "b.one": 0.1, "b.two": 0.01}
MACS = {"a.one": 10.0, "a.two": 1.0, "b.one": 10.0, "b.two": 10.0}


def _sensitivity(damages: dict[str, float]) -> Sensitivity:
    sites = tuple(SiteSensitivity(s, d, d / 2, d / 2) for s, d in damages.items())
    return Sensitivity(sites, math.fsum(damages.values()), 1.0, 1, 1, 0)


def test_by_damage_per_cost() -> None:
    first = plan(_sensitivity(DAMAGES), MACS, budget=None)
    assert first.sites == ("a.two", "a.one", "b.one", "b.two") and not first.given_back
    assert first.predicted_damage == pytest.approx(0.81)
    tight = plan(_sensitivity(DAMAGES), MACS, budget=0.15)
    assert [item.site for item in tight.given_back] == ["a.two", "a.one"]
    assert {item.reason for item in tight.given_back} == {"predicted damage"}
    assert tight.predicted_damage == pytest.approx(0.11)
    assert [item.macs for item in tight.quantized] == [10.0, 10.0]
    assert not plan(_sensitivity(DAMAGES), MACS, budget=0.0).sites


damages = st.dictionaries(
    st.integers(0, 99).map(lambda n: f"s{n}"), st.floats(0, 10), min_size=1, max_size=12
)


@given(damages, st.floats(0, 50), st.floats(0, 50))
def test_a_tighter_budget_gives_back_the_same_and_more(
    found: dict[str, float], one: float, other: float
) -> None:
    macs = {site: 1.0 + len(site) for site in found}
    loose, tight = (
        plan(_sensitivity(found), macs, budget=budget)
        for budget in (max(one, other), min(one, other))
    )
    assert loose.given_back == tight.given_back[: len(loose.given_back)]
    for item, budget in ((loose, max(one, other)), (tight, min(one, other))):
        assert item.predicted_damage <= budget
        names = [*item.sites, *(given.site for given in item.given_back)]
        assert sorted(names) == sorted(found)


@given(st.integers(1, 60), st.data())
@settings(max_examples=60)
def test_bisection_finds_the_shortest_prefix(sites: int, data: Any) -> None:
    needed = data.draw(st.integers(0, sites))
    first = plan(
        _sensitivity({f"s{i}": 1.0 for i in range(sites)}),
        {f"s{i}": 1.0 for i in range(sites)},
        budget=None,
    )
    measured: list[int] = []

    def loss(candidate: QuantizationPlan) -> float:
        measured.append(len(candidate.given_back))
        return 0.0 if len(candidate.given_back) >= needed else 1.0

    found = give_back(first, loss, budget=0.5)
    assert len(found.given_back) == needed and found.loss_budget == 0.5
    assert [item.given_back for item in found.rounds] == measured
    assert len(measured) == len(set(measured)) <= 1 + math.ceil(math.log2(sites)) + 1


def test_a_plan_that_was_measured_within_or_none() -> None:
    """A loss that jumps up and down, and a search that is cut short."""
    first = plan(
        _sensitivity({f"s{i}": 1.0 for i in range(16)}),
        {f"s{i}": 1.0 for i in range(16)},
        budget=None,
    )
    losses = np.random.default_rng(0).uniform(0, 1, 17)
    found = give_back(first, lambda p: float(losses[len(p.given_back)]), budget=0.3)
    number = len(found.given_back)
    assert number == 16 or losses[number] <= 0.3
    assert len(give_back(first, lambda p: 1.0, budget=0.3, max_rounds=2).given_back) == 16
    with pytest.raises(BadInputError, match="measured to lose nan"):
        give_back(first, lambda p: float("nan"), budget=0.3)
    with pytest.raises(BadInputError, match="budget of at least 0"):
        give_back(first, lambda p: 0.0, budget=-1)


@pytest.mark.parametrize("budget", [-0.1, float("nan"), float("inf")])
def test_budgets_that_are_none(budget: float) -> None:
    with pytest.raises(BadInputError, match="must be a number of at least 0"):
        plan(_sensitivity(DAMAGES), MACS, budget=budget)


@pytest.mark.parametrize("macs", [{}, MACS | {"b.one": 0.0}, MACS | {"b.one": float("nan")}])
def test_every_site_needs_a_cost(macs: dict[str, float]) -> None:
    with pytest.raises(BadInputError, match="the cost of site .* a positive number is needed"):
        plan(_sensitivity(DAMAGES), macs, budget=None)


def test_a_plan_as_json() -> None:
    first = plan(_sensitivity(DAMAGES), MACS, budget=0.75)
    found = give_back(first, lambda p: 0.2 if len(p.given_back) < 3 else 0.0, budget=0.1)
    values = json.loads(json.dumps(found.to_dict()))
    for name in ("quantized", "given_back", "rounds"):
        assert values[name] == [asdict(item) for item in getattr(found, name)]
    assert values["predicted_damage"] == found.predicted_damage
    assert (values["budget"], values["loss_budget"]) == (0.75, 0.1)


def test_a_plan_names_each_site_once() -> None:
    one = PlannedSite("a", 1, 1)
    with pytest.raises(BadInputError, match="names site 'a' 2 times"):
        QuantizationPlan((one, one), (), None)
    with pytest.raises(BadInputError, match="names no site"):
        QuantizationPlan((), (), None)


def test_macs_by_hand(frozen: FrozenDedos, float_graph: onnx.ModelProto) -> None:
    """Tokens of a 32x48 image times the size of the weight; a module that runs twice costs twice."""
    sites = ["trunk.blocks.0.qkv", "refinement.keep", "detail.stem.1.0"]
    inputs = (torch.zeros(1, 32, 48, 3, dtype=torch.uint8), torch.zeros(7, 16), torch.ones(7))
    found = site_macs(frozen, sites, inputs)
    patches = (32 // 16) * (48 // 16)
    assert found["trunk.blocks.0.qkv"] == (patches + 1) * 32 * 96
    assert found["refinement.keep"] == 2 * patches * 32 * 32
    conv = dict(frozen.model.named_modules())["detail.stem.1.0"]
    assert found["detail.stem.1.0"] == (32 // 4) * (48 // 4) * conv.weight.numel()  # type: ignore[union-attr, operator]


def test_table_and_picture_tell_the_plan() -> None:
    sensitivity = _sensitivity(DAMAGES | {"b.two": 0.03, "c.zero": 0.0})
    chosen = plan(sensitivity, MACS | {"c.zero": 1.0}, budget=0.15)
    lines = sensitivity_table(sensitivity, chosen).splitlines()
    assert len(lines) == 2 + 5
    assert (
        lines[2] == "| a.two | 2.00e-01 | 1.00e-01 | 1.00e-01 | 3.12 % | float (predicted damage) |"
    )
    assert sum("| int8 |" in line for line in lines) == 3
    picture = draw_sensitivity(sensitivity, chosen)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (1000, 3)
    for colour, bars in ((FLOAT, 2), (INT8, 2)):
        rows = (picture[94:, 290:910] == colour).all(2).sum(1)
        starts = np.flatnonzero(np.diff((rows > 20).astype(int)) == 1)
        assert len(starts) == bars
    # The longest bar is the largest damage.
    longest = [int((picture[94:] == colour).all(2).sum(1).max()) for colour in (FLOAT, INT8)]
    assert longest[0] > longest[1]
