"""Runs a subject in processes of its own, and sees how each of them ends."""

from __future__ import annotations

import importlib
import json
import os
import re
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from children import ended

from fuzzing.subject import Subject, random_of
from fuzzing.tally import Outcome, Tally
from fuzzing.worker import GRACE_S, Worker, innermost

OPENING_S = 120.0
"""Longest time for writing seeds, and for opening a subject."""

PATIENCE_S = 3.0
"""For a process to end by itself once nobody listens to it any more."""

CASES_PER_PROCESS = 2000
"""After so many a new process starts, so that what one leaves behind does not count for the next."""

_FAILURE = "failure.txt"
_LINE = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


class FuzzingFailed(Exception):
    """The fuzzer itself is at fault: no seeds, or seeds that are refused."""


@dataclass
class Campaign:
    """Cases of one subject under one seed; scratch: an empty folder for what it writes;
    on_finding: called with the number of a case that found something new."""

    subject: Subject
    seed: int
    scratch: Path
    on_finding: Callable[[int], None] = lambda case: None

    def __post_init__(self) -> None:
        self.tally = Tally(self.subject.name, self.seed)
        self._seeds = self.scratch / "seeds"
        self._next = 0
        self._last = Outcome("not run")

    def prepare(self) -> None:
        """Import what the subject needs and write its seeds. Raises FuzzingFailed."""
        for module in self.subject.preload:
            importlib.import_module(module)
        self._seeds.mkdir(parents=True)
        self._in_child(lambda: self.subject.write_seeds(self._seeds), "writing its seeds")

    def run(self, seconds: float, most: int | None = None) -> Tally:
        """Run cases from 0 on for so long, not counting what starting takes, or `most` of them."""
        end = sys.maxsize if most is None else most
        while self._next < end and (self.tally.seconds < seconds or self.tally.tried == 0):
            self._run_process(range(self._next, min(end, self._next + CASES_PER_PROCESS)), seconds)
        return self.tally

    def repeat(self, case: int) -> Outcome:
        """Run one case and return what became of it."""
        self._run_process(range(case, case + 1), 0.0)
        return self._last

    def keep(self, case: int, folder: Path) -> None:
        """Make the input of a case again and put it into `folder`. Raises FuzzingFailed."""

        def make() -> None:
            # Of an earlier run with this seed, so the same.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self.subject.open(self._seeds)
            made = self.subject.make(random_of(self.seed, self.subject.name, case), folder)
            self.subject.keep(made, folder)
            self.subject.close()

        self._in_child(make, f"making case {case} again")

    def _run_process(self, cases: Iterable[int], seconds: float) -> None:
        reader, writer = os.pipe()
        place = self.scratch / "worker"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        child = os.fork()
        if child == 0:
            os.close(reader)
            worker = Worker(self.subject, self.seed, place, writer)
            _leave(lambda: worker.run(self._seeds, cases, whole=self.tally.seeds == 0), place)
        os.close(writer)
        try:
            at, done = self._follow(reader, seconds)
        finally:
            os.close(reader)
            status = ended(child, PATIENCE_S)
        if (place / _FAILURE).exists() and not done:
            when = "opened" if at is None else f"run, at case {at}"
            raise FuzzingFailed(f"{self.subject.name} cannot be {when}: {_tail(place)}")
        if at is not None:
            self._count(at, _death(status, place))
        elif status != 0 and not done:
            raise FuzzingFailed(f"{self.subject.name} took its own seeds badly: {_tail(place)}")

    def _follow(self, reader: int, seconds: float) -> tuple[int | None, bool]:
        """Count what a process reports.

        Return the case it died in, None if it was between two, and whether the time is over.
        """
        at: int | None = None
        earlier_s, began_s = self.tally.seconds, None
        lines = _Lines(reader, OPENING_S)
        for line in lines:
            values = json.loads(line)
            if "whole" in values:
                self.tally.seeds = values["whole"]
                continue
            lines.longest_s = self.subject.limits.seconds + 2 * GRACE_S
            began_s = began_s or time.monotonic()
            if "at" in values:
                at, self._next = values["at"], values["at"] + 1
                continue
            at = None
            self._count(values.pop("done"), Outcome(**values))
            self.tally.seconds = earlier_s + time.monotonic() - began_s
            if self.tally.seconds >= seconds:
                return None, True
        if began_s is not None:
            self.tally.seconds = earlier_s + time.monotonic() - began_s
        return at, False

    def _count(self, case: int, outcome: Outcome) -> None:
        self._last = outcome
        if self.tally.add(case, outcome):
            self.on_finding(case)

    def _in_child(self, work: Callable[[], None], doing: str) -> None:
        place = self.scratch / "helper"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        child = os.fork()
        if child == 0:
            os.setsid()
            _leave(work, place)
        try:
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        finally:
            status = ended(child, 0.0)
        if status != 0:
            raise FuzzingFailed(f"{self.subject.name} failed at {doing}: {_tail(place)}")


def _leave(work: Callable[[], None], place: Path) -> None:
    """Do the work of a child and end it, whatever happens, without the parent's clean-up."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        (place / _FAILURE).write_text(traceback.format_exc())
    finally:
        sys.stdout.flush()
        os._exit(code)


class _Lines:
    """Lines of a pipe as they come; longest_s: the silence that ends them."""

    def __init__(self, reader: int, longest_s: float) -> None:
        self.longest_s = longest_s
        self._reader = reader

    def __iter__(self) -> Iterator[bytes]:
        waiting = b""
        while select.select([self._reader], [], [], self.longest_s)[0]:
            arrived = os.read(self._reader, 1 << 16)
            if not arrived:
                return
            *lines, waiting = (waiting + arrived).split(b"\n")
            yield from lines


def _death(status: int | None, place: Path) -> Outcome:
    """Return the finding of a process that died in a case."""
    trace = (place / "trace.txt").read_text(errors="replace")
    where = _innermost(trace)
    said = (place / "stderr.txt").read_text(errors="replace")
    text = ascii(" ".join(said.split())[-300:])[1:-1]
    if trace.startswith("Timeout") or status in (None, -signal.SIGALRM):
        return Outcome("hang", "no end", where, text)
    if status == -signal.SIGKILL:
        return Outcome(
            "memory", "SIGKILL", where, "the system ended it, as it does for want of memory"
        )
    name = signal.Signals(-status).name if status < 0 else f"exit {status}"
    return Outcome("crash", name, where, text)


def _innermost(trace: str) -> str:
    """Return the innermost line of ours in what faulthandler wrote, most recent call first."""
    return innermost([(path, function, line) for path, line, function in _LINE.findall(trace)])


def _tail(place: Path) -> str:
    texts = [path.read_text(errors="replace") for path in sorted(place.glob("*.txt"))]
    return "\n".join(text.strip()[-2000:] for text in texts if text.strip()) or "it said nothing"


def run_all(
    campaigns: Sequence[Campaign], seconds: float, most: int | None = None
) -> Iterator[Tally]:
    """Run campaigns one after the other, the time left shared evenly; yield counts as they begin.

    most: cases of each, None for as many as there is time for.
    """
    for number, campaign in enumerate(campaigns):
        yield campaign.tally
        campaign.prepare()
        campaign.run(seconds / (len(campaigns) - number), most)
        seconds -= campaign.tally.seconds
        shutil.rmtree(campaign.scratch, ignore_errors=True)
