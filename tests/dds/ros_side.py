"""A node of a real ROS 2 that publishes pictures and takes their masks; runs where rclpy is.

    python ros_side.py PICTURES.npz RESULTS.npz

The next picture is published when the mask of the last one has come. Names of ids are asked for late.
"""

from __future__ import annotations

import array
import sys
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

LATCHED = QoSProfile(
    depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def image(pixels: Any, number: int) -> Image:
    message = Image()
    message.header.stamp.sec, message.header.stamp.nanosec = 1_700_000_000, number
    message.header.frame_id = f"camera_{number}"
    message.height, message.width = pixels.shape[:2]
    message.encoding, message.step = "bgr8", 3 * pixels.shape[1]
    message.data = array.array("B", pixels.tobytes())
    return message


def main() -> None:
    pictures = np.load(sys.argv[1])["pictures"]
    rclpy.init()
    node = rclpy.create_node("robot")
    masks: dict[int, Any] = {}  # by number, since a picture may be sent twice
    named: list[Any] = []
    camera = node.create_publisher(Image, "/cam/image", 5)

    def take(mask: Image) -> None:
        masks[mask.header.stamp.nanosec] = mask

    smaller: list[Any] = []
    node.create_subscription(Image, "/dedos/label_mask", take, 5)
    # Best effort, which is for what is small.
    node.create_subscription(
        Image, "/dedos/resized/label_mask", smaller.append, qos_profile_sensor_data
    )
    ends_s = time.monotonic() + 60.0

    def spin_until(is_so: Any, for_s: float) -> None:
        until_s = time.monotonic() + for_s
        while not is_so() and time.monotonic() < until_s:
            assert time.monotonic() < ends_s, "no end"
            rclpy.spin_once(node, timeout_sec=0.05)

    for number, picture in enumerate(pictures):
        while number not in masks:
            # Again, since the first is read before anybody could hear the mask of it.
            camera.publish(image(picture, number))
            spin_until(lambda wanted=number: wanted in masks, 0.5)
    node.create_subscription(LabelInfo, "/dedos/label_info", named.append, LATCHED)
    spin_until(lambda: named and smaller, 30.0)

    def hashes(topic: str) -> list[str]:
        return [str(one.topic_type_hash) for one in node.get_publishers_info_by_topic(topic)]

    assert hashes("/dedos/label_mask") == hashes("/cam/image"), "hashes of Image differ"
    (subscribed,) = node.get_subscriptions_info_by_topic("/dedos/label_info")
    assert hashes("/dedos/label_info") == [str(subscribed.topic_type_hash)]
    found = [masks[number] for number in sorted(masks)]
    headers = [one.header for one in found]
    np.savez(
        sys.argv[2],
        masks=[np.frombuffer(one.data, np.uint8).reshape(one.height, one.step) for one in found],
        smaller=np.frombuffer(smaller[-1].data, np.uint8).reshape(-1, smaller[-1].step),
        smaller_number=smaller[-1].header.stamp.nanosec,
        encodings=[one.encoding for one in found],
        stamps=[10**9 * one.stamp.sec + one.stamp.nanosec for one in headers],
        frame_ids=[one.frame_id for one in headers],
        ids=[one.class_id for one in named[-1].class_map],
        names=[one.class_name for one in named[-1].class_map],
    )
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
