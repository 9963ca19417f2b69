"""One tiny bundle for all runtime tests, and a cache folder of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle

from dedos_deploy.runtime import Segmenter


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def segmenter(bundle_folder: Path) -> Iterator[Segmenter]:
    with Segmenter.load(bundle_folder, classes="red,green,blue", threads=1) as loaded:
        yield loaded


Respond = Callable[[BaseHTTPRequestHandler, int], None]
"""Answers a request, the n-th of its server."""


@pytest.fixture
def serve_http() -> Iterator[Callable[[Respond], str]]:
    """Start servers on loopback; each returns its `http://127.0.0.1:PORT`."""
    servers: list[ThreadingHTTPServer] = []

    def start(respond: Respond) -> str:
        count = iter(range(1000))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    respond(self, next(count))
                except OSError:
                    self.close_connection = True  # The reader has gone.

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
