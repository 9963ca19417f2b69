"""What kiwicampus/semantic_segmentation_layer asks of the messages it takes, as checks.

Written from its README and from what its subscribers do (branch of 2026): topics are brought together by
equal stamps (`TimeSynchronizer`), and neither `encoding` nor `step` of an image is read: byte
`v * width + u` is the class of pixel (u, v).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FLOAT32 = 7


class Nav2Layer:
    """The layer's subscriber: `accepted` counts what it would put into a costmap."""

    def __init__(self, configured: Sequence[str]) -> None:
        """configured: names of classes in the costmap's parameters."""
        self._configured = set(configured)
        self._names: dict[int, str] = {}
        self._waiting: dict[tuple[int, int], dict[str, Any]] = {}
        self.accepted = 0
        self.observations: dict[str, int] = {}

    def label_info(self, message: Any) -> None:
        names = {each.class_id: each.class_name for each in message.class_map}
        unknown = set(names.values()) - self._configured
        assert not unknown, f"an error is logged for {unknown}, which the costmap does not name"
        assert all(number < 256 for number in names), "ids are cut to 8 bits"
        self._names = names

    def take(self, topic: str, message: Any) -> None:
        stamp = message.header.stamp.sec, message.header.stamp.nanosec
        together = self._waiting.setdefault(stamp, {})
        together[topic] = message
        if set(together) == {"label_mask", "confidence", "points"}:
            del self._waiting[stamp]
            self._buffer(together["label_mask"], together["confidence"], together["points"])

    def _buffer(self, mask: Any, confidence: Any, cloud: Any) -> None:
        pixels = mask.width * mask.height
        assert pixels == cloud.width * cloud.height, "sizes differ, not buffered"
        assert len(mask.data) >= pixels, "too short, not buffered"
        assert self._names, "no label_info yet, not buffered"
        # What the layer reads without a check: it would be wrong or beyond the end in silence.
        assert len(mask.data) == len(confidence.data) == pixels
        assert mask.header.frame_id == cloud.header.frame_id, "the transform is the cloud's"
        kinds = {field.name: (field.offset, field.datatype) for field in cloud.fields}
        assert {kinds[axis][1] for axis in "xyz"} == {FLOAT32}
        points = np.frombuffer(cloud.data, np.uint8).reshape(pixels, cloud.point_step)
        z = points[:, kinds["z"][0] :][:, :4].copy().view("<f4")[:, 0]
        seen = np.frombuffer(mask.data, np.uint8)[np.isfinite(z)]
        for class_id, count in zip(*np.unique(seen, return_counts=True), strict=True):
            # Ids that have no name are skipped.
            if class_id in self._names:
                name = self._names[class_id]
                self.observations[name] = self.observations.get(name, 0) + int(count)
        self.accepted += 1
