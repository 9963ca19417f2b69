"""The environment with ROS 2 Jazzy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ros_runs import ROOT

collect_ignore = ["cases"]
"""They need rclpy: `test_ros_node.py` runs them in the environment of ROS."""


@pytest.fixture(scope="session")
def ros_folder() -> Path:
    """Folder of the environment, brought up to date."""
    folder = Path(os.environ.get("DEDOS_ROS", ROOT / "build/ros"))
    if not (folder / ".workspace").is_file():
        pytest.skip(f"ROS 2 is not set up: .ci/ros {os.path.relpath(folder)}")
    done = subprocess.run(
        [ROOT / ".ci/ros", folder], capture_output=True, text=True, timeout=570, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder
