"""Counts of a run: what was tried, refused and found, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

KINDS = ("crash", "hang", "memory", "traceback")
"""Findings that every subject may have; some have others, such as `answer` and `result`."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    verdict: `accepted`, `refused` or a kind of finding; error: class of the error, or name of the
    signal; where: innermost line of the package
    that saw it, or of the fuzzer where native code failed; text: what it said; seconds: it took;
    peak_mb: resident memory at its highest.
    """

    verdict: str
    error: str = ""
    where: str = ""
    text: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0

    @property
    def is_finding(self) -> bool:
        return self.verdict not in ("accepted", "refused")


@dataclass
class Finding:
    """A fault, however often it was met; case: the first that showed it."""

    case: int
    outcome: Outcome
    times: int = 1

    def to_dict(self, subject: str, seed: int) -> dict[str, Any]:
        outcome = self.outcome
        return {
            "kind": outcome.verdict,
            "error": outcome.error,
            "where": outcome.where,
            "text": outcome.text,
            "times": self.times,
            "case": self.case,
            "repeat": f"--seed {seed} --only {subject} --case {self.case}",
        }


@dataclass
class Tally:
    """Counts of one subject; slowest: seconds and number of that case; seeds: whole inputs taken in."""

    subject: str
    seed: int
    tried: int = 0
    accepted: int = 0
    seeds: int = 0
    seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, 0)
    peak_mb: float = 0.0

    def add(self, case: int, outcome: Outcome) -> bool:
        """Count a case; return whether it is a finding of a new kind."""
        self.tried += 1
        self.slowest = max(self.slowest, (outcome.seconds, case))
        self.peak_mb = max(self.peak_mb, outcome.peak_mb)
        if outcome.verdict == "accepted":
            self.accepted += 1
        elif outcome.verdict == "refused":
            self.refused[outcome.error] += 1
        else:
            return self._found(case, outcome)
        return False

    def _found(self, case: int, outcome: Outcome) -> bool:
        # Lines move and messages hold numbers; what failed in which function is one fault.
        key = (outcome.verdict, outcome.error, outcome.where.partition(":")[0])
        if key in self.findings:
            self.findings[key].times += 1
            return False
        self.findings[key] = Finding(case, outcome)
        return True

    @property
    def found(self) -> Counter[str]:
        """How many cases were findings, by kind."""
        counts = Counter(dict.fromkeys(KINDS, 0))
        for finding in self.findings.values():
            counts[finding.outcome.verdict] += finding.times
        return counts

    def to_dict(self) -> dict[str, Any]:
        return {
            "tried": self.tried,
            "accepted": self.accepted,
            "refused": dict(self.refused),
            "found": dict(self.found),
            "seeds": self.seeds,
            "seconds": self.seconds,
            "slowest_s": self.slowest[0],
            "slowest_case": self.slowest[1],
            "peak_mb": self.peak_mb,
            "findings": [one.to_dict(self.subject, self.seed) for one in self.findings.values()],
        }


def table(tallies: Sequence[Tally]) -> str:
    """Return the counts as lines of text."""
    lines = [
        f"{'subject':12} {'tried':>8} {'accepted':>8} {'refused':>8} {'found':>6} {'slowest s':>9} "
        f"{'(case)':>8} {'peak MB':>8} {'seconds':>8}  refused as"
    ]
    for one in tallies:
        refused = ", ".join(f"{name} {count}" for name, count in one.refused.most_common())
        lines.append(
            f"{one.subject:12} {one.tried:8} {one.accepted:8} {one.refused.total():8} "
            f"{one.found.total():6} {one.slowest[0]:9.2f} {one.slowest[1]:8} {one.peak_mb:8.0f} "
            f"{one.seconds:8.0f}  {refused or '-'}"
        )
    for one in tallies:
        lines += [text for finding in one.findings.values() for text in _found_lines(one, finding)]
    return "\n".join(lines)


def _found_lines(tally: Tally, finding: Finding) -> list[str]:
    values = finding.to_dict(tally.subject, tally.seed)
    return [
        "",
        f"{tally.subject}: {values['kind']}, {values['error']}, {values['times']} times, at "
        f"{values['where'] or 'no line of ours'}",
        f"  {values['text']}",
        f"  again: {values['repeat']}",
    ]
