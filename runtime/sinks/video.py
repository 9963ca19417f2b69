"""Overlay videos: of recordings put in place once complete, of live sources growing as they are seen."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SinkError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.opencv import open_capture, quiet_opencv
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.codec_choice import Choice, choose, even
from dedos_deploy.runtime.sinks.codecs import Encoder
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions
from dedos_deploy.runtime.sinks.fragmented_mp4 import FragmentedMp4, Packet, WholeMp4
from dedos_deploy.runtime.sinks.outputs import GrowingFile, reserve_file, writing
from dedos_deploy.runtime.sinks.webm import WebM

FOURCC = {".avi": "MJPG", ".mkv": "MJPG"}
UNKNOWN_FPS = 25.0
LIVE_FPS = 10.0
LONGEST_STILL_S = 10.0
"""A pause of a live source longer than this is shortened to it in the video."""
ANEW_S = 1.0
"""A recording whose times go back so far has begun anew."""


class Writer(Protocol):
    """The part of cv2.VideoWriter that the sink uses."""

    def isOpened(self) -> bool: ...

    def write(self, image: NDArray[np.uint8], /) -> object: ...

    def release(self) -> None: ...


class _Pictures:
    """Overlays made into packets by the chosen codec: all of the first one's size."""

    def __init__(self, choice: Choice) -> None:
        self.encoder: Encoder | None = None
        """None before the first picture."""
        self.coded_hw = 0, 0
        """Size in the file, as the codec takes it."""
        self._choice = choice
        self._size_hw = self.coded_hw

    def encode(self, overlay: NDArray[np.uint8]) -> list[Packet]:
        """Take a picture; return the packets that are ready."""
        if self.encoder is None:
            self._size_hw = overlay.shape[0], overlay.shape[1]
            self.coded_hw = self._choice.size_for(self._size_hw)
            self.encoder = self._choice.open(self.coded_hw)
        return self.encoder.encode(pad_to(fit_into(overlay, self._size_hw), self.coded_hw))

    def entry(self) -> bytes:
        """Return the description of the pictures in an MP4, once there was a packet."""
        assert self.encoder is not None
        return self.encoder.entry(self.coded_hw)


class GrowingVideo(Sink):
    """An overlay MP4 or WebM of a live source that grows picture by picture and plays whatever becomes of its
    writer: kill -9, a power cut or a full disk cost at most the last picture.

    Every picture is shown at the time it was captured. In an MP4 without another codec each is a JPEG: three to
    eight times the bytes of a codec with motion, nearly no work, and each can be found and read alone.
    All have the first one's size; others are fitted into it. Chromium plays no JPEG in MP4; VLC, mpv,
    QuickTime, FFmpeg and OpenCV do.
    """

    def __init__(self, path: Path, options: SinkOptions) -> None:
        self.uri = str(path)
        self._path = path
        self._options = options
        self._suffix = path.suffix.lower()
        self._choice = choose(options.codec, self._suffix, growing=True)
        self._pictures = _Pictures(self._choice)
        self._start_ns = 0
        self._start_s = 0.0
        self._results = 0
        # It has its name with its first picture: without one there is nothing to play.
        self._file = GrowingFile(path, overwrite=options.overwrite, protected=options.protected)
        self._video: FragmentedMp4 | WebM | None = None

    @property
    def has_appeared(self) -> bool:
        """Whether the file at `uri` is this one."""
        return self._file.has_appeared

    @property
    def written(self) -> str | None:
        return f"{self.uri} ({self._results} frames)" if self._results else None

    @property
    def codec(self) -> str:
        return self._choice.described

    def write(self, frame: Frame, result: Segmentation) -> None:
        overlay = self._options.painter.paint(frame.frame_bgr, result)
        if self._pictures.encoder is None:
            self._start_ns = frame.captured_ns
            self._start_s = frame.timestamp_s
        # Encoders of growing files give each picture at once.
        packets = self._pictures.encode(overlay)
        with writing(self._path):
            for packet in packets:
                self._begun().add(packet, self._time_s(frame))
        self._results += 1

    def _begun(self) -> FragmentedMp4 | WebM:
        if self._video is not None:
            return self._video
        self._file.appear()
        size_hw = self._pictures.coded_hw
        if self._suffix == ".webm":
            self._video = WebM(self._file, size_hw, step_s=1.0 / LIVE_FPS)
        else:
            entry, created_s = self._pictures.entry(), self._start_ns / 1e9
            self._video = FragmentedMp4(self._file, size_hw, entry, created_s=created_s)
        return self._video

    def close(self) -> None:
        video, self._video = self._video, None
        with writing(self._path):
            try:
                if self._pictures.encoder is not None:
                    self._pictures.encoder.close()
                if video is not None:
                    video.finish()
            finally:
                self._file.close()

    def _time_s(self, frame: Frame) -> float:
        # A recorder's own clock where there is one, else the one that never jumps.
        if frame.clock_ns is not None:
            return (frame.clock_ns - self._start_ns) / 1e9
        return frame.timestamp_s - self._start_s


