"""Two cameras with known content, served, and dedos-run --serve as a process."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from run_process import start
from tiny_bundle import BASE_WORDS

from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.flow import Camera, Run
from dedos_deploy.runtime.serving.app import Server
from dedos_deploy.runtime.serving.controls import Controls
from dedos_deploy.runtime.serving.guard import Access
from dedos_deploy.runtime.sources.bars import open_test


@dataclass
class Site:
    controls: Controls
    url: str
    client: Any

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 10
        while self.controls.hub.jpeg(name) is None:
            assert time.monotonic() < deadline, "no frame came"
            time.sleep(0.02)


def served(
    bundle: Path,
    access: Access,
    *,
    size: str = "48x96",
    record_to: Path | None = None,
    collect_to: Path | None = None,
    cannot_learn: str | None = None,
) -> Iterator[Site]:
    import httpx

    stop = threading.Event()
    with Segmenter.load(bundle, classes="lamp", threads=1) as shared:
        views = {"gate": shared.share("red,green"), "back yard": shared.share("blue")}
        controls = Controls(
            shared, views, record_to=record_to, collect_to=collect_to, cannot_learn=cannot_learn
        )
        cameras = [
            Camera(name, lambda: open_test(f"test:bars?fps=50&size={size}"), view)
            for name, view in views.items()
        ]
        fleet = Run(cameras, stop=stop)
        controls.watch(fleet)
        runner = threading.Thread(target=fleet.run)
        runner.start()
        try:
            with Server(controls, access, words=BASE_WORDS) as server:
                url = server.url.rstrip("/")
                with httpx.Client(base_url=url, timeout=10) as client:
                    yield Site(controls, url, client)
        finally:
            stop.set()
            runner.join(10)
            controls.close()
    assert not runner.is_alive()


@contextmanager
def running(bundle: Path, *arguments: str) -> Iterator[tuple[Any, Any]]:
    """Yield the process and a client of its server."""
    httpx = pytest.importorskip("httpx")
    process = start(bundle, "--classes", "red,green", *arguments, "--serve", "0", "--json")
    try:
        assert process.stderr is not None
        found = re.search(r"watch at (http://\S+)", process.stderr.readline())
        assert found is not None
        with httpx.Client(base_url=found[1], timeout=10) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def camera(client: Any, condition: Callable[[Any], bool]) -> Any:
    """Return the state of the only camera once it is so."""
    deadline = time.monotonic() + 20
    while True:
        (found,) = client.get("/api/state").json()["cameras"]
        if condition(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
