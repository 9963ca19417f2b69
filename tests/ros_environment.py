"""The environment with ROS 2 Jazzy that `.ci/ros` makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ci_environments import environment


@pytest.fixture(scope="session")
def ros_folder() -> Iterator[Path]:
    with environment("ros", "workspace") as folder:
        yield folder
