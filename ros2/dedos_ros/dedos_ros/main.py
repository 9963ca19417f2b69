"""`ros2 run dedos_ros segmentation`: the node in a process of its own."""

from __future__ import annotations

import sys

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn

from dedos_ros.node import SegmentationNode

THREADS = 2
"""One for images, one for everything else."""


def main(argv: list[str] | None = None) -> int:
    """Run until interrupted; 2 if it was to start on its own and could not."""
    rclpy.init(args=argv)
    node = SegmentationNode()
    executor = MultiThreadedExecutor(THREADS)
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value and not _started(node):
            return 2
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        executor.shutdown(timeout_sec=5)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _started(node: SegmentationNode) -> bool:
    return all(
        step() == TransitionCallbackReturn.SUCCESS
        for step in (node.trigger_configure, node.trigger_activate)
    )


if __name__ == "__main__":
    sys.exit(main())
