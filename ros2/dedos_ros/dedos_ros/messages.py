"""Results as messages of ROS."""

from __future__ import annotations

import array
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from numpy.typing import NDArray
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionClass

from dedos_ros.clouds import POINT
from dedos_ros.health import Health
from dedos_ros.labels import Announcement

_KINDS = {"<f4": PointField.FLOAT32, "<u2": PointField.UINT16, "|u1": PointField.UINT8}
_LEVELS = {
    "ok": DiagnosticStatus.OK,
    "warning": DiagnosticStatus.WARN,
    "error": DiagnosticStatus.ERROR,
}


def stamp_ns(header: Header) -> int:
    """Return a header's stamp in nanoseconds."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def image(header: Header, pixels: NDArray[Any], encoding: str) -> Image:
    """Return an image without padding, its header the one given."""
    height, width = pixels.shape[:2]
    return Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=pixels.nbytes // height,
        data=_content(pixels),
    )


def label_info(said: Announcement, entries: list[tuple[int, str]], threshold: float) -> LabelInfo:
    """Return the names of ids.

    The header's frame_id is `version=N`; its stamp is that of the last mask of the words before.
    entries: ids as masks have them.
    """
    seconds, nanoseconds = divmod(said.after_ns, 10**9)
    return LabelInfo(
        header=Header(
            stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=f"version={said.version}"
        ),
        class_map=[VisionClass(class_id=number, class_name=name) for number, name in entries],
        threshold=max(threshold, 0.0),
    )


def cloud(header: Header, points: NDArray[np.void]) -> PointCloud2:
    """Return an organised cloud of POINT [H, W]."""
    height, width = points.shape
    assert POINT.fields is not None, "by its definition"
    fields = [
        PointField(name=name, offset=place[1], datatype=_KINDS[place[0].str], count=1)
        for name, place in POINT.fields.items()
    ]
    return PointCloud2(
        header=header,
        height=height,
        width=width,
        fields=fields,
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=POINT.itemsize * width,
        data=_content(points),
        is_dense=False,
    )


def diagnostics(
    stamp: Time, name: str, cameras: Mapping[str, Health], known: Mapping[str, str]
) -> DiagnosticArray:
    """Return how a node's cameras are; known: what is the same for all, by name."""
    message = DiagnosticArray(header=Header(stamp=stamp))
    for camera, health in cameras.items():
        level, sentence = health.summary()
        message.status.append(
            DiagnosticStatus(
                level=_LEVELS[level],
                name=f"{name}: {camera}" if camera else name,
                message=sentence,
                hardware_id=camera,
                values=[
                    KeyValue(key=key, value=value)
                    for key, value in {**known, **health.numbers()}.items()
                ],
            )
        )
    return message


def _content(pixels: NDArray[Any]) -> array.array[int]:
    # Anything but an array of bytes is looked at byte by byte: 190 ms for a picture of 900 KB.
    content = array.array("B")
    content.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    return content
