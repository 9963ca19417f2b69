"""Connections: how many at once, from whom, and how long each may take for what it has to do."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from dedos_deploy.runtime.serving.guard import CONNECTION, is_loopback
from dedos_deploy.runtime.serving.peers import peer_of

log = logging.getLogger(__package__)

MOST_CONNECTIONS = 128
PART_OF_DESCRIPTORS = 4
"""At most one of so many descriptors is a connection's: cameras, outputs and models need the rest."""
SWEEP_S = 0.5
LEAST_READ = 16 * 2**10
"""Bytes that a peer reads in `silent_s`, or it is gone."""
SEND_BUFFER = 128 * 2**10
"""Bytes that the system takes for a peer; more would hide for minutes that it reads nothing."""
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n"
    b"connection: close\r\n\r\n"
)

Phase = Literal["head", "body", "answer"]


@dataclass(frozen=True)
class Timeouts:
    """How long a connection may take for what it has to do, in seconds."""

    head_s: float = 5.0
    """Until a request's head is complete, also of one that is yet to come."""

    still_s: float = 5.0
    """Between two parts of a body."""

    body_s: float = 60.0
    """For a body in all."""

    silent_s: float = 10.0
    """For a peer that reads nothing."""


class Connections:
    """All connections of a server; makes room by closing those that have shown the least.

    The cap leaves descriptors for everything else. When it is reached, the oldest connection that
    has not been let in by the guard yet is closed, of the address that has most of these; then the
    oldest that is between two requests; only when all are at work is the new one refused.
    """

    def __init__(
        self,
        *,
        most: int | None = None,
        most_per_peer: int | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        """most: None for 128, or a quarter of the descriptors if that is less; most_per_peer: of
        an address other than this machine's, None for half of them."""
        self._most = most or most_connections()
        self._most_per_peer = most_per_peer or max(1, self._most // 2)
        self._timeouts = timeouts or Timeouts()
        self._open: dict[Connection, None] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, **settings: Any) -> Connection:
        """Return the protocol of a new connection; for uvicorn."""
        return Connection(self, **settings)

    def admit(self, newcomer: Connection) -> bool:
        """Make room for a connection; return whether there is any."""
        of_peer = [one for one in self._open if one.peer == newcomer.peer]
        crowd = None
        if not newcomer.is_local and len(of_peer) >= self._most_per_peer:
            crowd = of_peer
        elif len(self._open) >= self._most:
            crowd = list(self._open)
        if crowd is not None and not self._close_one_of(crowd):
            return False
        self._open[newcomer] = None
        if self._sweeping is None:
            self._sweeping = newcomer.loop.call_later(SWEEP_S, self._sweep, newcomer.loop)
        return True

    def forget(self, connection: Connection) -> None:
        self._open.pop(connection, None)

    def _close_one_of(self, crowd: list[Connection]) -> bool:
        strangers = [one for one in crowd if not one.is_proven]
        if strangers:
            most, _ = Counter(one.peer for one in strangers).most_common(1)[0]
            victims = [one for one in strangers if one.peer == most]
        else:
            victims = [one for one in crowd if one.phase == "head"]
        if not victims:
            return False
        log.warning("%d connections are open; one that has shown little is closed", len(crowd))
        self.forget(victims[0])
        victims[0].transport.abort()
        return True

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = loop.call_later(SWEEP_S, self._sweep, loop) if self._open else None
        for connection in list(self._open):
            if connection.is_overdue(self._timeouts):
                # Not `close`, which waits until the peer has read what is left.
                connection.transport.abort()


class Connection(H11Protocol):
    """A connection that knows how long it has taken.

    is_proven: whether the guard has let a request through; is_stream: whether it sends without end,
    and is therefore cut when the server stops.
    """

    def __init__(self, all_of_them: Connections, **settings: Any) -> None:
        super().__init__(**settings)
        self.peer = ""
        self.is_local = False
        self.is_proven = False
        self.is_stream = False
        self._all = all_of_them
        self._inner = self.app
        self.app = self._with_connection
        self._phase: Phase = "head"
        self._since_s = self._heard_s = self.loop.time()
        self._unread = 0

    async def _with_connection(self, scope: Any, receive: Any, send: Any) -> None:
        scope[CONNECTION] = self
        await self._inner(scope, receive, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        self.peer = peer_of(address)
        self.is_local = not address or is_loopback(address)
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER
        )
        if not self._all.admit(self):
            transport.write(_FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._heard_s = self.loop.time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._since_s = self.loop.time()
        self.is_stream = False
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._since_s = self.loop.time()
        self._unread = self.transport.get_write_buffer_size()

    def send_400_response(self, msg: str) -> None:
        # Once an answer has begun there is no other way to say it.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()
        # The request may be waiting for its turn, and would answer once more before it is told that
        # the connection has ended.
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def shutdown(self) -> None:
        if self.is_stream:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def phase(self) -> Phase:
        if self.cycle is None or self.cycle.response_complete:
            return "head"
        return "body" if self.cycle.more_body else "answer"

    def is_overdue(self, timeouts: Timeouts) -> bool:
        """Return whether the peer has let its time pass; to be asked again and again."""
        now_s = self.loop.time()
        if self.phase != self._phase:
            self._phase, self._since_s, self._unread = self.phase, now_s, 0
        if self._phase == "head":
            return now_s - self._since_s > timeouts.head_s
        if self._phase == "body":
            waited_s = now_s - max(self._heard_s, self._since_s)
            return waited_s > timeouts.still_s or now_s - self._since_s > timeouts.body_s
        return self._is_silent(now_s, timeouts.silent_s)

    def _is_silent(self, now_s: float, silent_s: float) -> bool:
        # While it is paused nothing is added, so that the buffer shrinks by what the peer reads.
        unread = self.transport.get_write_buffer_size()
        if not self.flow.write_paused or unread <= self._unread - LEAST_READ:
            self._since_s, self._unread = now_s, unread
        return now_s - self._since_s > silent_s


def most_connections() -> int:
    """Return how many connections this process has descriptors for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(8, min(MOST_CONNECTIONS, soft // PART_OF_DESCRIPTORS))
