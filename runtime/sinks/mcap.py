"""Results as an MCAP recording in Foxglove's schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import require
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions
from dedos_deploy.runtime.sinks.files import encode_picture, result_numbers
from dedos_deploy.runtime.sinks.outputs import open_growing, writing

CHUNK_BYTES = 256 * 2**10
"""What a kill may cost: messages are put together, compressed and written in chunks of this size."""
FONT_SIZE = 0.03
STEP = 4
"""Every how many pixels a label's place is looked for."""


class McapSink(Sink):
    """Five topics with one message per result, each at the time of the frame's capture.

    | topic | schema |
    |---|---|
    | /image | foxglove.CompressedImage: the frame, JPEG |
    | /overlay | foxglove.CompressedImage: the frame tinted by class, JPEG |
    | /labels | foxglove.RawImage, mono8 or mono16: class ids |
    | /annotations | foxglove.ImageAnnotations: class names in their colours, to be laid over /image |
    | /result | JSON, the keys of JsonLines, with `classes` (name of every id) and `none_id` |

    The file grows as it is written, and readers recover it when its writer was killed.
    """

    def __init__(self, path: Path, options: SinkOptions) -> None:
        purpose = f"writing {path.name}"
        self._messages: Any = require("foxglove.messages", extra="bags", purpose=purpose)
        writer = require("mcap.writer", extra="bags", purpose=purpose)
        self.uri = str(path)
        self._path = path
        self._options = options
        self._count = 0
        self._file = open_growing(path, overwrite=options.overwrite, protected=options.protected)
        with writing(path):
            self._writer = writer.Writer(self._file, chunk_size=CHUNK_BYTES)
            self._writer.start(library="dedos-deploy")
        self._channels = self._register()
        self._closed = False

    @property
    def written(self) -> str | None:
        return f"{self.uri} ({self._count} frames)"

    def write(self, frame: Frame, result: Segmentation) -> None:
        clock_ns = frame.captured_ns
        overlay = self._options.painter.paint(frame.frame_bgr, result)
        numbers = result_numbers(frame, result)
        numbers |= {"classes": list(result.classes), "none_id": result.none_id}
        contents = {
            "/image": self._jpeg(frame, frame.frame_bgr, clock_ns),
            "/overlay": self._jpeg(frame, overlay, clock_ns),
            "/labels": self._label_map(frame, result, clock_ns),
            "/annotations": self._annotations(result, clock_ns),
            "/result": json.dumps(numbers, ensure_ascii=False).encode(),
        }
        with writing(self._path):
            for topic, content in contents.items():
                self._writer.add_message(
                    self._channels[topic], clock_ns, content, clock_ns, sequence=self._count
                )
            self._file.flush()
        self._count += 1

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with writing(self._path):
            try:
                self._writer.finish()
            finally:
                self._file.close()

    def _register(self) -> dict[str, int]:
        kinds = {
            "/image": "CompressedImage",
            "/overlay": "CompressedImage",
            "/labels": "RawImage",
            "/annotations": "ImageAnnotations",
        }
        schemas: dict[str, int] = {}
        for kind in dict.fromkeys(kinds.values()):
            schema = getattr(self._messages, kind).get_schema()
            schemas[kind] = self._writer.register_schema(schema.name, schema.encoding, schema.data)
        channels: dict[str, int] = {
            topic: self._writer.register_channel(topic, "protobuf", schemas[kind])
            for topic, kind in kinds.items()
        }
        numbers = self._writer.register_schema(
            "dedos.Result", "jsonschema", json.dumps(RESULT_SCHEMA).encode()
        )
        channels["/result"] = self._writer.register_channel("/result", "json", numbers)
        return channels

    def _stamp(self, clock_ns: int) -> Any:
        return self._messages.Timestamp(clock_ns // 10**9, clock_ns % 10**9)

    def _jpeg(self, frame: Frame, picture: NDArray[np.uint8], clock_ns: int) -> bytes:
        message = self._messages.CompressedImage(
            timestamp=self._stamp(clock_ns),
            frame_id=frame.source_id,
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
            frame_id=frame.source_id,
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
        "captured_at": {"type": "string", "format": "date-time"},
        "timestamp_s": {"type": "number"},
        "media_s": {"type": ["number", "null"]},
        "vocabulary_version": {"type": "integer"},
        "coverage": {"type": "object", "additionalProperties": {"type": "number"}},
        "unlabelled": {"type": "number"},
        "latency_ms": {"type": "object", "additionalProperties": {"type": "number"}},
        "classes": {"type": "array", "items": {"type": "string"}},
        "none_id": {"type": "integer"},
    },
}
