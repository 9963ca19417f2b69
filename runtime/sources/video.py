"""A video file as a source: every frame, and a word when the file ends too early."""

from __future__ import annotations

import time

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.opencv import Capture, open_capture, property_of, quiet_opencv
from dedos_deploy.runtime.sources.contract import Outcome, Source
from dedos_deploy.runtime.uri import redact

HEADER_BYTES = 65536


class VideoSource(Source):
    """Every frame of a video file.

    A file that ends before the number of frames its container announces, for instance because a
    copy was cut short, gives what can be read; `warnings` then names the file and both numbers.
    """

    def __init__(self, address: str, *, source_id: str, capture: Capture | None = None) -> None:
        """Open `address`, or take over an opened `capture`. Raises SourceError."""
        import cv2

        self.source_id = redact(source_id)
        self._capture = capture if capture is not None else open_capture(address)
        if not self._capture.isOpened():
            raise SourceError(
                f"video {self.source_id!r} cannot be opened; it may be damaged, incomplete, or of "
                "a kind that OpenCV does not read: check that it plays, or convert it to MP4"
            )
        self.fps = property_of(self._capture, cv2.CAP_PROP_FPS)
        announced = property_of(self._capture, cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(announced) if announced and not _is_fragmented(address) else None
        self._read = 0
        self._ended = False
        self._closed = False

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self._ended or self.frames is None or self._read >= self.frames:
            return ()
        return (
            f"video {self.source_id!r} ended after {self._read} of the {self.frames} frames it "
            "announces; the file may be cut short, what was read is labelled",
        )

    def read(self, timeout_s: float) -> Frame | Outcome:
        if self._ended or self._closed:
            return Outcome.END
        with quiet_opencv():
            delivered, frame_bgr = self._capture.read()
        if delivered and frame_bgr is not None:
            index = self._read
            self._read += 1
            name = f"{index:06d}"
            media_s = self._position_s(index)
            return Frame(frame_bgr, index, time.monotonic(), self.source_id, name, media_s)
        self._ended = True
        if self._read == 0:
            raise SourceError(
                f"no frame of video {self.source_id!r} can be decoded; it may be damaged or of a "
                "codec that OpenCV lacks: check that it plays, or convert it to H.264"
            )
        return Outcome.END

    def _position_s(self, index: int) -> float | None:
        import cv2

        # The picture's own time, since not every video has an even rate.
        position = property_of(self._capture, cv2.CAP_PROP_POS_MSEC)
        if position is not None and index > 0:
            return position / 1e3
        return index / self.fps if self.fps else None

    def close(self) -> None:
        self._closed = True
        self._capture.release()


def _is_fragmented(address: str) -> bool:
    """Return whether a file is MP4 in fragments, of which OpenCV only guesses how many there are."""
    try:
        with open(address, "rb") as file:
            start = file.read(HEADER_BYTES)
    except OSError:
        return False
    return start[4:8] == b"ftyp" and b"mvex" in start
