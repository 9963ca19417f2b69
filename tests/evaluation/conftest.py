"""Fixtures of evaluation: a data set of colours, a bundle that sees them, a cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from colours import write_bundle, write_colours


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two labelled images and one without labels."""
    return write_colours(tmp_path / "data")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "colours.dedos")
