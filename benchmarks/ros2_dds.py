"""Large messages between `ros2:` and a node of ROS 2 on one machine: delivered, latency, CPU time.

Pictures (900 KB) and masks (300 KB, resized 53 KB) of 640x480 at 15 a second, both ways, the node's side reliable and
best effort; each that arrives is compared with what was sent. `small buffer` reads with the receive
buffer that a Linux has unless its net.core.rmem_max is raised, as the node always does. The node runs
in the environment that `.ci/ros FOLDER` makes.

    python benchmarks/ros2_dds.py --ros build/ros
    python benchmarks/ros2_dds.py --ros build/ros --pictures 100 --json
"""

from __future__ import annotations

import argparse
import array
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.cli._options import typed
from dedos_deploy.options import whole_number

TOPIC = "/bench/image"
RATE = 15.0
SILENCE_S = 2.0
"""Without a picture, after which no more is waited for."""
SMALL_BUFFER = 212992
"""Bytes, net.core.rmem_max of Linux."""


SIZES = {"picture": (480, 640, 3), "mask": (480, 640), "resized mask": (200, 267)}


@functools.cache
def drawn(kind: str, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, SIZES[kind], np.uint8)


def sent(kind: str, number: int) -> NDArray[np.uint8]:
    return drawn(kind, number % 4)


def summary(latencies_ms: Sequence[float], cpu_s: float) -> dict[str, Any]:
    many = len(latencies_ms)
    return {
        "delivered": many,
        "latency_ms": statistics.median(latencies_ms) if many else None,
        "cpu_ms": 1e3 * cpu_s / many if many else None,
    }


# What runs in the environment of ROS


def ros_side(way: str, reliability: str, kind: str, pictures: int) -> None:
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    quality = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
    rclpy.init()
    node = rclpy.create_node("bench")
    if way == "in":
        camera = node.create_publisher(Image, TOPIC, quality)
        while not camera.get_subscription_count():
            time.sleep(0.01)
        for number in range(pictures):
            message = Image(height=480, width=640, encoding="bgr8", step=1920)
            message.data = array.array("B", sent("picture", number).tobytes())
            now_ns = time.time_ns()
            message.header.frame_id = str(number)
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
            camera.publish(message)
            time.sleep(1 / RATE)
        time.sleep(SILENCE_S)
        return
    latencies_ms: list[float] = []

    def take(message: Image) -> None:
        stamp = message.header.stamp
        latencies_ms.append((time.time_ns() - stamp.sec * 10**9 - stamp.nanosec) / 1e6)
        expected = sent(kind, int(message.header.frame_id))
        assert np.array_equal(np.frombuffer(message.data, np.uint8), expected.ravel()), "differs"

    node.create_subscription(Image, TOPIC, take, quality)
    started_s = last_s = time.monotonic()
    while time.monotonic() - last_s < (SILENCE_S if latencies_ms else 20.0):
        seen = len(latencies_ms)
        rclpy.spin_once(node, timeout_sec=0.05)
        last_s = time.monotonic() if len(latencies_ms) > seen else last_s
        if not latencies_ms and time.monotonic() - started_s > 20.0:
            break
    print(json.dumps(latencies_ms), flush=True)


# Ours


def read_all(uri: str) -> dict[str, Any]:
    """Read a topic until it is silent."""
    from dedos_deploy.errors import SourceError
    from dedos_deploy.runtime import Frame
    from dedos_deploy.runtime.sources.dds import connect_topic

    latencies_ms = []
    try:
        source = connect_topic(uri)
    except SourceError as error:
        print(f"  {error}", file=sys.stderr)
        return summary([], 0.0)
    with source:
        cpu_s, last_s = time.process_time(), time.monotonic()
        while time.monotonic() - last_s < SILENCE_S:
            if isinstance(frame := source.read(0.1), Frame):
                assert frame.clock_ns is not None
                latencies_ms.append((time.time_ns() - frame.clock_ns) / 1e6)
                expected = sent("picture", int(frame.coordinate_frame))
                assert np.array_equal(frame.frame_bgr, expected), "differs"
                last_s = time.monotonic()
        return summary(latencies_ms, time.process_time() - cpu_s)


