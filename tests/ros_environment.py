"""The environment with ROS 2 Jazzy that `.ci/ros` makes, and domains of its programs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from wheels import ROOT


@pytest.fixture(scope="session")
def ros_folder() -> Iterator[Path]:
    """Folder of the environment, brought up to date and kept from other checkouts meanwhile."""
    folder = Path(os.environ.get("DEDOS_ROS", ROOT / "build/ros")).resolve()
    if not (folder / ".workspace").is_file():
        pytest.skip(f"ROS 2 is not set up: .ci/ros {os.path.relpath(folder)}")
    with (folder / ".owned").open() as lock:
        while True:
            bring_up_to_date(folder)
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Another checkout may have taken it over in between.
            if (folder / ".workspace").read_text().endswith(f" {ROOT}\n"):
                break
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield folder


DOMAINS = range(1, 100)


@contextlib.contextmanager
def ros_domain() -> Iterator[int]:
    """Number of a domain that nobody on this machine is in, kept from other tests meanwhile."""
    for number in DOMAINS:
        with Path(tempfile.gettempdir(), f"dedos-domain-{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if _is_empty(number):
                yield number
                return
    raise AssertionError("every domain is in use")


def _is_empty(domain: int) -> bool:
    """Whether the port is free that the first process in a domain listens at."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", 7410 + 250 * domain))
        except OSError:
            return False
    return True


def bring_up_to_date(folder: Path) -> None:
    done = subprocess.run(
        [ROOT / ".ci/ros", folder], capture_output=True, text=True, timeout=570, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
