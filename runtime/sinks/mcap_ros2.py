"""Results as messages of ROS 2, which `ros2 bag` plays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.ros2_messages import (
    IMAGE,
    JPEG,
    LABEL_INFO,
    STAMP_SECONDS,
    TEXT,
    Ros2Messages,
)
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.files import encode_picture
from dedos_deploy.runtime.sinks.mcap_profiles import Kind, Profile, numbers_of

KINDS = {
    "/image/compressed": JPEG,
    "/overlay/compressed": JPEG,
    "/labels": IMAGE,
    "/label_info": LABEL_INFO,
    "/result": TEXT,
}
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
    seconds = range(STAMP_SECONDS.stop)

    def __init__(self, purpose: str) -> None:
        """purpose: what the library is needed for, for the error where it is missing."""
        self._messages = Ros2Messages(extra="bags", purpose=purpose)
        self._version = 0

    def kinds(self) -> dict[str, Kind]:
        found = {}
        for topic, name in KINDS.items():
            quality = {"offered_qos_profiles": LATCHED if name == LABEL_INFO else ""}
            definition = self._messages.definition(name)
            found[topic] = Kind(name, "ros2msg", definition, "cdr", quality)
        return found

    def contents(
        self, frame: Frame, result: Segmentation, overlay: NDArray[np.uint8]
    ) -> dict[str, bytes]:
        header = self._messages.header(frame.captured_ns, frame.coordinate_frame or frame.source_id)
        found = {
            "/image/compressed": self._jpeg(header, frame.frame_bgr),
            "/overlay/compressed": self._jpeg(header, overlay),
            "/labels": self._messages.picture(header, result.label_map),
            "/result": self._messages.message(TEXT, data=numbers_of(frame, result).decode()),
        }
        if result.vocabulary_version != self._version:
            self._version = result.vocabulary_version
            found["/label_info"] = self._messages.label_info(header, result)
        return found

    def _jpeg(self, header: Any, picture: NDArray[np.uint8]) -> bytes:
        data = np.frombuffer(encode_picture(".jpg", picture), np.uint8)
        return self._messages.message(JPEG, header=header, format="jpeg", data=data)
