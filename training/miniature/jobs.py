"""Jobs of the miniature: subprocesses of one thread each, so many at a time, finished ones kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dedos_deploy.errors import DedosError
from dedos_deploy.training.interrupts import interruptible

POLL_S = 0.2
STOP_S = 30.0
"""How long a job may take to save and end after Ctrl-C."""

OnJob = Callable[["Job", str, float], None]
"""Told (job, "kept" | "started" | "done" | "stopped", seconds); seconds of a job that is stopped are to
be added to those of its other parts."""


class JobFailedError(DedosError):
    """A subprocess of the miniature ended with an error."""


@dataclass(frozen=True)
class Job:
    """One subprocess: `python -m module arguments`."""

    name: str
    module: str
    arguments: tuple[str, ...]
    done: Path
    """File that it writes last, whose presence means that it need not run again."""

    log: Path
    """Where its output goes."""


def run_jobs(jobs: Sequence[Job], *, at_once: int, on_job: OnJob) -> None:
    """Run what is not done yet, `at_once` at a time, in order.

    Raises JobFailedError naming the first job that fails, after stopping the others; KeyboardInterrupt
    after Ctrl-C or SIGTERM, once all have saved what they did and ended. Running again goes on.
    """
    waiting = []
    for job in jobs:
        if job.done.exists():
            on_job(job, "kept", 0.0)
        else:
            waiting.append(job)
    running: dict[subprocess.Popen[bytes], tuple[Job, float]] = {}
    with interruptible() as interrupted:
        try:
            while (waiting or running) and not interrupted.wait(POLL_S):
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    running[_start(job)] = job, time.monotonic()
                    on_job(job, "started", 0.0)
                for process in [p for p in running if p.poll() is not None]:
                    job, began = running.pop(process)
                    if process.returncode or not job.done.exists():
                        raise JobFailedError(_failure(job, process.returncode))
                    on_job(job, "done", time.monotonic() - began)
        finally:
            _stop(list(running))
            for job, began in running.values():
                on_job(job, "stopped", time.monotonic() - began)
    if interrupted.is_set():
        raise KeyboardInterrupt("interrupted; what is done is kept, run the same command to go on")


def _start(job: Job) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with job.log.open("ab") as log:
        # A session of its own: the terminal's Ctrl-C reaches the parent alone, which stops these.
        return subprocess.Popen(
            [sys.executable, "-m", job.module, *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _failure(job: Job, code: int) -> str:
    lines = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1][-300:] if lines else "it wrote nothing"
    return (
        f"{job.name} ended with code {code}: {last}; see {job.log}, then run the same command again"
    )
