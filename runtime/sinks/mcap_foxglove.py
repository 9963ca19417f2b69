"""Results as messages in Foxglove's schemas."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import require
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.files import encode_picture
from dedos_deploy.runtime.sinks.mcap_profiles import Kind, Profile, numbers_of

FONT_SIZE = 0.03
STEP = 4
"""Every how many pixels a label's place is looked for."""


class FoxgloveProfile(Profile):
    """Protobuf messages, and JSON for the numbers."""

    name = ""
    seconds = range(2**32)

    def __init__(self, purpose: str) -> None:
        """purpose: what the library is needed for, for the error where it is missing."""
        self._messages: Any = require("foxglove.messages", extra="bags", purpose=purpose)

    def kinds(self) -> dict[str, Kind]:
        return {
            "/image": self._kind("CompressedImage"),
            "/overlay": self._kind("CompressedImage"),
            "/labels": self._kind("RawImage"),
            "/annotations": self._kind("ImageAnnotations"),
            "/result": Kind(
                "dedos.Result", "jsonschema", json.dumps(RESULT_SCHEMA).encode(), "json"
            ),
        }

    def contents(
        self, frame: Frame, result: Segmentation, overlay: NDArray[np.uint8]
    ) -> dict[str, bytes]:
        clock_ns = frame.captured_ns
        return {
            "/image": self._jpeg(frame, frame.frame_bgr, clock_ns),
            "/overlay": self._jpeg(frame, overlay, clock_ns),
            "/labels": self._label_map(frame, result, clock_ns),
            "/annotations": self._annotations(result, clock_ns),
            "/result": numbers_of(frame, result),
        }

    def _kind(self, name: str) -> Kind:
        schema = getattr(self._messages, name).get_schema()
        return Kind(schema.name, schema.encoding, schema.data, "protobuf")

    def _stamp(self, clock_ns: int) -> Any:
        return self._messages.Timestamp(clock_ns // 10**9, clock_ns % 10**9)

    def _jpeg(self, frame: Frame, picture: NDArray[np.uint8], clock_ns: int) -> bytes:
        message = self._messages.CompressedImage(
            timestamp=self._stamp(clock_ns),
            frame_id=frame.coordinate_frame or frame.source_id,
            data=encode_picture(".jpg", picture),
            format="jpeg",
        )
        return bytes(message.encode())

    def _label_map(self, frame: Frame, result: Segmentation, clock_ns: int) -> bytes:
        label_map = result.label_map
        height, width = label_map.shape
        deep = label_map.dtype == np.uint16
        message = self._messages.RawImage(
            timestamp=self._stamp(clock_ns),
            frame_id=frame.coordinate_frame or frame.source_id,
            width=width,
            height=height,
            encoding="mono16" if deep else "mono8",
            step=width * label_map.itemsize,
            data=np.ascontiguousarray(label_map, "<u2" if deep else np.uint8).tobytes(),
        )
        return bytes(message.encode())

    def _annotations(self, result: Segmentation, clock_ns: int) -> bytes:
        make = self._messages
        texts = []
        for class_id, (x, y) in label_places(result).items():
            blue, green, red = (value / 255 for value in result.colours_bgr[class_id])
            texts.append(
                make.TextAnnotation(
                    timestamp=self._stamp(clock_ns),
                    position=make.Point2(x=float(x), y=float(y)),
                    text=result.classes[class_id],
                    font_size=FONT_SIZE * result.label_map.shape[0],
                    text_color=make.Color(r=1.0, g=1.0, b=1.0, a=1.0),
                    background_color=make.Color(r=red, g=green, b=blue, a=0.8),
                )
            )
        message = make.ImageAnnotations(circles=[], points=[], texts=texts)
        return bytes(message.encode())


def label_places(result: Segmentation) -> dict[int, tuple[int, int]]:
    """Return a pixel (x, y) of every class that occurs, the one nearest to the class's middle."""
    coarse = result.label_map[::STEP, ::STEP]
    places: dict[int, tuple[int, int]] = {}
    for class_id in result.class_ids:
        rows, columns = np.nonzero(coarse == class_id)
        if rows.size == 0:
            continue
        distance = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
        nearest = int(distance.argmin())
        places[class_id] = int(columns[nearest]) * STEP, int(rows[nearest]) * STEP
    return places


RESULT_SCHEMA = {
    "type": "object",
    "properties": {
        "source": {"type": "string"},
        "frame_id": {"type": "integer"},
        "name": {"type": "string"},
        "picture": {"type": ["string", "null"]},
        "captured_at": {"type": "string", "format": "date-time"},
        "timestamp_s": {"type": "number"},
        "media_s": {"type": ["number", "null"]},
        "vocabulary_version": {"type": "integer"},
        "coverage": {"type": "object", "additionalProperties": {"type": "number"}},
        "unlabelled": {"type": "number"},
        "latency_ms": {"type": "object", "additionalProperties": {"type": "number"}},
        "trust": {"type": "number"},
        "classes": {"type": "array", "items": {"type": "string"}},
        "none_id": {"type": "integer"},
    },
}
