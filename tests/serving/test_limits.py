"""The parts that limit: rates per address, bodies, places, log lines, and accepting without descriptors."""

from __future__ import annotations

import logging
import os
import resource
import socket
import time

import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.serving.bodies import Bodies
from dedos_deploy.runtime.serving.listener import listen_on
from dedos_deploy.runtime.serving.peers import Rates
from dedos_deploy.runtime.serving.repeats import MOST_KINDS, SHOWN, SPAN_S, Repeats


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_each_address_has_a_rate_of_its_own() -> None:
    clock = Clock()
    rates = Rates(2, clock=clock)
    assert [rates.take("a") for _ in range(8)] == [True] * 6 + [False] * 2
    assert rates.take("b")
    clock.now_s += 0.5
    assert [rates.take("a") for _ in range(2)] == [True, False]


def test_addresses_are_forgotten_before_they_fill_the_memory() -> None:
    rates = Rates(2, most_peers=10, clock=Clock())
    for number in range(1000):
        rates.take(str(number))
    assert len(rates) == 10
    assert [rates.take("999") for _ in range(6)] == [True] * 5 + [False]


def test_bodies_share_a_budget() -> None:
    bodies = Bodies(most=10)
    assert bodies.take(6) and not bodies.take(5) and bodies.take(4)
    bodies.give_back(6)
    assert bodies.take(5)


def test_places_are_free_again_whatever_ends_what_held_them() -> None:
    fastapi = pytest.importorskip("fastapi", reason="needs pip install 'dedos-deploy[serve]'")
    from dedos_deploy.runtime.serving.answers import Places

    places = Places(2, "two are there; wait")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), places.place(), places.place():
            with pytest.raises(fastapi.HTTPException, match="two are there; wait") as refused:
                places.place().__enter__()
            assert refused.value.status_code == 503
            _ = 1 / 0


def test_lines_that_repeat_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock, log = Clock(), logging.getLogger("repeating")
    repeats = Repeats(clock=clock)
    log.addFilter(repeats)
    try:
        for number in range(1237):
            log.warning("peer %d is odd", number)
        log.warning("something else")
        assert [one.getMessage() for one in caplog.records] == [
            *(f"peer {number} is odd" for number in range(SHOWN)),
            "something else",
        ]
        clock.now_s += SPAN_S
        log.warning("peer %d is odd", 5000)
        assert [one.getMessage() for one in caplog.records[SHOWN + 1 :]] == [
            "… 1,234 more like this: peer 0 is odd",
            "peer 5000 is odd",
        ]
        repeats.flush()
        assert len(caplog.records) == SHOWN + 3
        for kind in [f"kind {number}" for number in range(3 * MOST_KINDS)]:
            log.warning(kind)
        assert len(repeats._kinds) == MOST_KINDS
    finally:
        log.removeFilter(repeats)


def test_without_descriptors_connections_are_turned_away() -> None:
    (listener,) = listen_on("127.0.0.1", 0)
    peers = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with listener:
        listener.listen()
        listener.setblocking(False)
        peers = [socket.create_connection(listener.getsockname(), 5) for _ in range(3)]
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        taken = [os.open(os.devnull, os.O_RDONLY)]
        while taken[-1] < highest:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                os.open(os.devnull, os.O_RDONLY)
            for peer in peers:
                with pytest.raises(BlockingIOError):
                    listener.accept()
                # It learns at once that nobody serves it.
                assert peer.recv(1) == b""
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)
            for peer in peers:
                peer.close()
        with socket.create_connection(listener.getsockname(), 5):
            time.sleep(0.05)
            accepted, _ = listener.accept()
            accepted.close()


def test_one_port_for_all_addresses_of_a_name() -> None:
    opened = listen_on("localhost", 0)
    try:
        assert len({one.getsockname()[1] for one in opened}) == 1
        # Small answers leave at once only from sockets that asyncio knows as TCP.
        assert {one.proto for one in opened} == {socket.IPPROTO_TCP}
        opened[0].listen()
        with pytest.raises(BadInputError, match="is the port taken"):
            listen_on("localhost", opened[0].getsockname()[1])
    finally:
        for one in opened:
            one.close()
    with pytest.raises(BadInputError, match="cannot listen on no.such.host.invalid:1"):
        listen_on("no.such.host.invalid", 1)
