"""Dividing the minutes of a miniature among its parts: the runs' steps from what a step costs."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dedos_deploy.evaluation.result import EvaluationResult
from dedos_deploy.files import write_atomically
from dedos_deploy.training.logs import StepReport
from dedos_deploy.training.loop import Trainer
from dedos_deploy.training.miniature.plan import MiniaturePlan, Row, plan_from_json
from dedos_deploy.training.miniature.table3 import FILLS, Places, run_settings

PRETRAINING_PART = 0.2
"""Part of the minutes for the nano CLIP and the nano diffusion, which learn side by side."""

RESERVE_PART = 0.07
"""Part kept for rendering, timing, the bundle and the report, and for a machine that varies."""

WARM_STEPS, TIMED_STEPS = 2, 4
FEWEST_STEPS = 20
BY_CLOCK = 10**6


@dataclass(frozen=True)
class Cost:
    """Seconds that a run of one component takes."""

    step: float
    """Mean of steps that read the diffusion and steps that use the bank, as often as they come."""

    image: float
    """Per scored image."""

    start: float
    """Before the first step."""


def pretraining_plan(plan: MiniaturePlan) -> MiniaturePlan:
    """Return `plan` with its pretrainings ended by the clock, when it has minutes."""
    if plan.minutes is None:
        return plan
    share = PRETRAINING_PART * plan.minutes
    each = share if plan.jobs > 1 else share / 2
    return replace(plan, clip_steps=BY_CLOCK, clip_minutes=each, diffusion_minutes=each)


def steps_for(plan: MiniaturePlan, costs: dict[str, Cost]) -> int:
    """Return the steps of every run, one number for all, that fill the minutes of `plan`."""
    assert plan.minutes is not None
    left = 60 * plan.minutes * (1 - PRETRAINING_PART - RESERVE_PART) * plan.jobs
    left -= plan.seeds * sum(
        costs[c].start + costs[c].image * scored_images(plan, c) for c in plan.components
    )
    each = plan.seeds * sum(costs[component].step for component in plan.components)
    return max(FEWEST_STEPS, int(left / each))


def scored_images(plan: MiniaturePlan, component: str) -> int:
    """Return how many images a run evaluates: once by the trainer, twice with every filling."""
    parts = Row.named(component).parts
    fillings = len(FILLS) - (parts.reads == "labels") if parts.learns else 1
    return plan.val * (1 + 2 * fillings)


def measure(plan: MiniaturePlan, places: Places, component: str, output: Path) -> Cost:
    """Return what one run costs on this machine, by a short one with and one without reading."""
    parts = Row.named(component).parts
    reads = parts.learns or parts.walks
    clocks = []
    for drop in (0.0, 1.0) if reads else (1.0,):
        shutil.rmtree(output, ignore_errors=True)
        short = replace(plan, steps=WARM_STEPS + TIMED_STEPS, bank_drop=drop)
        clock = _Clock()
        Trainer(run_settings(short, places, component, seed=0), output).train(clock)
        clocks.append(clock)
    shutil.rmtree(output)
    reading, banked = clocks[0].step, clocks[-1].step
    step = plan.bank_drop * banked + (1 - plan.bank_drop) * reading
    return Cost(step, clocks[-1].image, clocks[-1].start)


class _Clock:
    """Watches a short run."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.times: list[float] = []
        self.start = self.image = 0.0

    @property
    def step(self) -> float:
        """Seconds per step, the first ones left out: memory is not warm yet."""
        return (self.times[-1] - self.times[WARM_STEPS - 1]) / (len(self.times) - WARM_STEPS)

    def on_step(self, report: StepReport) -> None:
        self.times.append(time.monotonic())

    def on_evaluation(self, result: EvaluationResult) -> None:
        now = time.monotonic()
        self.image = (now - self.times[-1]) / max(1, result.images)
        self.start = self.times[0] - self.begun


def read_cost(path: Path) -> Cost:
    """Return the cost that this module's process wrote."""
    return Cost(**json.loads(path.read_text(encoding="utf-8")))


def main(argv: Sequence[str] | None = None) -> int:
    """Time one component; the miniature starts this once per component when it has minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("plan", "places", "component", "output"):
        parser.add_argument(name)
    args = parser.parse_args(argv)
    places = Places(**{name: Path(value) for name, value in json.loads(args.places).items()})
    output = Path(args.output)
    cost = measure(plan_from_json(args.plan), places, args.component, output / args.component)
    write_atomically(output / f"{args.component}.json", (json.dumps(asdict(cost)) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
