"""How a run over a corpus goes, whoever labels: what is done, how fast, what is wrong, and when it began."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dedos_deploy.corpus.beginning import Begun
from dedos_deploy.corpus.labelling import ShardReport
from dedos_deploy.progress import Progress


@dataclass
class Outcome:
    """What became of a run."""

    folder: str
    shards: int = 0
    """Of the corpus."""

    done: int = 0
    """Shards that are labelled, by this run or an earlier one."""

    frames: int = 0
    """Labelled by this run."""

    seconds: float = 0.0
    """From the first worker that was ready to the last shard."""

    errors: list[Mapping[str, Any]] = field(default_factory=list)
    """All that `errors.jsonl` has."""

    lost: dict[int, str] = field(default_factory=dict)
    """Shards at which workers ended without a word, and how."""

    stopped: bool = False
    """Whether somebody asked for the end before it came."""


class Course:
    """Hears of every shard that is done, and tells how far the run is."""

    def __init__(self, begun: Begun, progress: Progress) -> None:
        manifest = begun.manifest
        self.before = begun.shards_done()
        """Shards that earlier runs have labelled."""
        self.outcome = Outcome(begun.folder.address, len(manifest), len(self.before))
        self.has_begun = False
        """Whether an engine was loaded."""
        self._begun, self._progress = begun, progress
        self._frames = sum(map(manifest.frames, range(len(manifest))))
        self._frames_done = sum(map(manifest.frames, self.before))
        self._began_s = 0.0

    def ready(self) -> None:
        """Note that an engine is loaded: with the first one the data set begins. Raises SinkError."""
        if not self.has_begun:
            self._begun.write()
            self._began_s = time.monotonic()
            self.has_begun = True

    def done(self, report: ShardReport) -> None:
        """Note that a shard is labelled."""
        self._frames_done += self._begun.manifest.frames(report.shard)
        self.outcome.done += 1
        self.outcome.frames += report.frames
        self.outcome.errors += report.errors

    def tell(self, at_work: int = 0) -> None:
        """Say how far it is. at_work: frames that are labelled of shards which are not done."""
        if not self.has_begun:
            return
        outcome = self.outcome
        rate = (outcome.frames + at_work) / max(1e-3, time.monotonic() - self._began_s)
        text, fraction = f"shard {outcome.done} of {outcome.shards}", outcome.done / outcome.shards
        if self._begun.manifest.is_counted:
            done = self._frames_done + at_work
            text, fraction = f"frame {done:,} of {self._frames:,}", done / max(1, self._frames)
        wrong = f", {len(outcome.errors)} could not be read" if outcome.errors else ""
        self._progress.reached(min(1.0, fraction), f"{text}, {rate:.1f} frames/s{wrong}")

    def finish(self, *, stopped: bool) -> Outcome:
        """Return what became of the run, and write `errors.jsonl` unless it was stopped."""
        outcome = self.outcome
        if self.has_begun:
            outcome.seconds = time.monotonic() - self._began_s
        outcome.stopped = stopped
        if not stopped:
            outcome.errors[:0] = self._begun.errors_of(self.before)
            self._begun.write_errors(outcome.errors)
        return outcome
