"""A cluster of Ray: reached in bounded time, or begun on this machine, and how many workers it has room for."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from dedos_deploy.borders import first_line, foreign
from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, EngineError, require

LOCAL = "local"
REACHED_S = 5.0
"""How long an address has to answer."""

_STORE_BYTES = 80 * 2**20
"""Ray's least, rounded up: nothing but lists of frames and reports goes through its store."""

_ADDRESS = re.compile(r"(?P<host>[^\s:/]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
# Every gRPC server answers the preface of HTTP/2 with a frame of settings, of type 4.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HEADER_BYTES, _TYPE_AT, _SETTINGS = 9, 3, 4


def ray_module() -> Any:
    """Return Ray, quiet about itself. Raises MissingExtraError."""
    # What it would tell its makers about a cluster that is begun here is nobody's business.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return require("ray", extra="ray", purpose="labelling on many machines")


def check_answers(address: str, within_s: float = REACHED_S) -> None:
    """Raise BadInputError unless the head of a cluster answers at `host:port`.

    Ray itself waits a minute for one that does not, and ends the process then.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise BadInputError(
            f"--ray {address!r} is no address of a cluster; give host:port, as `ray start --head` prints "
            f'it, or "{LOCAL}" for this machine alone'
        )
    try:
        answer = _answer(match["host"].strip("[]"), int(match["port"]), within_s)
    except OSError as error:
        raise _silent(address, error.strerror or "no answer") from error
    if len(answer) < _HEADER_BYTES or answer[_TYPE_AT] != _SETTINGS:
        raise _silent(address, "another answer than Ray's")


def _answer(host: str, port: int, within_s: float) -> bytes:
    """Return the first bytes that a server sends to a client of gRPC. Raises OSError."""
    with socket.create_connection((host, port), within_s) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            # It would have to be greeted with certificates: that it listens has to do.
            return _PREFACE[-_HEADER_BYTES:]
        connection.settimeout(within_s)
        connection.sendall(_PREFACE)
        answer = b""
        while len(answer) < _HEADER_BYTES and (more := connection.recv(_HEADER_BYTES)):
            answer += more
    return answer


def _silent(address: str, why: str) -> BadInputError:
    return BadInputError(
        f"the cluster of --ray {address!r} cannot be reached ({why}); check the address, and that "
        "`ray status` works there"
    )


class RayCluster(Closing):
    """A connection to a cluster; closing it ends all that was begun through it."""

    def __init__(self, address: str, *, workers: int | None, threads: int, on_gpu: bool) -> None:
        """Connect to the head at `host:port`, or begin a cluster of this machine for "local".

        workers: how many are to label, None for as many as there is room for; threads: CPUs of each;
        on_gpu: whether each needs a GPU. Raises BadInputError, EngineError and MissingExtraError.
        """
        if address != LOCAL:
            check_answers(address)
        self.ray = ray_module()
        self.threads, self.on_gpu = threads, on_gpu
        with _signals_kept():
            self._connect(address, workers)
        try:
            self.workers = self.room if workers is None else workers
        except BaseException:
            self.close()
            raise

    def _connect(self, address: str, workers: int | None) -> None:
        options: dict[str, Any] = {"address": address}
        if address == LOCAL:
            options |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
            if workers is not None:
                options["num_cpus"] = workers * self.threads + 1

        def refused(why: str) -> EngineError:
            return EngineError(
                f"Ray cannot be begun for --ray {address!r} ({why}); it needs the same versions of Ray "
                "and Python as the cluster, and a node of it on this machine"
            )

        with foreign(refused, reason=first_line):
            self.ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)

    @property
    def room(self) -> int:
        """How many workers the cluster has room for, one of its CPUs being left to others.

        Work that has all of them may wait for ever for work that it began itself. Raises BadInputError
        where GPUs are needed and there are none.
        """
        found = self.ray.cluster_resources()
        room = max(1, (int(found.get("CPU", 0)) - 1) // self.threads)
        if not self.on_gpu:
            return room
        gpus = int(found.get("GPU", 0))
        if gpus < 1:
            raise BadInputError(
                "the cluster has no GPU; give --engine cpu or openvino, or a cluster that has"
            )
        return min(room, gpus)

    def close(self) -> None:
        self.ray.shutdown()


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo what the block makes of SIGTERM, which is the command's."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
