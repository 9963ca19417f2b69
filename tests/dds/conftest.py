"""A domain of each test's own, and the programs on its other side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dds_sides import Peer, Peers
from ros_environment import ros_domain, ros_folder

__all__ = ["ros_folder"]

SETTINGS = (
    "ROS_DOMAIN_ID",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_STATIC_PEERS",
    "ROS_LOCALHOST_ONLY",
    "CYCLONEDDS_URI",
)


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The number of a domain that nobody on this machine is in."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    with ros_domain() as number:
        yield number


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
