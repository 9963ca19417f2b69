"""Results for the Rerun viewer, as a file or sent to one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dedos_deploy.errors import SinkError, require
from dedos_deploy.runtime.file_sinks import encode_picture
from dedos_deploy.runtime.files import reserve_file, writing
from dedos_deploy.runtime.frames import Frame
from dedos_deploy.runtime.palette import class_colour_bgr
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks import Sink, SinkOptions
from dedos_deploy.runtime.uri import redact

APPLICATION = "dedos_deploy"
TIMELINE = "captured"


class RerunSink(Sink):
    """Per result: `camera/image` (JPEG), `camera/labels` (class ids, coloured and named by
    `camera`'s annotations), and `coverage/NAME` and `latency_ms/STAGE` as curves, on the timeline
    `captured`. A viewer that goes away costs results, not the run.
    """

    def __init__(self, target: Path | str, options: SinkOptions) -> None:
        """target: a file, or the address of a viewer. Raises SinkError, MissingExtraError."""
        self._rerun: Any = require("rerun", extra="rerun", purpose="an output for Rerun")
        self.uri = redact(str(target))
        self._count = 0
        self._version = 0
        self._closed = False
        self._stream = self._rerun.RecordingStream(APPLICATION)
        if isinstance(target, Path):
            reserve_file(target, overwrite=options.overwrite).unlink()
            with writing(target):
                self._stream.save(target)
            return
        try:
            self._stream.connect_grpc(target)
        except (RuntimeError, ValueError, OSError) as error:
            raise SinkError(
                f"{self.uri!r} is no address of a Rerun viewer ({error}); start one with `rerun`, and "
                "write rerun+http://127.0.0.1:9876/proxy"
            ) from error

    @property
    def written(self) -> str | None:
        return f"{self.uri} ({self._count} frames)"

    def write(self, frame: Frame, result: Segmentation) -> None:
        rerun, stream = self._rerun, self._stream
        stream.set_time(TIMELINE, timestamp=np.datetime64(frame.captured_ns, "ns"))
        if result.vocabulary_version != self._version:
            self._version = result.vocabulary_version
            # At its time and not for all times: an id may mean something else later.
            stream.log("camera", rerun.AnnotationContext(self._classes(result)))
        picture = encode_picture(".jpg", frame.frame_bgr)
        stream.log("camera/image", rerun.EncodedImage(contents=picture, media_type="image/jpeg"))
        stream.log("camera/labels", rerun.SegmentationImage(result.label_map, opacity=0.5))
        for name, part in result.coverage.items():
            stream.log(f"coverage/{_path(name)}", rerun.Scalars(part))
        for stage, value in result.latency_ms.items():
            stream.log(f"latency_ms/{stage}", rerun.Scalars(value))
        self._count += 1

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stream.disconnect()

    def _classes(self, result: Segmentation) -> list[Any]:
        describe = self._rerun.AnnotationInfo
        found = [
            describe(id=class_id, label=name, color=class_colour_bgr(class_id)[::-1])
            for class_id, name in enumerate(result.classes)
        ]
        return [*found, describe(id=result.none_id, label="(unlabelled)", color=(0, 0, 0, 0))]


def _path(name: str) -> str:
    """Return a class name as one part of an entity path.

    >>> _path("traffic light/left")
    'traffic_light_left'
    """
    return "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in name)
