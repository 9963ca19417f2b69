"""Messages of ROS 2 (CDR) that results are put into, without a ROS installation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import require
from dedos_deploy.runtime.segmentation import Segmentation

IMAGE = "sensor_msgs/msg/Image"
JPEG = "sensor_msgs/msg/CompressedImage"
LABEL_INFO = "vision_msgs/msg/LabelInfo"
TEXT = "std_msgs/msg/String"
STAMP_SECONDS = range(-(2**31), 2**31)
"""Seconds after 1970 began that a header can hold."""
VISION_MSGS = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    LABEL_INFO: "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n",
}
"""Types of ROS that no distribution's core has."""


class Ros2Messages:
    """Makes serialized messages, and tells what their types are; store: rosbags' types."""

    def __init__(self, *, extra: str, purpose: str) -> None:
        """extra, purpose: what brings the library and what it is for, for the error without it."""
        typesys = require("rosbags.typesys", extra=extra, purpose=purpose)
        self.store: Any = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
        for name, definition in VISION_MSGS.items():
            self.store.register(typesys.get_types_from_msg(definition, name))

    def definition(self, kind: str) -> bytes:
        """Return the text of a type and of all that it is made of."""
        text: str = self.store.generate_msgdef(kind, ros_version=2)[0]
        return text.encode()

    def type_hash(self, kind: str) -> str:
        """Return the hash of a type's definition that ROS 2 compares, as `RIHS01_...`."""
        found: str = self.store.hash_rihs01(kind)
        return found

    def message(self, kind: str, **fields: Any) -> bytes:
        """Return a message, serialized."""
        return bytes(self.store.serialize_cdr(self.store.types[kind](**fields), kind))

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """Return the header of a message. stamp_ns: nanoseconds since 1970, within STAMP_SECONDS."""
        seconds, nanoseconds = divmod(stamp_ns, 10**9)
        stamp = self.store.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        return self.store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)

    def picture(self, header: Any, pixels: NDArray[Any]) -> bytes:
        """Return an Image without gaps between rows: uint8 BGR [H, W, 3], or uint8 or uint16 [H, W]."""
        deep = pixels.dtype == np.uint16
        packed = np.ascontiguousarray(pixels, "<u2" if deep else np.uint8)
        plain = "mono16" if deep else "mono8"
        return self.message(
            IMAGE,
            header=header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding="bgr8" if pixels.ndim == 3 else plain,
            is_bigendian=0,
            step=packed.strides[0],
            data=packed.view(np.uint8).reshape(-1),
        )

    def label_info(self, header: Any, result: Segmentation) -> bytes:
        """Return the names of a result's ids."""
        make = self.store.types["vision_msgs/msg/VisionClass"]
        names = [
            make(class_id=number, class_name=name) for number, name in enumerate(result.classes)
        ]
        # The threshold of a class may be its own, so that none holds for all.
        return self.message(LABEL_INFO, header=header, class_map=names, threshold=0.0)
