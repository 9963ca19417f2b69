"""libdedos built once for all tests here."""

from __future__ import annotations

from pathlib import Path

import bindings
import pytest

import dedos_deploy.bundle


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where libdedos is installed, as by a user."""
    folder = tmp_path_factory.mktemp("libdedos")
    bindings.build(folder)
    return folder / "prefix"


@pytest.fixture(scope="session")
def library(prefix: Path) -> bindings.Library:
    return bindings.Library(prefix / "lib" / "libdedos.so")


@pytest.fixture(scope="session")
def demo() -> Path:
    """The embedded bundle, as a file."""
    return Path(dedos_deploy.bundle.__file__).parents[1] / "assets" / "demo.dedos"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides encode the same words: what shares a run of the text tower may differ in a bit."""
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))