def write_all(domain: int, kind: str, pictures: int) -> float:
    """Publish pictures once somebody subscribes, and return the CPU seconds of it."""
    from dedos_deploy.errors import SinkError
    from dedos_deploy.runtime.dds import Node
    from dedos_deploy.runtime.dds_address import parse_topic
    from dedos_deploy.runtime.ros2_messages import IMAGE
    from dedos_deploy.runtime.sinks.dds import RELIABILITIES

    address = parse_topic(
        f"ros2:{TOPIC}?domain={domain}", {}, refusal=SinkError, reliabilities=RELIABILITIES
    )
    with Node(domain, refusal=SinkError, purpose="this benchmark") as node:
        writer = node.writer(address, "", IMAGE)
        while not writer.is_heard:
            time.sleep(0.01)
        time.sleep(0.5)
        cpu_s = 0.0
        for number in range(pictures):
            pixels = sent(kind, number)
            started_s = time.process_time()
            header = node.messages.header(time.time_ns(), str(number))
            writer.write(node.messages.picture(header, pixels))
            cpu_s += time.process_time() - started_s
            time.sleep(1 / RATE)
        time.sleep(SILENCE_S)
    return cpu_s


@contextlib.contextmanager
def small_buffer(wanted: bool) -> Iterator[None]:
    from dedos_deploy.errors import SourceError
    from dedos_deploy.runtime.dds_address import discovery_config

    if wanted:
        config = discovery_config(os.environ, refusal=SourceError)
        assert config is not None, "CYCLONEDDS_URI is set"
        buffer = f'<SocketReceiveBufferSize max="{SMALL_BUFFER}B"/></Internal>'
        os.environ["CYCLONEDDS_URI"] = config.replace("</Internal>", buffer)
    try:
        yield
    finally:
        if wanted:
            del os.environ["CYCLONEDDS_URI"]


@dataclass(frozen=True)
class Row:
    way: str
    """`in` from ROS, `out` to ROS."""

    kind: str
    reliability: str
    """Of the node's side; ours is as it comes."""

    small: bool = False
    """Read with a small buffer."""

    def __str__(self) -> str:
        way = "ROS to ros2:" if self.way == "in" else "ros2: to ROS"
        return f"{way}, {self.kind}, {self.reliability}{', small buffer' * self.small}"


ROWS = (
    Row("in", "picture", "reliable"),
    Row("in", "picture", "best_effort"),
    Row("in", "picture", "reliable", small=True),
    Row("in", "picture", "best_effort", small=True),
    Row("out", "picture", "reliable"),
    Row("out", "picture", "best_effort"),
    Row("out", "mask", "reliable"),
    Row("out", "mask", "best_effort"),
    Row("out", "resized mask", "best_effort"),
)


def measure(row: Row, ros: Path, domain: int, pictures: int) -> dict[str, Any]:
    command = '. "$1/setup.sh"; exec "$1/bin/python" "${@:2}"'
    asked = ["--side", row.way, "--kind", row.kind, "--reliability", row.reliability]
    started = ["bash", "-c", command, "-", str(ros), __file__, *asked, "--pictures", str(pictures)]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as robot:
        try:
            with small_buffer(row.small):
                if row.way == "in":
                    return read_all(f"ros2:{TOPIC}?domain={domain}")
                cpu_s = write_all(domain, row.kind, pictures)
            found = summary(json.loads(robot.communicate(timeout=60.0)[0]), 0.0)
            return found | {"cpu_ms": 1e3 * cpu_s / pictures}
        finally:
            robot.kill()


def shown(row: Row, found: dict[str, Any], pictures: int) -> str:
    name = f"{row!s:50} {found['delivered']:3} of {pictures}"
    if not found["delivered"]:
        return name
    return f"{name}, latency {found['latency_ms']:.1f} ms, CPU {found['cpu_ms']:.1f} ms a message"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ros", type=Path, help="folder that .ci/ros has made")
    parser.add_argument("--pictures", type=typed(whole_number()), default=30, help="per row (30)")
    parser.add_argument(
        "--domain", type=typed(whole_number(0, 232)), default=90, help="of DDS (90)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--side", choices=("in", "out"), help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="picture", help=argparse.SUPPRESS)
    parser.add_argument("--reliability", default="reliable", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.side is not None:
        ros_side(args.side, args.reliability, args.kind, args.pictures)
        return 0
    if args.ros is None or not (args.ros / "setup.sh").is_file():
        parser.error("--ros needs the folder that .ci/ros has made")
    os.environ["ROS_DOMAIN_ID"] = str(args.domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    results = []
    for row in ROWS:
        found = measure(row, args.ros, args.domain, args.pictures)
        print(shown(row, found, args.pictures), flush=True)
        results.append(asdict(row) | found)
    if args.json:
        print(json.dumps({"pictures": args.pictures, "rate": RATE, "rows": results}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
