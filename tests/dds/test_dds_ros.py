"""A real ROS 2 Jazzy on the other side (Fast DDS, from PyPI), in an environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dedos_deploy import Segmenter
from dedos_deploy.runtime.label_maps import majority
from dedos_deploy.scenes import render_image

pytest.importorskip("cyclonedds", reason="needs the extra dds")

CLASSES = "road,sidewalk,car,tree,building,sky"


def started(*command: object, domain: int) -> subprocess.Popen[str]:
    place = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    return subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **place},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_node_of_ros_publishes_pictures_and_takes_masks_and_names(
    ros_folder: Path, domain: int, tmp_path: Path
) -> None:
    pictures = [render_image("street", seed=n, size_hw=(480, 640))[0] for n in range(4)]
    np.savez(tmp_path / "pictures.npz", pictures=pictures)
    side = Path(__file__).with_name("ros_side.py")
    start = '. "$1/setup.sh"; exec "$1/bin/python" "${@:2}"'
    files = tmp_path / "pictures.npz", tmp_path / "r.npz"
    robot = started("bash", "-c", start, "-", ros_folder, side, *files, domain=domain)
    run = started(
        *(sys.executable, "-m", "dedos_deploy.cli.run", "--source", "ros2:/cam/image"),
        *("--classes", CLASSES, "--output", "ros2:/dedos?also=resized"),
        domain=domain,
    )
    try:
        said = robot.communicate(timeout=90.0)[1]
        run.send_signal(signal.SIGINT)
        out, errors = run.communicate(timeout=10.0)
    finally:
        for process in (robot, run):
            process.kill()
            process.wait()
    # A type that both sides mean otherwise is warned of by ROS.
    assert (robot.returncode, said) == (0, ""), said + errors
    assert run.returncode == 130 and "written  ros2:/dedos" in out
    found = np.load(tmp_path / "r.npz")
    assert list(found["stamps"]) == [1_700_000_000 * 10**9 + number for number in range(4)]
    assert list(found["frame_ids"]) == [f"camera_{number}" for number in range(4)]
    assert set(found["encodings"]) == {"mono8"}
    assert dict(zip(found["ids"], found["names"], strict=True)) == dict(
        enumerate(CLASSES.split(","))
    )
    with Segmenter.load("demo", classes=CLASSES) as segmenter:
        expected = [segmenter.segment(picture).label_map for picture in pictures]
    assert np.array_equal(found["masks"], expected)
    assert np.array_equal(found["smaller"], majority(expected[found["smaller_number"]], (200, 267)))