class WholeVideo(Sink):
    """An overlay MP4 or WebM of a recording, which has its name once it is complete.

    Every frame is shown at its own time: its position in the recording, or else by the recorder's
    clock, or at the source's rate where nothing is known. All frames have the first one's size, rounded
    up to even; others are fitted into it.
    """

    def __init__(self, path: Path, options: SinkOptions) -> None:
        self.uri = str(path)
        self._path = path
        self._options = options
        self._suffix = path.suffix.lower()
        self._choice = choose(options.codec, self._suffix)
        self._step_s = 1.0 / (options.fps or UNKNOWN_FPS)
        self._clock = _MediaClock(self._step_s)
        self._pictures = _Pictures(self._choice)
        self._times_s: deque[float] = deque()
        self._results = 0
        self._is_written = False
        self._video: WholeMp4 | WebM | None = None
        self._temporary = reserve_file(
            path, overwrite=options.overwrite, protected=options.protected
        )
        self._file = os.fdopen(self._temporary.keep_open(), "wb")

    @property
    def written(self) -> str | None:
        return f"{self.uri} ({self._results} frames)" if self._is_written else None

    @property
    def codec(self) -> str:
        return self._choice.described

    def write(self, frame: Frame, result: Segmentation) -> None:
        overlay = self._options.painter.paint(frame.frame_bgr, result)
        self._times_s.append(self._clock.time_s(frame))
        self._add(self._pictures.encode(overlay))
        self._results += 1

    def close(self) -> None:
        try:
            if (encoder := self._pictures.encoder) is not None:
                with encoder:
                    self._add(encoder.finish())
                # Without a result there is nothing to complete: the first picture was refused.
                if self._results:
                    self._complete()
        finally:
            self._pictures.encoder = None
            # Not flushed again where it was refused.
            with contextlib.suppress(OSError):
                self._file.close()
            self._temporary.discard()

    def _add(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            if not self._times_s:
                raise SinkError(f"the encoder of {self.uri!r} gave more pictures than it got")
            with writing(self._path):
                self._begun().add(packet, self._times_s.popleft())

    def _begun(self) -> WholeMp4 | WebM:
        size_hw = self._pictures.coded_hw
        if self._video is None and self._suffix == ".webm":
            self._video = WebM(self._file, size_hw, step_s=self._step_s)
        elif self._video is None:
            entry = self._pictures.entry()
            self._video = WholeMp4(self._file, size_hw, entry, step_s=self._step_s)
        return self._video

    def _complete(self) -> None:
        if self._video is None or self._times_s:
            held = self._results - len(self._times_s)
            raise SinkError(
                f"the encoder of {self.uri!r} gave {held} of {self._results} frames, and the video was "
                "removed; choose another codec"
            )
        with writing(self._path):
            self._video.finish()
            os.fsync(self._file.fileno())
            self._temporary.publish(overwrite=self._options.overwrite)
        self._is_written = True


class _MediaClock:
    """Times of a recording's frames from 0 on, which never stand still."""

    def __init__(self, step_s: float) -> None:
        """step_s: from a frame to the next where nothing else is known."""
        self._step_s = step_s
        self._last_s: float | None = None
        self._shift_s = 0.0

    def time_s(self, frame: Frame) -> float:
        """Return the time of the next frame."""
        own_s = frame.media_s
        if own_s is None and frame.clock_ns is not None:
            own_s = frame.clock_ns / 1e9
        if self._last_s is None:
            self._shift_s = -(own_s or 0.0)
            self._last_s = 0.0
            return 0.0
        at_s = self._last_s if own_s is None else own_s + self._shift_s
        behind_s = self._last_s - at_s
        if own_s is not None and 0 <= behind_s < ANEW_S:
            # Two at one time, or out of order: those after them have their own times again.
            at_s = self._last_s + self._step_s / 2
        elif behind_s >= 0:
            # No time, or a recording that began anew: as long after the last one as that lasted.
            self._shift_s += behind_s + self._step_s
            at_s = self._last_s + self._step_s
        else:
            self._step_s = at_s - self._last_s
        self._last_s = at_s
        return at_s


class VideoSink(Sink):
    """An overlay AVI or Matroska file of JPEGs at the source's frame rate; it has its name once it is
    complete.

    Frames of a live source come unevenly: each is repeated until the next one, at 10 frames a
    second, so that the video lasts as long as what it shows. All frames have the first one's size,
    rounded up to even; others are fitted into it.
    """

    def __init__(self, path: Path, options: SinkOptions) -> None:
        self.uri = str(path)
        self._path = path
        self._options = options
        self._fps = LIVE_FPS if options.live else options.fps or UNKNOWN_FPS
        self._size_hw: tuple[int, int] | None = None
        self._results = 0
        self._frames = 0
        self._started_s = 0.0
        self._is_written = False
        self._temporary = reserve_file(
            path, overwrite=options.overwrite, protected=options.protected, keep_suffix=True
        )
        try:
            # A small video written now shows whether this OpenCV has the codec at all.
            self._open_writer((64, 64)).release()
        except BaseException:
            self._temporary.discard()
            raise
        self._writer: Writer | None = None

    @property
    def written(self) -> str | None:
        return f"{self.uri} ({self._results} frames)" if self._is_written else None

    def write(self, frame: Frame, result: Segmentation) -> None:
        overlay = self._options.painter.paint(frame.frame_bgr, result)
        if self._writer is None or self._size_hw is None:
            self._size_hw = overlay.shape[0], overlay.shape[1]
            self._started_s = frame.timestamp_s
            self._writer = self._open_writer(even(self._size_hw))
        picture = pad_to(fit_into(overlay, self._size_hw), even(self._size_hw))
        for _ in range(self._repeats(frame.timestamp_s)):
            self._writer.write(picture)
            self._frames += 1
        self._results += 1

    def close(self) -> None:
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                with quiet_opencv():
                    writer.release()
                self._check_complete()
                with writing(self._path):
                    os.fsync(self._temporary.descriptor)
                    self._temporary.publish(overwrite=self._options.overwrite)
                self._is_written = True
        finally:
            self._temporary.discard()

    def _repeats(self, timestamp_s: float) -> int:
        if not self._options.live:
            return 1
        due = 1 + round((timestamp_s - self._started_s) * self._fps) - self._frames
        longest = round(LONGEST_STILL_S * self._fps)
        if due > longest:
            self._started_s += (due - longest) / self._fps
        return min(max(due, 0), longest)

    def _open_writer(self, size_hw: tuple[int, int]) -> Writer:
        import cv2

        fourcc = cv2.VideoWriter.fourcc(*FOURCC[self._path.suffix.lower()])
        with quiet_opencv():
            writer = cv2.VideoWriter(
                str(self._temporary.path), cv2.CAP_FFMPEG, fourcc, self._fps, size_hw[::-1]
            )
        if not writer.isOpened():
            raise SinkError(
                f"OpenCV cannot write the video {self.uri!r} at {size_hw[1]}x{size_hw[0]}; choose "
                "another of .mp4, .avi, .mkv, or pictures with overlays:FOLDER"
            )
        return writer

    def _check_complete(self) -> None:
        # OpenCV reports nothing when the disk is full or a frame was refused.
        found = _readable_frames(self._temporary.path)
        if found < self._frames:
            raise SinkError(
                f"the video {self.uri!r} holds {found} of {self._frames} frames and was removed; "
                "check the free space of its disk"
            )


def _readable_frames(path: Path) -> int:
    """Return how many frames a video announces, 0 when its last one cannot be read."""
    import cv2

    capture = open_capture(str(path), backend=cv2.CAP_FFMPEG)
    try:
        found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        # An AVI says how many it should hold although the end is missing.
        if found > 0:
            capture.set(cv2.CAP_PROP_POS_FRAMES, found - 1)
        return found if found > 0 and capture.grab() else 0
    finally:
        capture.release()


def pad_to(picture: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return `picture` with its last row and column repeated up to a size.

    OpenCV would cut off what is odd instead.
    """
    missing = [(0, size - side) for size, side in zip(size_hw, picture.shape[:2], strict=True)]
    return np.pad(picture, (*missing, (0, 0)), mode="edge") if any(map(any, missing)) else picture


def fit_into(picture: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return `picture` scaled to lie in the middle of a black picture of `size_hw`."""
    import cv2

    height, width = picture.shape[:2]
    if (height, width) == size_hw:
        return picture
    scale = min(size_hw[0] / height, size_hw[1] / width)
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size_hw[0] - new_h) // 2, (size_hw[1] - new_w) // 2
    fitted = np.zeros((*size_hw, 3), dtype=np.uint8)
    fitted[top : top + new_h, left : left + new_w] = cv2.resize(picture, (new_w, new_h))
    return fitted
