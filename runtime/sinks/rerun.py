"""Results for the Rerun viewer, as a file or sent to one that runs."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from dedos_deploy.errors import SinkError, require
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions
from dedos_deploy.runtime.sinks.files import encode_picture
from dedos_deploy.runtime.sinks.outputs import GrowingFile, writing
from dedos_deploy.runtime.uri import redact

APPLICATION = "dedos_deploy"
TIMELINE = "captured"
CHUNK_BYTES = 1 << 20


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
        self._pump: _Pump | None = None
        if isinstance(target, Path):
            self._pump = _Pump(target, options)
            self._pump.feed(self._stream)
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
        return f"{self.uri} ({self._count} frames)" if self._count else None

    def write(self, frame: Frame, result: Segmentation) -> None:
        if self._pump is not None:
            self._pump.appear()
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
            if self._pump is not None:
                self._pump.close()

    def _classes(self, result: Segmentation) -> list[Any]:
        describe = self._rerun.AnnotationInfo
        found = [
            describe(id=class_id, label=name, color=colour[::-1])
            for class_id, (name, colour) in enumerate(
                zip(result.classes, result.colours_bgr, strict=True)
            )
        ]
        return [*found, describe(id=result.none_id, label="(unlabelled)", color=(0, 0, 0, 0))]


class _Pump:
    """Writes to a file what the SDK sends into a pipe.

    The SDK, given a file, keeps quiet when the disk is full.
    """

    def __init__(self, path: Path, options: SinkOptions) -> None:
        """Raises SinkError."""
        if sys.platform == "win32":
            raise SinkError(
                f"output {str(path)!r}: recordings for Rerun need Linux or macOS; write "
                ".mcap, or to a viewer"
            )
        self._path = path
        self._file = GrowingFile(path, overwrite=options.overwrite, protected=options.protected)
        self._error: OSError | None = None
        self._reading, self._writing = os.pipe()
        # A daemon: it may be stuck in a disk that does not answer.
        self._thread = threading.Thread(target=self._run, name=f"dedos-rrd {path}", daemon=True)
        self._thread.start()

    def feed(self, stream: Any) -> None:
        """Let a recording stream write here."""
        # The SDK opens the pipe anew, which then ends when the SDK closes it.
        stream.save(f"/dev/fd/{self._writing}")
        os.close(self._writing)

    def appear(self) -> None:
        """Let the file have its name. Raises SinkError, also that of what could not be written so far."""
        self._file.appear()
        self.raise_error()

    def raise_error(self) -> None:
        """Raise the SinkError of what could not be written so far."""
        if self._error is not None:
            with writing(self._path):
                raise self._error

    def close(self) -> None:
        """Wait for all that was sent, after the stream has been disconnected. Raises SinkError."""
        self._thread.join()
        try:
            self.raise_error()
        finally:
            self._file.close()

    def _run(self) -> None:
        with os.fdopen(self._reading, "rb", buffering=0) as pipe:
            # Read to its end in any case: the SDK waits for a pipe that is full.
            while chunk := pipe.read(CHUNK_BYTES):
                if self._error is None:
                    self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            self._error = error


def _path(name: str) -> str:
    """Return a class name as one part of an entity path.

    >>> _path("traffic light/left")
    'traffic_light_left'
    """
    return "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in name)
