"""The environment with ROS 2 Jazzy that `.ci/ros` makes."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from wheels import ROOT


@pytest.fixture(scope="session")
def ros_folder() -> Iterator[Path]:
    """Folder of the environment, brought up to date and kept from other checkouts meanwhile."""
    folder = Path(os.environ.get("DEDOS_ROS", ROOT / "build/ros")).resolve()
    if not (folder / ".workspace").is_file():
        pytest.skip(f"ROS 2 is not set up: .ci/ros {os.path.relpath(folder)}")
    with (folder / ".owned").open() as lock:
        while True:
            bring_up_to_date(folder)
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Another checkout may have taken it over in between.
            if (folder / ".workspace").read_text().endswith(f" {ROOT}\n"):
                break
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield folder


def bring_up_to_date(folder: Path) -> None:
    done = subprocess.run(
        [ROOT / ".ci/ros", folder], capture_output=True, text=True, timeout=570, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
