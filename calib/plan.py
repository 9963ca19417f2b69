"""Which sites run in int8 and which were given back to float: chosen by prediction, then measured.

Sites are given back in one fixed order, the damage they cause per multiply-accumulate that int8
would have saved, largest first. Every plan is a prefix of that order, so a tighter budget gives back
the same sites and some more, and a bisection finds the shortest prefix that measures well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dedos_deploy.calib.int8_error import site_modules
from dedos_deploy.calib.sensitivity import Sensitivity
from dedos_deploy.errors import BadInputError

Reason = Literal["predicted damage", "measured loss"]
MAX_ROUNDS = 8
"""Measurements that find the prefix among 127 sites to one site."""


@dataclass(frozen=True)
class PlannedSite:
    """A site, with the damage of quantizing it and what it costs in float."""

    site: str
    damage: float
    """As in `Sensitivity`, part of the scores' energy."""

    macs: float
    """Cost of the site, in any one unit."""


@dataclass(frozen=True)
class GivenBack(PlannedSite):
    """A site that goes back to float."""

    reason: Reason
    """Which of the two budgets it was given back for."""


@dataclass(frozen=True)
class Round:
    """One measurement: loss with the first `given_back` sites of the order in float."""

    given_back: int
    loss: float


@dataclass(frozen=True)
class QuantizationPlan:
    """Sites in int8 and sites given back to float."""

    quantized: tuple[PlannedSite, ...]
    """The next to be given back first."""

    given_back: tuple[GivenBack, ...]
    """Sites that stay in float, in the order in which they were given back."""

    budget: float | None
    """Largest predicted damage allowed, None when only measurements decide."""

    rounds: tuple[Round, ...] = ()
    """What was measured, in order."""

    loss_budget: float | None = None
    """Largest measured loss allowed, None before any measurement."""

    def __post_init__(self) -> None:
        if not self.quantized and not self.given_back:
            raise BadInputError("the plan names no site; give the sites that may be quantized")
        names = Counter(item.site for item in (*self.quantized, *self.given_back))
        for name, times in names.items():
            if times > 1:
                raise BadInputError(f"the plan names site {name!r} {times} times; make it again")

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that run in int8."""
        return tuple(item.site for item in self.quantized)

    @property
    def predicted_damage(self) -> float:
        """Sum of the damage of the sites in int8, as if their errors were independent."""
        return math.fsum(item.damage for item in self.quantized)

    def with_given_back(self, number: int, reason: Reason) -> QuantizationPlan:
        """Return the plan with the first `number` sites of the order in float, no fewer than now."""
        more = number - len(self.given_back)
        if not 0 <= more <= len(self.quantized):
            raise ValueError(f"{number} of {len(self.quantized) + len(self.given_back)} sites")
        moved = tuple(GivenBack(**asdict(item), reason=reason) for item in self.quantized[:more])
        return replace(self, quantized=self.quantized[more:], given_back=(*self.given_back, *moved))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the predicted damage for readers."""
        return {**asdict(self), "predicted_damage": self.predicted_damage}


def plan(
    sensitivity: Sensitivity, macs: Mapping[str, float], *, budget: float | None
) -> QuantizationPlan:
    """Return the plan that gives back sites until the predicted damage is within the budget.

    macs: cost of every site, such as its multiply-accumulates (`site_macs`) or its share of the
    milliseconds; budget: largest predicted damage, as part of the scores' energy; None gives nothing
    back, which leaves the choice to `give_back`.

    Raises BadInputError for a budget that is not a number of at least 0, or a site without a cost.
    """
    if budget is not None and not (math.isfinite(budget) and budget >= 0):
        raise BadInputError(f"the damage budget must be a number of at least 0, not {budget}")
    costs = {item.site: _cost(item.site, macs) for item in sensitivity.sites}
    # Sorting is stable: equal sites stay in the order of the model.
    ordered = sorted(sensitivity.sites, key=lambda item: -item.damage / costs[item.site])
    sites = tuple(PlannedSite(item.site, item.damage, costs[item.site]) for item in ordered)
    count = 0
    while budget is not None and math.fsum(item.damage for item in sites[count:]) > budget:
        count += 1
    return QuantizationPlan(sites, (), budget).with_given_back(count, "predicted damage")


def _cost(site: str, macs: Mapping[str, float]) -> float:
    value = macs.get(site)
    if value is None or not (math.isfinite(value) and value > 0):
        raise BadInputError(f"the cost of site {site!r} is {value}, a positive number is needed")
    return float(value)


def give_back(
    plan: QuantizationPlan,
    measure: Callable[[QuantizationPlan], float],
    *,
    budget: float,
    max_rounds: int = MAX_ROUNDS,
) -> QuantizationPlan:
    """Return the plan with as many more sites given back as the measured loss asks for.

    measure: builds and runs the graph of a plan and returns what it loses, such as the part of
    pixels with another label; budget: largest loss allowed.

    The plan itself is measured first; if it loses too much, a bisection over the rest of the order
    finds the shortest prefix within the budget, in 1 + log2(sites) measurements if the loss falls
    as sites are given back. When it does not always fall, the result is still a plan that was
    measured within the budget, or one that gives back everything, which loses nothing and is not
    measured; the same when `max_rounds` ends the search early.
    """
    if not (math.isfinite(budget) and budget >= 0) or max_rounds < 1:
        raise BadInputError(
            f"a loss budget of at least 0 and at least one round are needed, got {budget} and "
            f"{max_rounds}"
        )
    low, high = len(plan.given_back), len(plan.given_back) + len(plan.quantized)
    rounds: list[Round] = []
    while low < high and len(rounds) < max_rounds:
        number = (low + high) // 2 if rounds else low
        loss = measure(plan.with_given_back(number, "measured loss"))
        if not (math.isfinite(loss) and loss >= 0):
            raise BadInputError(f"a plan was measured to lose {loss}; a number is needed")
        rounds.append(Round(number, float(loss)))
        low, high = (low, number) if loss <= budget else (number + 1, high)
    found = plan.with_given_back(high, "measured loss")
    return replace(found, rounds=tuple(rounds), loss_budget=float(budget))


def site_macs(
    frozen: nn.Module, sites: Sequence[str], inputs: tuple[Tensor, Tensor, Tensor]
) -> dict[str, int]:
    """Return the multiply-accumulates of each site in one run of the model, over all its runs there.

    inputs: image uint8 [B, H, W, 3], text [K, D], valid [K]; tensors on the meta device cost nothing
    when the model is there, too. Raises BadInputError for a site that is unknown or not run.
    """
    macs: Counter[str] = Counter()
    with _counted(site_modules(frozen, sites), macs), torch.no_grad():
        frozen(*inputs)
    for site in sites:
        if site not in macs:
            raise BadInputError(f"site {site!r} is not run by the model; leave it out of the sites")
    return {site: macs[site] for site in dict.fromkeys(sites)}


@contextmanager
def _counted(modules: Mapping[str, nn.Linear | nn.Conv2d], macs: Counter[str]) -> Iterator[None]:
    def count(site: str, module: nn.Module, inputs: tuple[Tensor], out: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        macs[site] += out.numel() * weight[0].numel()

    with ExitStack() as hooks:
        for site, module in modules.items():
            hooks.callback(module.register_forward_hook(partial(count, site)).remove)
        yield
