"""One camera of the node: its topics, and what becomes of its frames."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.callback_groups import CallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from dedos_deploy.errors import DedosError
from dedos_deploy.runtime import OverlayPainter, Segmentation, SegmenterView
from dedos_deploy.runtime.label_maps import fitted
from dedos_deploy.trust import doubt_of
from dedos_ros import messages
from dedos_ros.clouds import CloudMaker, Pinhole, depth_m
from dedos_ros.frames import frame_bgr, frame_of_compressed, frame_of_image
from dedos_ros.health import Health
from dedos_ros.labels import Announcements, Mask, entries_of
from dedos_ros.pairing import Pairing
from dedos_ros.settings import Settings

NEWEST = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
)
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
PUBLISHED = {
    # topic below `~/` and the camera's name: type, quality of service
    "label_mask": (Image, qos_profile_sensor_data),
    "confidence": (Image, qos_profile_sensor_data),
    "label_info": (LabelInfo, LATCHED),
    "overlay": (Image, qos_profile_sensor_data),
    "resized/label_mask": (Image, qos_profile_sensor_data),
    "points": (PointCloud2, qos_profile_sensor_data),
}

Labelled = tuple[Header, Mask, NDArray[np.uint8]]
"""Header of an image, its mask as published, and its confidence."""


class Camera:
    """Topics of one camera. `arrived` is called with its name and each image; any thread calls the rest."""

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        view: SegmenterView,
        settings: Settings,
        arrived: Callable[[str, Any], bool],
    ) -> None:
        self.name = name
        self.health = Health()
        self._node = node
        self._view = view
        self._settings = settings
        self._arrived = arrived
        self._prefix = f"{name}/" if name else ""
        self._publishers = {
            topic: node.create_lifecycle_publisher(kind, f"~/{self._prefix}{topic}", quality)
            for topic, (kind, quality) in PUBLISHED.items()
            if topic != "points" or settings.points
        }
        self._subscriptions: list[Any] = []
        self._announcements = Announcements()
        self._painter = OverlayPainter()
        self._busy = threading.Lock()
        self._pairing: Pairing[Labelled, Image] = Pairing(round(settings.sync_s * 1e9))
        self._pairing_busy = threading.Lock()
        self._clouds = CloudMaker()
        self._info: CameraInfo | None = None

    def subscribe(self, group: CallbackGroup) -> None:
        """Begin to take images, and depth where points are wanted."""
        # A remapping of `image` is meant for what it is sent as, too.
        image = self._node.resolve_topic_name(f"{self._prefix}image")
        if self._settings.image_transport == "compressed":
            self._take(CompressedImage, f"{image}/compressed", self._image, group)
        else:
            self._take(Image, image, self._image, group)
        if self._settings.points:
            self._take(Image, f"{self._prefix}depth", self._depth, group, qos_profile_sensor_data)
            self._take(CameraInfo, f"{self._prefix}camera_info", self._camera_info, group)

    def unsubscribe(self) -> None:
        """Take no more."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def close(self) -> None:
        """Give up the topics."""
        self.unsubscribe()
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def announce(self) -> None:
        """Publish the names of the ids from now on, unless that was done.

        A frame of the words before that is being labelled goes out first.
        """
        with self._busy:
            self._announce(
                self._view.vocabulary_version,
                [(class_id, name) for name, class_id, _ in self._view.entries],
            )

    def label(self, message: Any) -> None:
        """Label an image and publish what comes of it, or note why that cannot be."""
        try:
            with self._busy:
                self._label(message)
        except DedosError as error:
            self.health.count(refused=1)
            self._note("image", str(error))
        else:
            self._note("image", None)

    def _label(self, message: Any) -> None:
        compressed = isinstance(message, CompressedImage)
        picture = frame_of_compressed(message) if compressed else frame_of_image(message)
        result = self._view.segment(picture)
        self._announce(result.vocabulary_version, entries_of(result))
        mask = self._settings.format.mask(result.label_map, result.none_id)
        self._send_image("label_mask", message.header, mask, self._settings.mask_encoding)
        self._send_image("confidence", message.header, result.confidence, "mono8")
        self._announcements.published(messages.stamp_ns(message.header))
        self.health.count(labelled=1)
        self.health.latency_ms = result.total_ms
        self.health.trust, self.health.doubt = result.trust, doubt_of(result.trust)
        self._send_if_wanted(message.header, result, picture)
        if self._settings.points:
            with self._pairing_busy:
                self._send_clouds(
                    self._pairing.add_mask(
                        messages.stamp_ns(message.header), (message.header, mask, result.confidence)
                    )
                )

    def _send_if_wanted(self, header: Header, result: Segmentation, picture: Any) -> None:
        if self._wanted("overlay"):
            overlay = self._painter.paint(frame_bgr(picture), result)
            self._send_image("overlay", header, overlay, "bgr8")
        if self._wanted("resized/label_mask"):
            width, height = self._settings.resized_wh
            smaller = result.resized(fitted(result.label_map.shape, (width, height)))
            mask = self._settings.format.mask(smaller, result.none_id)
            self._send_image("resized/label_mask", header, mask, self._settings.mask_encoding)

    def _announce(self, version: int, entries: list[tuple[int, str]]) -> None:
        said = self._announcements.due(version, entries)
        if said is not None:
            named = self._settings.format.named(said.entries)
            message = messages.label_info(said, named, self._settings.threshold)
            self._publishers["label_info"].publish(message)

    def _image(self, message: Any) -> None:
        replaced = self._arrived(self.name, message)
        self.health.count(received=1, replaced=int(replaced))

    def _camera_info(self, message: CameraInfo) -> None:
        self._info = message

    def _depth(self, message: Image) -> None:
        with self._pairing_busy:
            self._send_clouds(self._pairing.add_depth(messages.stamp_ns(message.header), message))

    def _send_clouds(self, pairs: list[tuple[Labelled, Image]]) -> None:
        for (header, mask, confidence), depth in pairs:
            if self._info is None:
                self._note("camera_info", "none has come yet, so that depth gives no points")
                continue
            try:
                metres, camera = depth_m(depth), Pinhole.from_info(self._info)
                points = self._clouds.cloud(metres, camera, mask, confidence)
            except DedosError as error:
                self._note("depth", str(error))
                continue
            self._note("camera_info", None)
            self._note("depth", None)
            self._publishers["points"].publish(messages.cloud(header, points))
            self.health.count(clouds=1)

    def _take(
        self,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        group: CallbackGroup,
        quality: QoSProfile = NEWEST,
    ) -> None:
        self._subscriptions.append(
            self._node.create_subscription(kind, topic, callback, quality, callback_group=group)
        )

    def _send_image(self, topic: str, header: Header, pixels: NDArray[Any], encoding: str) -> None:
        self._publishers[topic].publish(messages.image(header, pixels, encoding))

    def _wanted(self, topic: str) -> bool:
        return bool(self._publishers[topic].get_subscription_count())

    def _note(self, topic: str, sentence: str | None) -> None:
        if not self.health.wrong(f"{self._prefix}{topic}", sentence):
            return
        if sentence is not None:
            self._node.get_logger().error(f"{self._prefix}{topic}: {sentence}")
        else:
            self._node.get_logger().info(f"{self._prefix}{topic}: is usable again")
