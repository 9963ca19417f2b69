"""Results as topics of ROS 2, over DDS and without a ROS installation."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SinkError, nearest
from dedos_deploy.runtime.dds import Node, Writer
from dedos_deploy.runtime.dds_address import TopicAddress, parse_topic
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.label_maps import fitted
from dedos_deploy.runtime.ros2_messages import IMAGE, LABEL_INFO, STAMP_SECONDS
from dedos_deploy.runtime.segmentation import LabelMap, Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions, checked_time

log = logging.getLogger(__name__)

MASK = "/label_mask"
LABELS = "/label_info"
CONFIDENCE = "/confidence"
OVERLAY = "/overlay"
RESIZED = "/resized/label_mask"
ALSO = {"confidence": CONFIDENCE, "overlay": OVERLAY, "resized": RESIZED}
"""Topics by the names that `also=` takes."""
RELIABILITIES = ("reliable", "best_effort")
DEPTHS_OF_MASK = ("mono8", "mono16")
RESIZED_WH = (400, 200)
"""At most: what a costmap makes use of."""


class TopicSink(Sink):
    """A message on each topic per result, with the header of the frame's own message, if it came in one.

    | topic | message |
    |---|---|
    | NAMESPACE/label_mask | sensor_msgs/Image, mono8, rows without gaps: class ids |
    | NAMESPACE/label_info | vision_msgs/LabelInfo, at the first result and before the first mask with other words; whoever comes later gets the last one |
    | NAMESPACE/confidence | sensor_msgs/Image, mono8, of the mask's size (`also=confidence`) |
    | NAMESPACE/overlay | sensor_msgs/Image, bgr8 (`also=overlay`) |
    | NAMESPACE/resized/label_mask | the mask at up to 400x200, of each cell what most of its pixels are (`also=resized`) |

    What `also` names is made while somebody subscribes to it. Subscribers that are too slow cost
    messages, not the run.
    """

    def __init__(self, uri: str, options: SinkOptions) -> None:
        """uri: ros2:/NAMESPACE and settings. Raises SinkError, MissingExtraError."""
        address = topics_at(uri)
        self.uri = uri
        self._options = options
        also = _also(address)
        depth = address.settings.get("mask", "mono8")
        _choices(address, "mask", depth, DEPTHS_OF_MASK)
        self._is_deep = depth == "mono16"
        self._node = Node(address.domain, refusal=SinkError, purpose=f"writing {uri}")
        try:
            self._writers = {
                topic: self._node.writer(address, topic, IMAGE) for topic in (MASK, *also)
            }
            self._labels = self._node.writer(address, LABELS, LABEL_INFO, latched=True)
        except BaseException:
            self._node.close()
            raise
        self._version = 0
        self._count = 0
        self._late = 0
        self._closed = False

    @property
    def written(self) -> str | None:
        if not self._count:
            return None
        late = f", {self._late} messages not taken in time" if self._late else ""
        return f"{self.uri} ({self._count} frames{late})"

    def write(self, frame: Frame, result: Segmentation) -> None:
        messages = self._node.messages
        # What came on a topic has a header, also where its `frame_id` is empty.
        frame_id = frame.coordinate_frame or ("" if frame.topic else frame.source_id)
        stamp_ns = checked_time(self.uri, frame.captured_ns, STAMP_SECONDS)
        header = messages.header(stamp_ns, frame_id)
        mask = messages.picture(header, self._pixels(MASK, frame, result))
        if result.vocabulary_version != self._version:
            # Names that were not taken in time come again: masks mean nothing without them.
            if self._send(self._labels, messages.label_info(header, result)):
                self._version = result.vocabulary_version
        for topic, writer in self._writers.items():
            if topic == MASK:
                self._send(writer, mask)
            elif writer.is_heard:
                pixels = self._pixels(topic, frame, result)
                self._send(writer, messages.picture(header, pixels))
        self._count += 1

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # Each waits a moment until its reliable subscribers have everything.
        self._writers.clear()
        del self._labels
        self._node.close()

    def _send(self, writer: Writer, content: bytes) -> bool:
        if writer.write(content):
            return True
        if not self._late:
            log.warning("%s: a subscriber is too slow, messages are lost", self.uri)
        self._late += 1
        return False

    def _pixels(self, topic: str, frame: Frame, result: Segmentation) -> NDArray[Any]:
        if topic == CONFIDENCE:
            return result.confidence
        if topic == OVERLAY:
            return self._options.painter.paint(frame.frame_bgr, result)
        if topic == RESIZED:
            return self._mask(result.resized(fitted(result.label_map.shape, RESIZED_WH)), result)
        return self._mask(result.label_map, result)

    def _mask(self, label_map: LabelMap, result: Segmentation) -> LabelMap:
        """Return a label map as it is published. Raises SinkError for ids that do not fit."""
        if self._is_deep:
            none_id = np.uint16(65535)
            return np.where(label_map == result.none_id, none_id, label_map.astype(np.uint16))
        if label_map.dtype != np.uint8:
            raise SinkError(
                f"output {self.uri!r}: a mask of mono8 holds 254 classes, and there are "
                f"{len(result.classes)}; ask for fewer, or add mask=mono16 for readers that know it"
            )
        return label_map


def topics_at(uri: str) -> TopicAddress:
    """Return the namespace that an output's address names, with its settings. Raises SinkError."""
    return parse_topic(
        uri,
        os.environ,
        refusal=SinkError,
        reliabilities=RELIABILITIES,
        others=("also", "mask"),
    )


def _choices(address: TopicAddress, setting: str, text: str, known: Collection[str]) -> None:
    if text not in known:
        raise SinkError(
            f"output {address.uri!r}: {setting} is {' or '.join(known)}, not {text[:40]!r}"
            f"{nearest(text, known)}"
        )


def _also(address: TopicAddress) -> list[str]:
    """Return the topics besides mask and names that an address asks for. Raises SinkError."""
    names = address.settings.get("also")
    if names is None:
        return []
    for name in names.split(","):
        _choices(address, "also", name, ALSO)
    return [ALSO[name] for name in names.split(",")]
