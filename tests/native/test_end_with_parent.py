"""A process that ends after its parent, whatever holds its GIL."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dedos_deploy import _native

CHILD = """
import ctypes, sys, time
from dedos_deploy import _native
_native.end_with_parent(int(sys.argv[1]))
print("ready", flush=True)
ctypes.PyDLL(None).sleep(60)  # a PyDLL keeps the GIL
"""

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE)
assert child.stdout.readline() == b"ready\\n"
print(child.pid, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def killed(grace_s: int) -> int:
    """Return a process that holds its GIL, and whose parent was killed just now."""
    command = [sys.executable, "-c", PARENT, CHILD, str(grace_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(1.5)
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
    return child


def test_a_process_that_holds_its_gil_ends_with_its_parent() -> None:
    child = killed(grace_s=1)
    deadline_s = time.monotonic() + 20.0
    while is_running(child):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_it_has_its_time_to_end_by_itself() -> None:
    child = killed(grace_s=3600)
    time.sleep(3.0)
    assert is_running(child)
    subprocess.run(["kill", "-9", str(child)], check=True)


@pytest.mark.parametrize("wrong", [-1, 3601])
def test_a_time_that_cannot_be_waited_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="grace_s"):
        _native.end_with_parent(wrong)


@pytest.mark.parametrize("wrong", [None, "5", 1.5])
def test_a_time_that_is_no_number_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="grace_s"):
        _native.end_with_parent(wrong)  # type: ignore[arg-type]
