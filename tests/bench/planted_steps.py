"""benchmarks/first_run_on_gpu.py with steps of its own, one for every way in which a step can end."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import first_run_on_gpu  # noqa: E402
from first_run.kernels import run_tests  # noqa: E402
from first_run.steps import Failed, Record, Skipped, Step  # noqa: E402

from dedos_deploy.errors import EngineError  # noqa: E402


def works(record: Record) -> None:
    record.note(first=1)
    record.note(second=[2.5, "text"])


def hangs(record: Record) -> None:
    record.note(got_so_far=7)
    if os.fork() == 0:
        threading.Event().wait()
    print("about to hang", flush=True)
    threading.Lock().acquire()
    threading.Event().wait()


def dies(record: Record) -> None:
    os.abort()


def leaves(record: Record) -> None:
    os._exit(3)


def misses(record: Record) -> None:
    raise Skipped("no such thing here")


def disagrees(record: Record) -> None:
    raise Failed("scores differ by 0.5")


def refuses(record: Record) -> None:
    raise EngineError("the GPU has no room")


def raises(record: Record) -> None:
    raise ZeroDivisionError("by hand")


def tests(record: Record) -> None:
    run_tests(record, Path(os.environ["PLANTED_TESTS"]))


STEPS = (
    Step("works", 20, works),
    Step("hangs", 0.5, hangs),
    Step("dies", 20, dies),
    Step("leaves", 20, leaves),
    Step("misses", 20, misses),
    Step("disagrees", 20, disagrees),
    Step("refuses", 20, refuses),
    Step("raises", 20, raises),
    Step("hangs_long", 600, hangs),
    Step("tests", 60, tests),
)

if __name__ == "__main__":
    sys.exit(first_run_on_gpu.main(sys.argv[1:], STEPS))
