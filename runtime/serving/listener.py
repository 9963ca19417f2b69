"""Listening sockets that survive a process without descriptors."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from typing import Any

from dedos_deploy.errors import BadInputError

log = logging.getLogger(__package__)

QUEUE = 1024
"""Connections that the system holds until they are accepted."""
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
PAUSE_S = 0.05


class Listener(socket.socket):
    """Turns a connection away when there is no descriptor for it.

    asyncio would log the error, as often as it tries, and try again for as long as the connection
    waits. One descriptor is kept for that moment.
    """

    _spare: int | None = None

    def listen(self, backlog: int = QUEUE) -> None:
        # asyncio accepts as many at once as it lets wait; few at once keep the others answered.
        super().listen(QUEUE)
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, Any]:
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
        self._turn_away()
        raise BlockingIOError

    def close(self) -> None:
        super().close()
        self._give_spare()

    def _give_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)

    def _turn_away(self) -> None:
        log.warning("out of file descriptors, connections are turned away; allow more (ulimit -n)")
        self._give_spare()
        try:
            os.close(self._accept()[0])  # type: ignore[attr-defined]
            self._spare = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            # Somebody else took the spare one. What waits stays, and must not be asked for at once.
            time.sleep(PAUSE_S)


def listen_on(host: str, port: int) -> list[Listener]:
    """Return a bound socket for every address of `host`; port: 0 for any, the same for all.

    Raises BadInputError when it is taken.
    """
    opened: list[Listener] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            chosen = opened[0].getsockname()[1] if opened else port
            try:
                opened.append(_bound(family, address, chosen))
            except OSError as error:
                # `localhost` may name an address that this machine does not have.
                if error.errno not in ABSENT:
                    raise
        if not opened:
            raise OSError(errno.EADDRNOTAVAIL, "no such address")
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        for one in opened:
            one.close()
        raise BadInputError(
            f"cannot listen on {host}:{port}; is the port taken? choose another one, as --serve "
            "127.0.0.1:8081"
        ) from error
    return opened


def _bound(family: int, address: Any, port: int) -> Listener:
    # By its name: asyncio sends small answers at once only where it knows that this is TCP.
    listener = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address[0], port, *address[2:]))
    except OSError:
        listener.close()
        raise
    return listener
