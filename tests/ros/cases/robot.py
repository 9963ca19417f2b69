"""The robot around the node, for cases that run in the environment of ROS: its camera, and who listens."""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import String
from vision_msgs.msg import LabelInfo

WAIT_S = 60.0
"""Until something must have happened, on a machine that does much else."""
LISTENS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
TYPES = {"label_info": (LabelInfo, LATCHED), "points": (PointCloud2, LISTENS)}
PROGRAM = Path(os.environ["DEDOS_ROS"], "workspace/install/lib/dedos_ros/segmentation")
CLASSES = ["road", "sidewalk", "car", "tree", "building", "sky"]


def wait_for(happened: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        found = happened()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} within {timeout_s:g} s")


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def image(pixels: np.ndarray, stamp_ns: int, encoding: str = "bgr8", **fields: Any) -> Image:
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.header.frame_id = "camera_optical"
    message.step = pixels.nbytes // len(pixels)
    message.data = array.array("B", pixels.tobytes())
    for name, value in fields.items():
        setattr(message, name, value)
    return message


class Robot:
    """Publishes what cameras see, and keeps what the node says, in the order in which it comes."""

    def __init__(self, node_name: str = "dedos") -> None:
        self.name = node_name
        self.node = rclpy.create_node("robot")
        self.heard: list[tuple[str, Any]] = []
        self.by_topic: dict[str, list[Any]] = defaultdict(list)
        self._publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()
        self.listen("/diagnostics", DiagnosticArray, QoSProfile(depth=10))

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(10)
        self.node.destroy_node()

    def listen(self, topic: str, kind: type | None = None, quality: Any = None) -> None:
        """Hear a topic; below the node's name unless it begins with a slash."""
        short = topic.rsplit("/", 1)[-1]
        kind, quality = (kind, quality) if kind else TYPES.get(short, (Image, LISTENS))

        def keep(message: Any) -> None:
            self.heard.append((topic, message))
            self.by_topic[topic].append(message)

        place = topic if topic.startswith("/") else f"/{self.name}/{topic}"
        self.node.create_subscription(kind, place, keep, quality)

    def publisher(
        self, topic: str, kind: type = Image, quality: Any = qos_profile_sensor_data
    ) -> Any:
        """Return a publisher that somebody listens to."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind, topic, quality)
        publisher = self._publishers[topic]
        wait_for(publisher.get_subscription_count, f"nobody listens to {topic}")
        return publisher

    def send(self, message: Any, topic: str = "/image") -> None:
        kind = type(message)
        quality = 10 if kind is String else qos_profile_sensor_data
        self.publisher(topic, kind, quality).publish(message)

    def heard_of(self, topic: str, stamp_ns_: int) -> Any:
        found = (each for each in reversed(self.by_topic[topic]) if stamp_ns(each) == stamp_ns_)
        return next(found, None)

    def labelled(
        self,
        message: Any,
        topic: str = "label_mask",
        to: str = "/image",
        before: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send an image, what belongs to it before, and return what comes of it.

        They are sent again until something does: who listens may not know yet of who sends.
        """
        stamp = stamp_ns(message)
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s:
            for other, belongs in (before or {}).items():
                self.send(belongs, other)
            self.send(message, to)
            with contextlib.suppress(AssertionError):
                return wait_for(lambda: self.heard_of(topic, stamp), topic, timeout_s=1)
        raise AssertionError(f"no {topic} within {WAIT_S:g} s")

    def call(self, service: str, kind: type, request: Any) -> Any:
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, f"/{self.name}/{service}")
        client = self._clients[service]
        assert client.wait_for_service(WAIT_S), service
        future = client.call_async(request)
        wait_for(future.done, f"{service} has not answered")
        return future.result()

    def set_parameters(self, **values: Any) -> Any:
        request = SetParametersAtomically.Request()
        for name, value in values.items():
            found: ParameterMessage = Parameter(name, value=value).to_parameter_msg()
            request.parameters.append(found)
        return self.call("set_parameters_atomically", SetParametersAtomically, request).result

    def change_state(self, transition: str) -> bool:
        request = ChangeState.Request()
        request.transition.label = transition
        return bool(self.call("change_state", ChangeState, request).success)

    def state(self) -> str:
        return str(self.call("get_state", GetState, GetState.Request()).current_state.label)

    def complaint(self, expected: str, camera: str = "") -> str:
        """Return what diagnostics say of a camera, once it holds a text."""

        def said() -> str | None:
            for message in reversed(self.by_topic["/diagnostics"][-2:]):
                for status in message.status:
                    if status.hardware_id == camera and expected in status.message:
                        return str(status.message)
            return None

        return str(wait_for(said, f"diagnostics do not say {expected!r}"))


@contextlib.contextmanager
def robot(node_name: str = "dedos") -> Iterator[Robot]:
    found = Robot(node_name)
    try:
        yield found
    finally:
        found.close()


class Node:
    """The node in a process of its own."""

    def __init__(self, parameters: Mapping[str, Any], *arguments: str) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        settings = {"classes": CLASSES, "threads": 1, "autostart": True, "background": "none"}
        # YAML reads JSON.
        given = [
            part
            for name, value in {**settings, **parameters}.items()
            for part in ("-p", f"{name}:={json.dumps(value)}")
        ]
        command = [sys.executable, PROGRAM, "--ros-args", *given, *arguments]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WAIT_S)


@contextlib.contextmanager
def node(parameters: Mapping[str, Any] | None = None, *arguments: str) -> Iterator[Node]:
    running = Node(parameters or {}, *arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait(WAIT_S)


__all__ = [
    "CLASSES",
    "CameraInfo",
    "CompressedImage",
    "Robot",
    "image",
    "node",
    "robot",
    "stamp_ns",
]
