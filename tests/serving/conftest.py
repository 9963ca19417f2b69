"""Cameras with known content behind a hub, and the tiny bundle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[1] / name) for name in ("runtime", "cameras")]

from browsing import CHROMIUM  # noqa: E402
from tiny_bundle import examples_graph, write_tiny_bundle  # noqa: E402

from dedos_deploy.bundle import EXAMPLES  # noqa: E402


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def learning_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that learns words from examples, and whose words files say which model they are of."""
    return write_tiny_bundle(
        tmp_path_factory.mktemp("bundles") / "learning",
        files={EXAMPLES: examples_graph()},
        checkpoint_sha256="ab" * 32,
    )


@pytest.fixture(scope="module")
def _chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def browser(_chromium: Any) -> Iterator[Any]:
    """One Chromium for all tests of a file, without what the test before has opened."""
    yield _chromium
    for context in _chromium.contexts:
        context.close()
