"""What a large corpus costs and how long it takes to label: a simulation, from rates that were measured.

A corpus is cut into shards, which workers (GPUs or cores) take one after the other. Workers fail at random
(Poisson: as often in every hour), lose the shard that they are at, come back after a while and do it again;
attempts are slower or faster than usual (lognormal, its median 1). Everything else is given: nothing here
says how fast a machine is.

    python benchmarks/corpus_cost.py --workers 1000 --fps 0.52 --fps-from "edge-b, docs/presets.md" --price 0.04
    python benchmarks/corpus_cost.py --workers 100 --fps 110 --fps-from "an estimate" --price 2.5 --json
    python benchmarks/corpus_cost.py … --measured corpus.json    what `benchmarks/corpus.py --json` wrote
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dedos_deploy.errors import BadInputError, shown

HOUR_S = 3600.0
MOST_WORK = 5.0
"""Hours of a shard per hour between failures: each is begun e^5 = 148 times then."""
RATIOS = ("ray_ratio", "loop_ratio")
"""Of `benchmarks/corpus.py`: what part of the bare engine's rate is left on many machines, and on one."""


@dataclass(frozen=True)
class Plan:
    """A corpus and who labels it.

    Raises BadInputError naming the first number that is not possible.
    """

    workers: int
    """GPUs or cores."""

    fps: float
    """Frames per second of one of them, reading and writing included."""

    price: float = 0.0
    """Of a worker for an hour, in whatever currency."""

    frames: int = 10_000_000
    shard: int = 1000
    """Frames per shard."""

    mtbf_h: float = math.inf
    """Mean hours of work between two failures of a worker."""

    restart_s: float = 120.0
    """Seconds from a failure until the worker begins its shard again."""

    start_s: float = 60.0
    """Seconds until a worker begins its first shard."""

    shard_s: float = 1.0
    """Seconds that each shard costs besides its frames."""

    sigma: float = 0.0
    """Of the logarithm of how much longer an attempt takes."""

    def __post_init__(self) -> None:
        for name in ("workers", "frames", "shard"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("fps", "mtbf_h"):
            if not getattr(self, name) > 0:
                raise BadInputError(f"{name} must be more than 0, not {getattr(self, name)}")
        for name in ("price", "restart_s", "start_s", "shard_s", "sigma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInputError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 < self.least_hours < math.inf:
            raise BadInputError(
                f"{self.fps} frames per second are no rate of a worker; give a measured one"
            )
        work_h = (self.shard_s + self.shard / self.fps) / HOUR_S
        if work_h > MOST_WORK * self.mtbf_h:
            raise BadInputError(
                f"a shard takes {work_h:.3g} hours and a worker fails every {self.mtbf_h:g}, so that hardly "
                "one would ever be done; make shards smaller"
            )

    def shards(self) -> Iterator[int]:
        """Yield the frames of every shard."""
        whole, rest = divmod(self.frames, self.shard)
        for _ in range(whole):
            yield self.shard
        if rest:
            yield rest

    @property
    def least_hours(self) -> float:
        """Hours that nothing but frames would take."""
        return self.frames / self.fps / self.workers / HOUR_S


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    hours: float
    """Until the last shard is done."""

    cost: float
    """Of all workers until then."""

    failures: int
    lost: float
    """Part of the paid time that went into attempts which failed, and into coming back."""

    idle: float
    """Part of the paid time in which workers had nothing left to do."""


@dataclass
class _Ledger:
    failures: int = 0
    lost_s: float = 0.0


def simulate(plan: Plan, seed: int) -> Outcome:
    """Return what one run comes to; the same for the same seed."""
    chance, ledger = np.random.default_rng(seed), _Ledger()
    free = [plan.start_s] * plan.workers
    for frames in plan.shards():
        # Whoever is free first takes the next shard.
        heapq.heapreplace(free, free[0] + shard_seconds(plan, frames, chance, ledger))
    end_s = max(free)
    paid_s = end_s * plan.workers
    return Outcome(
        end_s / HOUR_S,
        plan.price * paid_s / HOUR_S,
        ledger.failures,
        ledger.lost_s / paid_s,
        sum(end_s - done_s for done_s in free) / paid_s,
    )


def shard_seconds(
    plan: Plan, frames: int, chance: np.random.Generator, ledger: _Ledger | None = None
) -> float:
    """Return the seconds of one worker until a shard is done, with all that failed before."""
    mtbf_s, spent_s = plan.mtbf_h * HOUR_S, 0.0
    while True:
        work_s = (plan.shard_s + frames / plan.fps) * _slowness(plan, chance)
        until_failure_s = chance.exponential(mtbf_s) if math.isfinite(mtbf_s) else math.inf
        if until_failure_s >= work_s:
            return spent_s + work_s
        wasted_s = until_failure_s + plan.restart_s
        spent_s += wasted_s
        if ledger is not None:
            ledger.failures += 1
            ledger.lost_s += wasted_s


def _slowness(plan: Plan, chance: np.random.Generator) -> float:
    return float(chance.lognormal(0.0, plan.sigma)) if plan.sigma else 1.0


def expected_shard_s(plan: Plan) -> float:
    """Return the mean of `shard_seconds` of a whole shard without stragglers.

    After each failure everything begins anew, so with w seconds of work, failures at the rate λ, and R
    seconds to come back, T = E[min(X, w)] + P(X < w)(R + T), which is (e^(λw) − 1)(1/λ + R).
    """
    work_s, mtbf_s = plan.shard_s + plan.shard / plan.fps, plan.mtbf_h * HOUR_S
    if math.isinf(mtbf_s):
        return work_s
    return math.expm1(work_s / mtbf_s) * (mtbf_s + plan.restart_s)


def measured_ratio(path: Path) -> tuple[str, float]:
    """Return which ratio a file of `benchmarks/corpus.py --json` has, and it. Raises BadInputError."""
    try:
        # Lines for people come before the object.
        found = json.loads(path.read_text(encoding="utf-8").strip().splitlines()[-1])
    except (OSError, IndexError, ValueError) as error:
        raise BadInputError(f"{str(path)!r} cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise BadInputError(f"{str(path)!r} is {shown(found)}; give what corpus.py --json wrote")
    for name in ("missing", "duplicates", "wrong"):
        if found.get(name):
            raise BadInputError(
                f"{str(path)!r} is of a run with {name} {shown(found[name])}, whose rate says nothing; "
                "measure again"
            )
    for name in RATIOS:
        value = found.get(name)
        if isinstance(value, (int, float)) and 0 < value < 2:
            return name, float(value)
    raise BadInputError(f"{str(path)!r} has neither {' nor '.join(RATIOS)} between 0 and 2")


def report(plan: Plan, *, seeds: int, fps_from: str) -> dict[str, Any]:
    """Return what the runs of so many seeds come to."""
    runs = [simulate(plan, seed) for seed in range(seeds)]
    hours, costs = [run.hours for run in runs], [run.cost for run in runs]
    every = {name: [getattr(run, name) for run in runs] for name in ("failures", "lost", "idle")}
    return {
        "hours": float(np.mean(hours)),
        "hours_p95": float(np.percentile(hours, 95)),
        "least_hours": plan.least_hours,
        "cost": float(np.mean(costs)),
        "cost_p95": float(np.percentile(costs, 95)),
        **{name: float(np.mean(values)) for name, values in every.items()},
        "seeds": seeds,
        "fps_from": fps_from,
        "plan": {**asdict(plan), "mtbf_h": None if math.isinf(plan.mtbf_h) else plan.mtbf_h},
    }


def sentences(found: dict[str, Any]) -> str:
    plan = found["plan"]
    return (
        f"{plan['frames']:,} frames on {plan['workers']} workers of {plan['fps']:.4g} frames a second "
        f"({found['fps_from']}): {found['hours']:.2f} hours (95 of 100 runs within "
        f"{found['hours_p95']:.2f}; frames alone {found['least_hours']:.2f})\n"
        f"cost {found['cost']:,.0f} (within {found['cost_p95']:,.0f}); {found['failures']:.0f} failures, "
        f"{found['lost']:.1%} of the paid time lost to them, {found['idle']:.1%} idle at the end"
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workers", type=int, required=True, help="GPUs or cores")
    add("--fps", type=float, required=True, help="frames per second of one, as measured")
    add("--fps-from", required=True, help="where that rate is from, for the report")
    add("--price", type=float, default=Plan.price, help="of one for an hour (0)")
    add("--frames", type=int, default=Plan.frames, help="of the corpus (10,000,000)")
    add("--shard", type=int, default=Plan.shard, help="frames per shard (1000)")
    add("--mtbf-h", type=float, default=Plan.mtbf_h, help="hours between failures of one (never)")
    add("--restart-s", type=float, default=Plan.restart_s, help="from a failure on (120)")
    add("--start-s", type=float, default=Plan.start_s, help="before the first shard (60)")
    add("--shard-s", type=float, default=Plan.shard_s, help="per shard, besides frames (1)")
    add("--sigma", type=float, default=Plan.sigma, help="of stragglers' lognormal (0)")
    add("--seeds", type=int, default=20, help="runs (20)")
    add("--measured", type=Path, metavar="FILE", help="of benchmarks/corpus.py --json: its ratio")
    add("--json", action="store_true", help="print one JSON object last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = vars(build_parser().parse_args(argv))
    seeds, fps_from, measured, as_json = (
        args.pop(name) for name in ("seeds", "fps_from", "measured", "json")
    )
    try:
        if seeds < 1:
            raise BadInputError(f"seeds must be at least 1, not {seeds}")
        plan = Plan(**args)
        if measured is not None:
            name, ratio = measured_ratio(measured)
            plan = replace(plan, fps=plan.fps * ratio)
            fps_from = f"{fps_from}, times {name} {ratio:.3f}"
        found = report(plan, seeds=seeds, fps_from=fps_from)
    except BadInputError as error:
        print(f"corpus_cost: error: {error}", file=sys.stderr)
        return 2
    print(sentences(found))
    if as_json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
