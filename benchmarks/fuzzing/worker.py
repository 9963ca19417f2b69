"""The process that runs cases: bound in memory and time, and free to die of any of them."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dedos_deploy.bench.memory import memory_mb
from dedos_deploy.errors import DedosError
from fuzzing.subject import Limits, Misbehaved, Subject, random_of
from fuzzing.tally import Outcome

PACKAGE = str(Path(__import__("dedos_deploy").__file__).parent) + os.sep
FUZZER = str(Path(__file__).parent) + os.sep
LONGEST_MESSAGE = 2000
LONGEST_TEXT = 300
GRACE_S = 5.0
"""Between the traceback of a hang and the alarm that ends a process which cannot even write one."""

_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Worker:
    """Runs cases of a subject and reports each, as lines of JSON, before and after."""

    def __init__(self, subject: Subject, seed: int, scratch: Path, report: int) -> None:
        """scratch: a folder of its own; report: descriptor to write lines to."""
        self.subject = subject
        self.seed = seed
        self._folder = scratch / "case"
        self._report = report
        self._trace: IO[str] = open(scratch / "trace.txt", "w+")  # noqa: SIM115 - as long as we live
        self._stderr = scratch / "stderr.txt"

    def run(self, seeds: Path, cases: Iterable[int], *, whole: bool) -> None:
        """Open the subject, take in its whole seeds if `whole`, then run cases until the end."""
        self._isolate()
        self.subject.open(seeds)
        _bound(self.subject.limits)
        try:
            if whole:
                self._say(whole=self._take_seeds())
            for case in cases:
                self._say(at=case)
                self._say(done=case, **asdict(self._outcome(case)))
        finally:
            self.subject.close()

    def _isolate(self) -> None:
        os.setsid()
        ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGALRM, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        # What libraries say of every damaged file; the last of it explains a crash.
        target = os.open(self._stderr, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(target, 2)
        os.dup2(target, 1)
        os.close(target)
        faulthandler.enable(self._trace)

    def _take_seeds(self) -> int:
        count = 0
        for made in self.subject.whole(_emptied(self._folder)):
            self.subject.attempt(made)
            count += 1
        return count

    def _outcome(self, case: int) -> Outcome:
        folder = _emptied(self._folder)
        os.ftruncate(2, 0)
        made = self.subject.make(random_of(self.seed, self.subject.name, case), folder)
        limits = self.subject.limits
        _forget_peak()
        before_mb, started_s = memory_mb(), time.monotonic()
        faulthandler.dump_traceback_later(limits.seconds, exit=True, file=self._trace)
        signal.alarm(int(limits.seconds + GRACE_S))
        try:
            verdict = self._attempt(made)
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
        seconds, peak_mb = time.monotonic() - started_s, memory_mb("VmHWM")
        elsewhere_mb = self.subject.resident_mb()
        if peak_mb - before_mb > limits.memory_mb:
            then = " ".join(filter(None, (verdict["verdict"], verdict.get("error"))))
            grown = f"rose from {before_mb:.0f} to {peak_mb:.0f} MB, then {then}"
            verdict = {**verdict, "verdict": "memory", "error": "peak", "text": grown}
        return Outcome(
            **verdict,
            seconds=seconds,
            peak_mb=peak_mb if elsewhere_mb is None else elsewhere_mb,
        )

    def _attempt(self, made: Any) -> dict[str, str]:
        try:
            self.subject.attempt(made)
        except DedosError as error:
            return _refusal(error)
        except self.subject.allowed as error:
            return {"verdict": "refused", "error": type(error).__name__}
        except Misbehaved as error:
            return {
                "verdict": error.kind,
                "error": type(error).__name__,
                "text": str(error),
                "where": _where(error.__traceback__),
            }
        except MemoryError as error:
            gc.collect()
            return _found("memory", error)
        # Not only Exception: panics of libraries written in Rust are none.
        except BaseException as error:
            return _found("traceback", error)
        return {"verdict": "accepted"}

    def _say(self, **values: Any) -> None:
        os.write(self._report, json.dumps(values).encode() + b"\n")


def _refusal(error: DedosError) -> dict[str, str]:
    text = str(error)
    if not text.isprintable() or len(text) > LONGEST_MESSAGE:
        # A terminal obeys what is not printable, and a sentence of pages is none.
        return _found("message", error)
    return {"verdict": "refused", "error": type(error).__name__}


def _found(kind: str, error: BaseException) -> dict[str, str]:
    return {
        "verdict": kind,
        "error": f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins."),
        "where": _where(error.__traceback__),
        "text": ascii(str(error))[1:-1][:LONGEST_TEXT],
    }


def _where(trace: TracebackType | None) -> str:
    frames = [(one.filename, one.name, one.lineno) for one in traceback.extract_tb(trace)]
    return innermost(frames[::-1])


def innermost(frames: Sequence[tuple[str, str, object]]) -> str:
    """Return `file function:line` of the first frame that is the package's, else of the fuzzer's.

    frames: path, function and line, most recent call first.
    """
    for root in (PACKAGE, FUZZER):
        for path, function, line in frames:
            if path.startswith(root):
                return f"{path.removeprefix(root)} {function}:{line}"
    return ""


def _bound(limits: Limits) -> None:
    """Limit the address space from here on; no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = int(memory_mb("VmSize") + limits.address_space_mb) << 20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _forget_peak() -> None:
    """Let the kernel count the peak of resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _emptied(folder: Path) -> Path:
    if folder.exists() and any(os.scandir(folder)):
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    return folder
