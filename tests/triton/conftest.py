"""Tests of Triton, whose environment is brought up to date where it has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ci_environments import environment

collect_ignore = ["cases"]
"""They need tritonclient and a server: `test_triton_server.py` runs them in the environment of Triton."""


@pytest.fixture(scope="session")
def triton_folder() -> Iterator[Path]:
    with environment("triton", "dedos") as folder:
        yield folder
