"""The simulation of a corpus that workers label shard by shard, failing now and then; `corpus_cost.py` asks it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dedos_deploy.errors import BadInputError

HOUR_S = 3600.0
MOST_WORK = 5.0
"""Hours of a shard per hour between failures: each is begun e^5 = 148 times then."""


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
    """Seconds from a failure until the worker takes a shard again."""

    notice_s: float = 0.0
    """Seconds from a failure until others may take the shard that was lost."""

    start_s: float = 60.0
    """Seconds until a worker begins its first shard."""

    shard_s: float = 1.0
    """Seconds that each shard costs besides its frames."""

    sigma: float = 0.0
    """Of the logarithm of how much longer an attempt takes."""

    failing: int = 0
    """Workers that fail at one given moment, too."""

    failing_s: float = 0.0
    """That moment, in seconds from the beginning."""

    def __post_init__(self) -> None:
        for name in ("workers", "frames", "shard"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("fps", "mtbf_h"):
            if not getattr(self, name) > 0:
                raise BadInputError(f"{name} must be more than 0, not {getattr(self, name)}")
        for name in ("price", "restart_s", "notice_s", "start_s", "shard_s", "sigma"):
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


class _Run:
    """One run: whoever is free first takes the next shard, one that was lost before others."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._plan, self._chance = plan, np.random.default_rng(seed)
        self._new = plan.shards()
        self._free = [(plan.start_s, worker) for worker in range(plan.workers)]
        self._lost: list[tuple[float, int]] = []
        """When each shard that was lost may be taken again, and its frames."""
        self._waiting: list[tuple[float, int]] = []
        """Workers for whom nothing is left, since when, unless another fails."""
        self.failures, self.lost_s, self.idle_s, self.end_s = 0, 0.0, 0.0, 0.0

    def run(self) -> Outcome:
        while self._free:
            free_s, worker = heapq.heappop(self._free)
            taken = self._next(free_s)
            if taken is None:
                self._waiting.append((free_s, worker))
            else:
                self._attempt(free_s, *taken, worker)
        paid_s = self.end_s * self._plan.workers
        # One that comes back when all is over was not waiting.
        idle_s = self.idle_s + sum(max(0.0, self.end_s - free_s) for free_s, _ in self._waiting)
        cost = self._plan.price * paid_s / HOUR_S
        lost, idle = self.lost_s / paid_s, idle_s / paid_s
        return Outcome(self.end_s / HOUR_S, cost, self.failures, lost, idle)

    def _next(self, free_s: float) -> tuple[float, int] | None:
        """Return when a worker begins which number of frames, None when nothing is left."""
        if not (self._lost and self._lost[0][0] <= free_s):
            frames = next(self._new, None)
            if frames is not None:
                return free_s, frames
        if not self._lost:
            return None
        known_s, frames = heapq.heappop(self._lost)
        return max(known_s, free_s), frames

    def _attempt(self, free_s: float, began_s: float, frames: int, worker: int) -> None:
        self.idle_s += began_s - free_s
        work_s, until_failure_s = _attempt(self._plan, frames, self._chance)
        given_s = self._plan.failing_s - began_s
        if worker < self._plan.failing and 0 <= given_s < until_failure_s:
            until_failure_s = given_s
        if until_failure_s >= work_s:
            self.end_s = max(self.end_s, began_s + work_s)
            heapq.heappush(self._free, (began_s + work_s, worker))
            return
        failed_s = began_s + until_failure_s
        self.failures += 1
        self.lost_s += until_failure_s + self._plan.restart_s
        heapq.heappush(self._lost, (failed_s + self._plan.notice_s, frames))
        heapq.heappush(self._free, (failed_s + self._plan.restart_s, worker))
        while self._waiting:
            heapq.heappush(self._free, self._waiting.pop())


def simulate(plan: Plan, seed: int) -> Outcome:
    """Return what one run comes to; the same for the same seed."""
    return _Run(plan, seed).run()


def _attempt(plan: Plan, frames: int, chance: np.random.Generator) -> tuple[float, float]:
    """Return the seconds that a shard takes, and those until the worker fails at random."""
    slowness = float(chance.lognormal(0.0, plan.sigma)) if plan.sigma else 1.0
    mtbf_s = plan.mtbf_h * HOUR_S
    until_failure_s = chance.exponential(mtbf_s) if math.isfinite(mtbf_s) else math.inf
    return (plan.shard_s + frames / plan.fps) * slowness, until_failure_s


def expected_shard_s(plan: Plan) -> float:
    """Return how long one worker alone takes for a whole shard on average, without stragglers.

    After each failure everything begins anew, so with w seconds of work, failures at the rate λ, and R
    seconds to come back, T = E[min(X, w)] + P(X < w)(R + T), which is (e^(λw) − 1)(1/λ + R).
    """
    work_s, mtbf_s = plan.shard_s + plan.shard / plan.fps, plan.mtbf_h * HOUR_S
    if math.isinf(mtbf_s):
        return work_s
    return math.expm1(work_s / mtbf_s) * (mtbf_s + plan.restart_s)
