"""`--ray` with addresses that are none, that do not answer, and without Ray: one sentence each, in time."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dedos_deploy.cli.label import main
from dedos_deploy.corpus import ray_cluster
from dedos_deploy.corpus.ray_cluster import check_answers
from dedos_deploy.errors import BadInputError

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a server of HTTP/2 greets with."""


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Address of a server that treats one connection so."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_a_head_that_greets_is_reached() -> None:
    heard = []

    def greet(connection: socket.socket) -> None:
        heard.append(connection.recv(64))
        connection.sendall(SETTINGS[:4])
        connection.sendall(SETTINGS[4:])

    with server(greet) as address:
        check_answers(address)
    assert heard[0].startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_what_is_no_head_of_a_cluster_is_told_from_one(answer: bytes) -> None:
    def reply(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(answer)

    with server(reply) as address:
        with pytest.raises(BadInputError, match="\\(another answer than Ray's\\); check"):
            check_answers(address)


def test_a_head_that_hangs_is_given_up_in_time() -> None:
    over = threading.Event()
    with server(lambda connection: over.wait(10) and None) as address:
        with pytest.raises(BadInputError, match="\\(no answer\\); check"):
            check_answers(address, within_s=0.1)
        over.set()


def _nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ray", "cluster"), "--ray 'cluster' is no address of a cluster; give host:port"),
        (("--ray", "ray://head:10001"), "is no address of a cluster"),
        (("--ray", "head:70000"), "is no address of a cluster"),
        (("--ray", _nobody()), "cannot be reached (Connection refused); check the address"),
        (
            ("--ray", "local"),
            "labelling on many machines needs the package 'ray', which is not installed",
        ),
        (("--ray", "local", "--gpu", "1"), "--ray gives each worker a GPU; leave one out"),
        (("--ray", "local", "--threads", "0"), "threads must be at least 1, not 0"),
        (("--ray", "local", "--workers", "0"), "--workers must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    words: tuple[str, ...],
    message: str,
    pictures: Path,
    bundle: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    told = [
        str(pictures),
        "--classes",
        "blue",
        "--bundle",
        bundle,
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*told, *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not captured.out and not (tmp_path / "out").exists()


class Small:
    """Of Ray what says how large a cluster is."""

    def __init__(self, **resources: float) -> None:
        self._resources = resources

    def cluster_resources(self) -> dict[str, float]:
        return self._resources

    def init(self, **options: object) -> None:
        pass

    def shutdown(self) -> None:
        pass


@pytest.mark.parametrize(
    ("resources", "threads", "on_gpu", "room"),
    [
        ({"CPU": 8.0}, 1, False, 7),
        ({"CPU": 8.0}, 3, False, 2),
        ({"CPU": 1.0}, 1, False, 1),
        ({"CPU": 8.0, "GPU": 2.0}, 1, True, 2),
        ({"CPU": 2.0, "GPU": 4.0}, 1, True, 1),
    ],
)
def test_one_cpu_of_a_cluster_is_left_to_others(
    resources: dict[str, float],
    threads: int,
    on_gpu: bool,
    room: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_cluster, "ray_module", lambda: Small(**resources))
    with ray_cluster.RayCluster("local", workers=None, threads=threads, on_gpu=on_gpu) as cluster:
        assert cluster.workers == room


def test_a_cluster_without_a_gpu_is_refused_where_one_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_cluster, "ray_module", lambda: Small(CPU=8.0))
    with pytest.raises(BadInputError, match="the cluster has no GPU; give --engine cpu"):
        ray_cluster.RayCluster("local", workers=None, threads=1, on_gpu=True)
