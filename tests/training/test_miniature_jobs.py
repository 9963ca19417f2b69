"""Jobs of the miniature: kept, failed, interrupted, and the time that they took."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dedos_deploy.training.miniature.jobs import Job, JobFailedError, run_jobs
from dedos_deploy.training.miniature.run import SECONDS, _teller

WORKER = """
import pathlib, signal, sys, time
done, wait, code = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
def save(*_):
    time.sleep(3)
    done.with_suffix(".saved").touch()
    sys.exit(1)
if code == 4:
    signal.signal(signal.SIGTERM, save)
    done.with_suffix(".ready").touch()
time.sleep(wait)
print("the reason")
if not code:
    done.write_text("x")
sys.exit(code)
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "fake_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "fake_worker"


def job(folder: Path, module: str, name: str, wait: float = 0.0, code: int = 0) -> Job:
    done = folder / f"{name}.done"
    return Job(name, module, (str(done), str(wait), str(code)), done, folder / f"{name}.log")


def test_finished_jobs_are_kept_and_the_others_run(tmp_path: Path, worker: str) -> None:
    jobs = [job(tmp_path, worker, name) for name in ("a", "b", "c")]
    jobs[1].done.write_text("earlier")
    told: list[tuple[str, str]] = []
    run_jobs(jobs, at_once=2, on_job=lambda j, event, _: told.append((j.name, event)))
    assert ("b", "kept") in told and ("b", "started") not in told
    assert jobs[1].done.read_text() == "earlier" and jobs[2].done.exists()


def test_a_failed_job_is_named_with_its_last_line_and_stops_the_others(
    tmp_path: Path, worker: str
) -> None:
    jobs = [job(tmp_path, worker, "bad", code=3), job(tmp_path, worker, "slow", wait=60)]
    before = time.monotonic()
    with pytest.raises(JobFailedError, match="bad ended with code 3: the reason; see .*bad.log"):
        run_jobs(jobs, at_once=2, on_job=lambda *_: None)
    assert time.monotonic() - before < 30 and not jobs[1].done.exists()


def test_an_interrupt_ends_all_jobs_in_bounded_time(tmp_path: Path, worker: str) -> None:
    jobs = [job(tmp_path, worker, name, wait=60) for name in ("a", "b")]
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, at_once=2, on_job=lambda *_: None)
    assert time.monotonic() - before < 30
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert str(jobs[0].done) not in left.stdout


def test_a_command_that_is_interrupted_waits_for_jobs_that_save(
    tmp_path: Path, worker: str
) -> None:
    """Longer than the two seconds within which commands end that have nothing to wait for."""
    program = (
        "import pathlib, sys\n"
        "from dedos_deploy.interrupts import interrupts_taken\n"
        "from dedos_deploy.training.miniature.jobs import Job, run_jobs\n"
        "done = pathlib.Path(sys.argv[1])\n"
        f"job = Job('a', {worker!r}, (str(done), '60', '4'), done, done.with_suffix('.log'))\n"
        "with interrupts_taken():\n"
        "    run_jobs([job], at_once=1, on_job=lambda job, event, s: print(event, s > 2, flush=True))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.done")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "a.ready").exists():
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    shown, errors = running.communicate(timeout=60)
    assert (tmp_path / "a.saved").exists(), errors
    assert shown == "started False\nstopped True\n"
    assert "KeyboardInterrupt: interrupted; what is done is kept, run the same command" in errors


def test_the_time_of_a_job_is_that_of_all_its_parts(tmp_path: Path, worker: str) -> None:
    (tmp_path / SECONDS).write_text("{}")
    said: list[str] = []
    told, one = _teller(said.append, tmp_path), job(tmp_path, worker, "a")
    for event, seconds in (("started", 0.0), ("stopped", 60.0), ("started", 0.0), ("done", 7.0)):
        told(one, event, seconds)
    assert json.loads((tmp_path / SECONDS).read_text()) == {"a": 67.0}
    assert said == ["a: started", "a: stopped", "a: started", "a: done after 7 s"]
