"""A domain of each test's own, and the programs on its other side."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

import pytest
from dds_sides import Peer, Peers
from ros_environment import ros_folder

__all__ = ["ros_folder"]

SETTINGS = (
    "ROS_DOMAIN_ID",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_STATIC_PEERS",
    "ROS_LOCALHOST_ONLY",
    "CYCLONEDDS_URI",
)


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of a domain that nobody on this machine is in."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for number in random.Random(os.getpid()).sample(range(1, 100), 99):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", 7410 + 250 * number))
            except OSError:
                continue
            return number
    raise AssertionError("every domain is in use")


@pytest.fixture
def peers(domain: int) -> Iterator[Peers]:
    """Starts programs on the other side in the test's domain, which end with the test."""
    started: list[Peer] = []

    def start(verb: str, *arguments: object) -> Peer:
        started.append(Peer(verb, domain, *arguments))
        return started[-1]

    yield start
    for peer in started:
        peer.kill()
