"""One node and one robot for all cases that leave them as they were."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from robot import CLASSES, Node, Robot, node, robot

from dedos_deploy import Segmenter
from dedos_deploy.runtime import Frame, open_source


@pytest.fixture(scope="session", autouse=True)
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope="session")
def running() -> Iterator[Node]:
    with node({"points": True}) as found:
        yield found


@pytest.fixture(scope="session")
def around(running: Node) -> Iterator[Robot]:
    with robot() as found:
        for topic in ("label_mask", "confidence", "label_info", "points"):
            found.listen(topic)
        yield found


@pytest.fixture(scope="session")
def segmenter() -> Iterator[Segmenter]:
    with Segmenter.load("demo", classes=CLASSES, background="none", threads=1) as found:
        yield found


@pytest.fixture(scope="session")
def bag(tmp_path_factory: pytest.TempPathFactory) -> list[Frame]:
    """Frames of a recording that dedos-run made."""
    path = tmp_path_factory.mktemp("bag") / "street.mcap"
    program = Path(sys.executable).with_name("dedos-run")
    scene = "scene:street?frames=12&size=240x320&seed=5"
    command = [program, "--source", scene, "--classes", "road,car", "--quiet"]
    subprocess.run([*command, "--output", f"{path}?profile=ros2"], check=True, timeout=120)
    frames = []
    with open_source(f"{path}?topic=/image/compressed") as source:
        while isinstance(frame := source.read(10.0), Frame):
            frames.append(frame)
    return frames
