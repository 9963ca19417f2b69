"""The environment with ROS 2 Jazzy that `.ci/ros` makes, and domains of its programs."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ci_environments import environment


@pytest.fixture(scope="session")
def ros_folder() -> Iterator[Path]:
    with environment("ros", "workspace") as folder:
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
