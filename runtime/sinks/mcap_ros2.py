"""Results as messages of ROS 2, which `ros2 bag` plays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import require
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.files import encode_picture
from dedos_deploy.runtime.sinks.mcap_profiles import Kind, Profile, numbers_of

IMAGE = "sensor_msgs/msg/Image"
JPEG = "sensor_msgs/msg/CompressedImage"
LABEL_INFO = "vision_msgs/msg/LabelInfo"
TEXT = "std_msgs/msg/String"
KINDS = {
    "/image/compressed": JPEG,
    "/overlay/compressed": JPEG,
    "/labels": IMAGE,
    "/label_info": LABEL_INFO,
    "/result": TEXT,
}
VISION_MSGS = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    LABEL_INFO: "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n",
}
"""Types of ROS that no distribution's core has."""

_FOR_EVER = "\n    sec: 9223372036\n    nsec: 854775807\n"
LATCHED = (
    "- history: 1\n  depth: 5\n  reliability: 1\n  durability: 1\n"
    f"  deadline:{_FOR_EVER}  lifespan:{_FOR_EVER}"
    f"  liveliness: 1\n  liveliness_lease_duration:{_FOR_EVER}"
    "  avoid_ros_namespace_conventions: false"
)
"""Quality of service by which whoever comes later gets the last message, too (transient local)."""


class Ros2Profile(Profile):
    """CDR messages of standard types: pictures as JPEG, label maps and the names of their ids."""

    name = "ros2"

    def __init__(self, purpose: str) -> None:
        """purpose: what the library is needed for, for the error where it is missing."""
        typesys = require("rosbags.typesys", extra="bags", purpose=purpose)
        self._store: Any = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
        for name, definition in VISION_MSGS.items():
            self._store.register(typesys.get_types_from_msg(definition, name))
        self._version = 0

    def kinds(self) -> dict[str, Kind]:
        found = {}
        for topic, name in KINDS.items():
            definition = self._store.generate_msgdef(name, ros_version=2)[0].encode()
            quality = {"offered_qos_profiles": LATCHED if name == LABEL_INFO else ""}
            found[topic] = Kind(name, "ros2msg", definition, "cdr", quality)
        return found

    def contents(
        self, frame: Frame, result: Segmentation, overlay: NDArray[np.uint8]
    ) -> dict[str, bytes]:
        header = self._header(frame)
        found = {
            "/image/compressed": self._jpeg(header, frame.frame_bgr),
            "/overlay/compressed": self._jpeg(header, overlay),
            "/labels": self._label_map(header, result),
            "/result": self._message(TEXT, data=numbers_of(frame, result).decode()),
        }
        if result.vocabulary_version != self._version:
            self._version = result.vocabulary_version
            found["/label_info"] = self._label_info(header, result)
        return found

    def _message(self, kind: str, **fields: Any) -> bytes:
        return bytes(self._store.serialize_cdr(self._store.types[kind](**fields), kind))

    def _header(self, frame: Frame) -> Any:
        seconds, nanoseconds = divmod(frame.captured_ns, 10**9)
        stamp = self._store.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        frame_id = frame.coordinate_frame or frame.source_id
        return self._store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)

    def _jpeg(self, header: Any, picture: NDArray[np.uint8]) -> bytes:
        data = np.frombuffer(encode_picture(".jpg", picture), np.uint8)
        return self._message(JPEG, header=header, format="jpeg", data=data)

    def _label_map(self, header: Any, result: Segmentation) -> bytes:
        label_map = result.label_map
        deep = label_map.dtype == np.uint16
        pixels = np.ascontiguousarray(label_map, "<u2" if deep else np.uint8)
        return self._message(
            IMAGE,
            header=header,
            height=label_map.shape[0],
            width=label_map.shape[1],
            encoding="mono16" if deep else "mono8",
            is_bigendian=0,
            step=pixels.strides[0],
            data=pixels.view(np.uint8).reshape(-1),
        )

    def _label_info(self, header: Any, result: Segmentation) -> bytes:
        make = self._store.types["vision_msgs/msg/VisionClass"]
        names = [
            make(class_id=number, class_name=name) for number, name in enumerate(result.classes)
        ]
        # The threshold of a class may be its own, so that none holds for all.
        return self._message(LABEL_INFO, header=header, class_map=names, threshold=0.0)
