"""examples/server_client.py against a server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_site import Site, served

from dedos_deploy.runtime.serving.guard import Access

CLIENT = Path(__file__).parents[2] / "examples" / "server_client.py"


@pytest.fixture
def site(bundle_folder: Path) -> Iterator[Site]:
    yield from served(bundle_folder, Access(port=0))


def test_a_client_gives_words_and_asks_what_is_seen(site: Site) -> None:
    site.wait_for("gate")
    command = [sys.executable, str(CLIENT), site.url, "gate", "red,blue|lamp"]
    environment = {name: text for name, text in os.environ.items() if name != "DEDOS_TOKEN"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    first, *parts = done.stdout.splitlines()
    assert first == "words of version 2 from the next frame on"
    assert [line.split()[1] for line in parts] == ["red", "blue"]
