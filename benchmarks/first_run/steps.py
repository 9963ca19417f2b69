"""A step: work with a time limit, in a process of its own, whose figures are on disk as soon as known."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from children import ended

from dedos_deploy.errors import DedosError
from dedos_deploy.files import write_atomically

LONGEST_TAIL = 2000
_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_FIGURES, _OUTCOME, _SAID = "figures.json", "outcome.json", "said.txt"


class Skipped(Exception):
    """What a step needs and this machine does not have."""


class Failed(Exception):
    """What came out otherwise than promised."""


class Record:
    """The figures of one step."""

    def __init__(self, place: Path, models: Path) -> None:
        """place: a folder of the step's own; models: one for what several steps need."""
        self.models = models
        self._path = place / _FIGURES
        self.figures: dict[str, Any] = {}

    def note(self, **figures: Any) -> None:
        """Add figures, JSON values by name; they outlive a step that is killed."""
        self.figures |= figures
        write_atomically(self._path, json.dumps(self.figures).encode())


@dataclass(frozen=True)
class Step:
    """One thing to find out."""

    name: str
    limit_s: float
    work: Callable[[Record], None]
    """Notes figures; raises Skipped or Failed, and whatever else goes wrong counts as failed."""


def run_step(step: Step, limit_s: float, place: Path, models: Path) -> dict[str, Any]:
    """Run a step in a process that is killed after `limit_s`, and return what came of it.

    Keys: outcome (`ok`, `failed`, `skipped`, `timed out`), reason, seconds, limit_s, figures.
    """
    place.mkdir()
    began_s = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _child(step, place, models)
    status = ended(child, limit_s)
    outcome, reason = _outcome(status, limit_s, place)
    return {
        "outcome": outcome,
        "reason": reason,
        "seconds": round(time.monotonic() - began_s, 1),
        "limit_s": round(limit_s, 1),
        "figures": _read(place / _FIGURES),
    }


def not_run(reason: str) -> dict[str, Any]:
    """Return what stands in the results for a step that had no time."""
    return {"outcome": "skipped", "reason": reason, "seconds": 0.0, "limit_s": 0.0, "figures": {}}


def _child(step: Step, place: Path, models: Path) -> None:
    """Do the work and end this process, whatever happens, without the parent's clean-up."""
    os.setsid()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    said = os.open(place / _SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 1
    try:
        outcome, reason = _attempt(step, Record(place, models))
        write_atomically(
            place / _OUTCOME, json.dumps({"outcome": outcome, "reason": reason}).encode()
        )
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _attempt(step: Step, record: Record) -> tuple[str, str]:
    try:
        step.work(record)
    except Skipped as why:
        return "skipped", str(why)
    except (Failed, DedosError) as why:
        return "failed", str(why)
    # Whatever libraries raise on a machine that nobody has seen yet is what this is run for.
    except BaseException as error:
        return "failed", f"{type(error).__name__}: {error}; {traceback.format_exc(limit=-3)}"
    return "ok", ""


def _outcome(status: int | None, limit_s: float, place: Path) -> tuple[str, str]:
    found = _read(place / _OUTCOME)
    if found:
        return found["outcome"], found["reason"]
    if status is None:
        return "timed out", f"not done after {limit_s:.0f} s{_last_words(place)}"
    how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return "failed", f"the process died: {how}{_last_words(place)}"


def _last_words(place: Path) -> str:
    try:
        said = (place / _SAID).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return f"; it said: {said.strip()[-LONGEST_TAIL:]}" if said.strip() else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found
