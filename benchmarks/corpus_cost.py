"""What a large corpus costs and how long it takes to label: a simulation, from rates that were measured.

A corpus is cut into shards, which workers (GPUs or cores) take one after the other. Workers fail at random
(Poisson: as often in every hour) and come back after a while; the shard that they were at is the next that
somebody takes. Attempts are slower or faster than usual (lognormal, its median 1). Everything else is given:
nothing here says how fast a machine is.

    python benchmarks/corpus_cost.py --workers 1000 --fps 0.52 --fps-from "edge-b, docs/presets.md" --price 0.04
    python benchmarks/corpus_cost.py --workers 100 --fps 110 --fps-from "an estimate" --price 2.5 --json
    python benchmarks/corpus_cost.py … --measured corpus.json    what `benchmarks/corpus.py --json` wrote
    python benchmarks/corpus_cost.py --replay nodes.json    what `benchmarks/corpus_nodes.py --json` wrote, again
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from corpus_record import Record, read_record
from corpus_simulation import HOUR_S, Plan, simulate

from dedos_deploy.errors import BadInputError, shown

RATIOS = ("ray_ratio", "loop_ratio")
"""Of `benchmarks/corpus.py`: what part of the bare engine's rate is left on many machines, and on one."""


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


def replayed(record: Record, *, seeds: int) -> dict[str, Any]:
    """Return how long the simulation says that a recorded run took, by the rates of its own attempts."""
    plan = Plan(
        workers=record.workers,
        fps=record.fps,
        frames=record.frames,
        shard=record.shard,
        restart_s=record.restart_s,
        notice_s=record.notice_s,
        start_s=record.start_s,
        shard_s=0.0,
        sigma=record.sigma,
        failing=len(record.lost),
        failing_s=record.failed_s,
    )
    times_s = [HOUR_S * simulate(plan, seed).hours for seed in range(seeds)]
    without_s = [HOUR_S * simulate(replace(plan, failing=0), seed).hours for seed in range(seeds)]
    return {
        "measured_s": record.seconds,
        "simulated_s": float(np.mean(times_s)),
        "simulated_p5_s": float(np.percentile(times_s, 5)),
        "simulated_p95_s": float(np.percentile(times_s, 95)),
        "ratio": float(np.mean(times_s)) / record.seconds,
        "without_failure_s": float(np.mean(without_s)),
        "seeds": seeds,
        "plan": asdict(plan) | {"mtbf_h": None},
    }


def replay_sentences(found: dict[str, Any]) -> str:
    plan = found["plan"]
    return (
        f"{plan['frames']} frames in shards of {plan['shard']} on {plan['workers']} workers of "
        f"{plan['fps']:.3g} frames a second (sigma {plan['sigma']:.2f}), ready after {plan['start_s']:.1f} s; "
        f"{plan['failing']} failed at {plan['failing_s']:.1f} s, its shard was to be had {plan['notice_s']:.1f} s "
        f"and a worker back {plan['restart_s']:.1f} s later\n"
        f"measured {found['measured_s']:.1f} s, simulated {found['simulated_s']:.1f} s (90 of 100 runs from "
        f"{found['simulated_p5_s']:.1f} to {found['simulated_p95_s']:.1f}): {found['ratio']:.3f} of it; without "
        f"the failure {found['without_failure_s']:.1f} s"
    )


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
    add("--workers", type=int, help="GPUs or cores")
    add("--fps", type=float, help="frames per second of one, as measured")
    add("--fps-from", help="where that rate is from, for the report")
    add("--replay", type=Path, metavar="FILE", help="of benchmarks/corpus_nodes.py --json, instead")
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


def planned(
    *, seeds: int, fps_from: str | None, measured: Path | None, **numbers: Any
) -> dict[str, Any]:
    """Return what a plan of these numbers comes to. Raises BadInputError."""
    if None in (fps_from, numbers["workers"], numbers["fps"]):
        raise BadInputError("--workers, --fps and --fps-from are needed, or --replay alone")
    plan = Plan(**numbers)
    if measured is not None:
        name, ratio = measured_ratio(measured)
        plan = replace(plan, fps=plan.fps * ratio)
        fps_from = f"{fps_from}, times {name} {ratio:.3f}"
    return report(plan, seeds=seeds, fps_from=str(fps_from))


def _record(path: Path, args: dict[str, Any]) -> Record:
    """Return a record to replay. args: the other options, none of which says anything about it."""
    defaults = vars(build_parser().parse_args([]))
    given = [name for name in args if name != "seeds" and args[name] != defaults[name]]
    if given:
        raise BadInputError(
            f"--replay takes all from its record; leave --{given[0].replace('_', '-')} out"
        )
    return read_record(path)


def main(argv: Sequence[str] | None = None) -> int:
    args = vars(build_parser().parse_args(argv))
    replay, as_json = args.pop("replay"), args.pop("json")
    try:
        if args["seeds"] < 1:
            raise BadInputError(f"seeds must be at least 1, not {args['seeds']}")
        if replay is None:
            found = planned(**args)
            print(sentences(found))
        else:
            found = replayed(_record(replay, args), seeds=args["seeds"])
            print(replay_sentences(found))
    except BadInputError as error:
        print(f"corpus_cost: error: {error}", file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
