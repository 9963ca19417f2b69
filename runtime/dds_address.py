"""Topics of ROS 2 by address, and where their domain is looked for."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast
from xml.sax.saxutils import quoteattr

from dedos_deploy.borders import Refusal
from dedos_deploy.errors import nearest
from dedos_deploy.runtime.uri import settings_of

SCHEME = "ros2:"
Reliability = Literal["auto", "reliable", "best_effort"]
DOMAINS = range(233)
"""Numbers of domains that have ports; on Linux those from 102 to 214 share them with programs of all
kinds."""
DEPTHS = range(1, 101)
RANGES = ("LOCALHOST", "SUBNET", "SYSTEM_DEFAULT")
_NO_HOST = "0.0.0.0"
_NAME = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")


@dataclass(frozen=True)
class TopicAddress:
    """What `ros2:/camera/image?domain=3` asks for."""

    uri: str
    name: str
    """Of a topic or namespace, with its slash."""

    domain: int
    reliability: Reliability
    depth: int
    """Messages kept for whoever is slow."""

    settings: Mapping[str, str]
    """Those besides, as written."""


def is_topic(uri: str) -> bool:
    """Return whether an address is of ROS 2.

    >>> is_topic("ros2:/camera/image"), is_topic("out.mcap?profile=ros2")
    (True, False)
    """
    return uri.startswith(SCHEME)


def parse_topic(
    uri: str,
    environment: Mapping[str, str],
    *,
    refusal: Refusal,
    reliabilities: Sequence[str],
    others: Sequence[str] = (),
) -> TopicAddress:
    """Return what an address asks for. Raises the error that `refusal` makes.

    environment: of the process, for ROS_DOMAIN_ID; reliabilities: those allowed, the first where none
    is named; others: settings that are taken besides domain, reliability and depth.
    """
    name, _, query = uri.removeprefix(SCHEME).partition("?")
    if not _NAME.fullmatch(name):
        raise refusal(
            f"{uri!r} names no topic; write ros2:/camera/image, of letters, digits, _ and / that do "
            "not follow each other and no digit at the start of a part"
        )
    known = ("domain", "reliability", "depth", *others)
    takes = f"it takes {', '.join(known)}"
    settings = settings_of(query, known, what=repr(uri), takes=takes, refusal=refusal)
    reliability = settings.pop("reliability", reliabilities[0])
    if reliability not in reliabilities:
        raise refusal(
            f"{uri!r}: reliability is {' or '.join(reliabilities)}, not {reliability[:40]!r}"
            f"{nearest(reliability, reliabilities)}"
        )
    inherited = environment.get("ROS_DOMAIN_ID") or "0"
    if "domain" in settings:
        domain = _whole(f"{uri!r}: domain", settings.pop("domain"), DOMAINS, refusal)
    else:
        domain = _whole("ROS_DOMAIN_ID", inherited, DOMAINS, refusal)
    depth = _whole(f"{uri!r}: depth", settings.pop("depth", "5"), DEPTHS, refusal)
    return TopicAddress(uri, name, domain, cast(Reliability, reliability), depth, settings)


def _whole(what: str, text: str, allowed: range, refusal: Refusal) -> int:
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or int(text) not in allowed:
        raise refusal(
            f"{what} is a whole number from {allowed[0]} to {allowed[-1]}, not {text[:40]!r}"
        )
    return int(text)


def discovery_config(environment: Mapping[str, str], *, refusal: Refusal) -> str | None:
    """Return Cyclone DDS's configuration for whom a process looks for, None for its own.

    As in ROS 2: ROS_AUTOMATIC_DISCOVERY_RANGE (here LOCALHOST where it is unset), ROS_STATIC_PEERS
    and the older ROS_LOCALHOST_ONLY. CYCLONEDDS_URI is the user's own configuration and wins. Raises
    the error that `refusal` makes.
    """
    if environment.get("CYCLONEDDS_URI"):
        return None
    area = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "LOCALHOST"
    if environment.get("ROS_LOCALHOST_ONLY") == "1":
        area = "LOCALHOST"
    if area == "OFF":
        raise refusal(
            "ROS_AUTOMATIC_DISCOVERY_RANGE is OFF, so that no topic can be found or offered; unset "
            f"it, or choose {', '.join(RANGES)}"
        )
    if area not in RANGES:
        raise refusal(
            f"ROS_AUTOMATIC_DISCOVERY_RANGE is {area[:40]!r}{nearest(area, RANGES)}; it can be "
            f"{', '.join(RANGES)}"
        )
    if area == "SYSTEM_DEFAULT":
        return None
    peers = [peer.strip() for peer in environment.get("ROS_STATIC_PEERS", "").split(";")]
    found = [_host_address(peer, refusal) for peer in peers if peer]
    return _config(on_this_machine=area == "LOCALHOST", peers=found)


def _host_address(peer: str, refusal: Refusal) -> str:
    """Return the address of a host, for Cyclone DDS ends the process over one that it does not know."""
    try:
        found = str(socket.getaddrinfo(peer, None, socket.AF_INET, socket.SOCK_DGRAM)[0][4][0])
    except (OSError, UnicodeError):
        found = _NO_HOST
    if found == _NO_HOST:
        raise refusal(
            f"ROS_STATIC_PEERS names {peer[:80]!r}, which is no host that this machine knows by an IPv4 "
            "address; write names or addresses with ; between them, as 10.0.0.5;robot.local"
        )
    return found


def _config(*, on_this_machine: bool, peers: Sequence[str]) -> str:
    general = ""
    if on_this_machine:
        general = "<AllowMulticast>false</AllowMulticast>"
        if not peers:
            # Otherwise it listens where the first network is, too. What never leaves the machine goes
            # in the largest pieces that there are, so that a reader's small buffer loses fewer.
            general += (
                '<Interfaces><NetworkInterface address="127.0.0.1"/></Interfaces>'
                "<MaxMessageSize>65500B</MaxMessageSize><FragmentSize>63000B</FragmentSize>"
            )
        peers = ["127.0.0.1", *peers]
    named = "".join(f"<Peer address={quoteattr(peer)}/>" for peer in peers)
    # Without multicast a process is found by its port, which its index gives: as many as ROS has.
    discovery = (
        "<ParticipantIndex>auto</ParticipantIndex>"
        f"<MaxAutoParticipantIndex>32</MaxAutoParticipantIndex><Peers>{named}</Peers>"
    )
    internal = (
        # What is missing of a large message is told, and asked for, at once: after the 100 ms of Cyclone
        # DDS newer ones have taken its place (benchmarks/ros2_dds.py).
        '<HeartbeatInterval min="1ms" minsched="5ms">10ms</HeartbeatInterval>'
        "<NackDelay>10ms</NackDelay>"
        # How long each writer that is closed waits for a reader that hangs; in all less than the two
        # seconds of a run that is interrupted.
        "<WriterLingerDuration>200ms</WriterLingerDuration>"
    )
    return (
        f'<CycloneDDS><Domain Id="any"><General>{general}</General><Discovery>{discovery}</Discovery>'
        f"<Internal>{internal}</Internal></Domain></CycloneDDS>"
    )
