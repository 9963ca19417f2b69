"""Runs of programs in the environment of ROS."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ros_environment import ros_domain

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "ros2/dedos_ros/config/fastdds_shared_memory.xml"


def run_in_ros(folder: Path, *command: str | Path, timeout_s: float = 540) -> str:
    """Return what a command says in the environment, on a domain of its own."""
    environment = {
        **os.environ,
        "DEDOS_ROS": str(folder),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILES),
    }
    environment.pop("PYTHONPATH", None)
    with ros_domain() as domain:
        done = subprocess.run(
            ["bash", "-c", '. "$DEDOS_ROS/setup.sh"; exec "$@"', "bash", *command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**environment, "ROS_DOMAIN_ID": str(domain)},
            cwd=ROOT,
            check=False,
        )
    return done.stdout + done.stderr
