"""The node in a process of its own: from the arguments to the exit status."""

from __future__ import annotations

import sys

import rclpy
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import TransitionCallbackReturn

from dedos_ros.node import SegmentationNode

RCLError = rclpy_implementation.RCLError
THREADS = 2
"""One for images, one for everything else."""


def run(argv: list[str] | None) -> int:
    """Run until interrupted; 2 for arguments that cannot be, or if it was to start on its own and could not."""
    try:
        rclpy.init(args=argv)
    except RCLError as error:
        # What follows is a place in the sources of rcl.
        return _refused(f"{str(error).split(', at /')[0]}; correct that argument")
    try:
        return _run()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except InvalidParameterTypeException as error:
        return _refused(f"{error}; write a DOUBLE as 0.5 or 1.0, and an array as [a, b]")
    except RCLError:
        if rclpy.ok():
            raise
        return 0  # a signal took the context away in the middle of a start
    finally:
        rclpy.try_shutdown()


def _run() -> int:
    node = SegmentationNode()
    executor = MultiThreadedExecutor(THREADS)
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value and not _started(node):
            return 2 if rclpy.ok() else 0
        executor.spin()
    finally:
        executor.shutdown(timeout_sec=5)
        node.destroy_node()
    return 0


def _refused(sentence: str) -> int:
    print(f"segmentation: {sentence}", file=sys.stderr)
    return 2


def _started(node: SegmentationNode) -> bool:
    return all(
        step() == TransitionCallbackReturn.SUCCESS
        for step in (node.trigger_configure, node.trigger_activate)
    )
