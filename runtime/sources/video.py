"""A video file as a source: every picture that can be decoded, and a word about those that cannot."""

from __future__ import annotations

import time
from collections.abc import Mapping

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.opencv import Capture, open_capture, property_of, quiet_opencv
from dedos_deploy.runtime.sources.contract import UNREADABLE, Outcome, Source
from dedos_deploy.runtime.sources.interlaced import read_right, warning_of
from dedos_deploy.runtime.sources.video_files import ffmpeg_words, is_cut_short, is_fragmented
from dedos_deploy.runtime.uri import redact

FAILURES = 64
"""Reads that fail in a row where a file ends that does not say how many pictures it has."""
MOST_FAILURES = 10_000
"""The same of any file."""
FAILING_S = 10.0
"""How long reads may fail in a row: those of a file on a server may take seconds each."""


class VideoSource(Source):
    """Every picture of a video file that can be decoded.

    A read that fails is not the end: damaged pictures lie between whole ones, and sound between those
    of a slide show. Damage, and a file that was cut short, is said in `warnings`, with FFmpeg's words;
    that fewer pictures came than the container announces is not, since some only estimate it.
    """

    def __init__(self, address: str, *, source_id: str, capture: Capture | None = None) -> None:
        """Open `address`, or take over an opened `capture`. Raises SourceError."""
        import cv2

        self.source_id = redact(source_id)
        self._address = address
        self._capture = capture if capture is not None else open_capture(address)
        if not self._capture.isOpened():
            raise SourceError(
                f"video {self.source_id!r} cannot be opened{_said(ffmpeg_words(address))}; it may be "
                "damaged, incomplete, or of a kind that OpenCV does not read: check that it plays, or "
                "convert it to MP4"
            )
        self.fps = property_of(self._capture, cv2.CAP_PROP_FPS)
        announced = property_of(self._capture, cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(announced) if announced and not is_fragmented(address) else None
        self._capture = read_right(address, self._capture)
        self._read = 0
        self._failed_at: list[int] = []
        self._damaged = 0
        may_be_black = warning_of(self.source_id)
        self._warnings = [] if may_be_black is None else [may_be_black]
        self._ended = False

    @property
    def drops(self) -> Mapping[str, int]:
        return {UNREADABLE: self._damaged} if self._damaged else {}

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def read(self, timeout_s: float) -> Frame | Outcome:
        failed, give_up_s = 0, time.monotonic() + FAILING_S
        while not self._ended and failed <= self._patience() and time.monotonic() < give_up_s:
            with quiet_opencv():
                delivered, frame_bgr = self._capture.read()
            if delivered and frame_bgr is not None:
                self._failed_at += failed * [self._read]
                index = self._read
                self._read += 1
                name = f"{index:06d}"
                media_s = self._position_s(index)
                return Frame(frame_bgr, index, time.monotonic(), self.source_id, name, media_s)
            failed += 1
        if not self._ended:
            self._ended = True
            self._look_back()
        return Outcome.END

    def _patience(self) -> int:
        """Return how many reads in a row may fail: as many as pictures may still be there."""
        left = 0 if self.frames is None else max(0, self.frames - self._read)
        return min(left + FAILURES, MOST_FAILURES)

    def _look_back(self) -> None:
        """Find out at the end what was wrong. Raises SourceError when there was no picture."""
        if self._read == 0:
            raise SourceError(
                f"no frame of video {self.source_id!r} can be decoded"
                f"{_said(ffmpeg_words(self._address))}; it may be damaged or of a codec that OpenCV "
                "lacks: check that it plays, or convert it to H.264"
            )
        # Between the pictures of a slide show reads fail, too, and FFmpeg finds nothing wrong.
        words = ffmpeg_words(self._address, near=self._failed_at[0]) if self._failed_at else ""
        if words != "":
            self._damaged = len(self._failed_at)
            self._warnings.append(
                f"video {self.source_id!r} is damaged{_said(words)}: {self._damaged} of its pictures "
                "could not be decoded and were skipped"
            )
        seen = self._read + self._damaged
        if self.frames is None or seen >= self.frames:
            return
        # Some containers only estimate their number: it alone proves nothing.
        is_cut = is_cut_short(self._address)
        if is_cut or (words := ffmpeg_words(self._address, near=seen)) != "":
            self._warnings.append(
                f"video {self.source_id!r} ended after {self._read} of the {self.frames} frames it "
                f"announces{_said(words)}; the file may be cut short, what was read is labelled"
            )

    def _position_s(self, index: int) -> float | None:
        import cv2

        # The picture's own time, since not every video has an even rate.
        position = property_of(self._capture, cv2.CAP_PROP_POS_MSEC)
        if position is not None and index > 0:
            return position / 1e3
        return index / self.fps if self.fps else None

    def close(self) -> None:
        self._ended = True
        self._capture.release()


def _said(words: str | None) -> str:
    return f" (FFmpeg says {words!r})" if words else ""
