"""Prints a line once somebody publishes images on a topic, and then the stamps of so many of them.

Ten seconds without one end it before.
"""

from __future__ import annotations

import json
import sys
import time

import rclpy
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image


def main(topic: str, count: int) -> None:
    rclpy.init()
    node = rclpy.create_node("listener")
    stamps: list[int] = []
    quality = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(
        Image,
        topic,
        lambda message: stamps.append(message.header.stamp.nanosec),
        quality,
        event_callbacks=SubscriptionEventCallbacks(
            matched=lambda status: print("matched", status.current_count, flush=True)
        ),
    )
    quiet_s = time.monotonic() + 10
    while len(stamps) < count and time.monotonic() < quiet_s:
        had = len(stamps)
        rclpy.spin_once(node, timeout_sec=0.1)
        if len(stamps) > had:
            quiet_s = time.monotonic() + 10
    print(json.dumps(stamps))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
