"""How often each address may ask, in bounded memory."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

BURST = 3
"""Requests at once, in seconds of the rate."""
MOST_PEERS = 4096
"""Addresses that are remembered; one that is forgotten starts anew."""


def peer_of(address: str) -> str:
    """Return whom an address stands for: itself, or its network where one user has a whole one.

    >>> peer_of("10.0.0.7"), peer_of("::ffff:10.0.0.7"), peer_of("2001:db8::1:2:3:4")
    ('10.0.0.7', '10.0.0.7', '2001:db8::')
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False).network_address)


class Rates:
    """A bucket per peer that fills with `per_second` and holds three seconds' worth.

    For one thread. Peers that asked longest ago are forgotten first.
    """

    def __init__(
        self,
        per_second: float,
        *,
        most_peers: int = MOST_PEERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._most_peers = most_peers
        self._clock = clock
        self._peers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def take(self, peer: str) -> bool:
        """Return whether `peer` may ask now, and count it if so."""
        now_s, full = self._clock(), BURST * self._per_second
        left, at_s = self._peers.pop(peer, (full, now_s))
        left = min(full, left + (now_s - at_s) * self._per_second)
        is_allowed = left >= 1
        self._peers[peer] = left - is_allowed, now_s
        if len(self._peers) > self._most_peers:
            self._peers.popitem(last=False)
        return is_allowed
