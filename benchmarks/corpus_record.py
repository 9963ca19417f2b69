"""What happened when a corpus was labelled: attempts, who failed and when. Written by `corpus_nodes.py`, and
read by `corpus_cost.py --replay`, which simulates the same with the rates that were measured in it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dedos_deploy.errors import BadInputError
from dedos_deploy.fields import FieldError, checked, load_json


@dataclass(frozen=True)
class Attempt:
    """A shard in the hands of a worker; seconds count from the moment when the first worker was asked for."""

    worker: int
    frames: int
    began_s: float
    ended_s: float
    """When it was done, or for one that failed when that was noticed."""

    is_done: bool


@dataclass(frozen=True)
class Record:
    """One run. Raises BadInputError for one that says nothing of rates, or that cannot have been."""

    workers: int
    shard: int
    """Frames per shard, except for the last ones of sources."""

    ready_s: tuple[float, ...]
    """When each worker had loaded its engine, in the order in which these were asked for."""

    failed_s: float
    """When a node was killed, with the workers on it."""

    back_s: float
    """When the first worker in place of one of theirs was ready."""

    attempts: tuple[Attempt, ...]
    seconds: float
    """Until the last shard was done."""

    def __post_init__(self) -> None:
        if len(self.done) < 3 or not self.lost:
            raise BadInputError(
                f"a record has {len(self.done)} attempts that were done and {len(self.lost)} that failed; "
                "at least 3 and 1 are needed: label more frames"
            )
        wrong = next((name for name, holds in self._must_hold() if not holds), None)
        if wrong is not None:
            raise BadInputError(f"a record cannot be: {wrong}; label a video again")

    def _must_hold(self) -> Iterator[tuple[str, bool]]:
        """Yield what would be wrong with it, and whether it is right."""
        yield (
            f"{len(self.ready_s)} times when one of {self.workers} workers, or one in place of them, was ready",
            0 < self.workers < len(self.ready_s),
        )
        times = f"a failure at {self.failed_s} s, a worker back at {self.back_s} s"
        yield times, 0 <= self.failed_s <= self.back_s
        yield f"an end at {self.seconds} s", self.seconds > 0
        for one in self.attempts:
            yield (
                f"an attempt at {one.frames} frames of a shard of {self.shard}",
                (0 < one.frames <= self.shard),
            )
            yield f"an attempt from {one.began_s} to {one.ended_s} s", one.began_s < one.ended_s

    @property
    def done(self) -> tuple[Attempt, ...]:
        return tuple(one for one in self.attempts if one.is_done)

    @property
    def lost(self) -> tuple[Attempt, ...]:
        return tuple(one for one in self.attempts if not one.is_done)

    @property
    def frames(self) -> int:
        return sum(one.frames for one in self.done)

    @property
    def start_s(self) -> float:
        """Of the workers that began it, on average."""
        return statistics.fmean(self.ready_s[: self.workers])

    @property
    def fps(self) -> float:
        """Of one worker, by the median attempt."""
        return 1.0 / statistics.median(self._seconds_per_frame())

    @property
    def sigma(self) -> float:
        """Deviation of the logarithm of how long an attempt takes for its frames."""
        return statistics.stdev(map(math.log, self._seconds_per_frame()))

    @property
    def restart_s(self) -> float:
        return self.back_s - self.failed_s

    @property
    def notice_s(self) -> float:
        """From the failure until a shard is to be had again that was lost by it."""
        return max(0.0, statistics.fmean(one.ended_s for one in self.lost) - self.failed_s)

    def _seconds_per_frame(self) -> Iterator[float]:
        for one in self.done:
            yield (one.ended_s - one.began_s) / one.frames

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def read_record(path: Path) -> Record:
    """Return what `Record.to_json` wrote, the last line of a file. Raises BadInputError."""
    try:
        found: Record = checked(Record, load_json(path.read_text("utf-8").splitlines()[-1]), "")
    except (OSError, IndexError, ValueError, FieldError) as error:
        raise BadInputError(
            f"{str(path)!r} is no record of corpus_nodes.py --json ({error})"
        ) from error
    return found
