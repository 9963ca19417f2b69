"""Overlay videos: of recordings put in place once complete, of live sources growing as they are seen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SinkError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.opencv import quiet_opencv
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions
from dedos_deploy.runtime.sinks.files import encode_picture
from dedos_deploy.runtime.sinks.fragmented_mp4 import FragmentedMp4
from dedos_deploy.runtime.sinks.outputs import GrowingFile, reserve_file, writing

FOURCC = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}
UNKNOWN_FPS = 25.0
LIVE_FPS = 10.0
LONGEST_STILL_S = 10.0
"""A pause of a live source longer than this is shortened to it in the video."""


class Writer(Protocol):
    """The part of cv2.VideoWriter that the sink uses."""

    def isOpened(self) -> bool: ...

    def write(self, image: NDArray[np.uint8], /) -> object: ...

    def release(self) -> None: ...


class GrowingVideo(Sink):
    """An overlay MP4 of a live source that grows picture by picture and plays whatever becomes of its
    writer: kill -9, a power cut or a full disk cost at most the last picture.

    Every picture is shown at the time it was captured, and is a JPEG: three to eight times the bytes of
    a codec with motion, and each can be found and read alone. All have the first one's size; others are
    fitted into it. Chromium plays no JPEG in MP4; VLC, mpv, QuickTime, FFmpeg and OpenCV do.
    """

    def __init__(self, path: Path, options: SinkOptions) -> None:
        self.uri = str(path)
        self._path = path
        self._options = options
        self._size_hw: tuple[int, int] | None = None
        self._start_ns = 0
        self._start_s = 0.0
        self._results = 0
        # It has its name with its first picture: without one there is nothing to play.
        self._file = GrowingFile(path, overwrite=options.overwrite, protected=options.protected)
        self._mp4: FragmentedMp4 | None = None

    @property
    def has_appeared(self) -> bool:
        """Whether the file at `uri` is this one."""
        return self._file.has_appeared

    @property
    def written(self) -> str | None:
        return f"{self.uri} ({self._results} frames)" if self._results else None

    def write(self, frame: Frame, result: Segmentation) -> None:
        overlay = self._options.painter.paint(frame.frame_bgr, result)
        with writing(self._path):
            if self._mp4 is None or self._size_hw is None:
                self._size_hw = overlay.shape[0], overlay.shape[1]
                self._start_ns = frame.captured_ns
                self._file.appear()
                created_s = self._start_ns / 1e9
                self._mp4 = FragmentedMp4(self._file, self._size_hw, created_s=created_s)
                self._start_s = frame.timestamp_s
            picture = encode_picture(".jpg", fit_into(overlay, self._size_hw))
            self._mp4.add(picture, self._time_s(frame))
        self._results += 1

    def close(self) -> None:
        mp4, self._mp4 = self._mp4, None
        with writing(self._path):
            try:
                if mp4 is not None:
                    mp4.finish()
            finally:
                self._file.close()

    def _time_s(self, frame: Frame) -> float:
        # A recorder's own clock where there is one, else the one that never jumps.
        if frame.clock_ns is not None:
            return (frame.clock_ns - self._start_ns) / 1e9
        return frame.timestamp_s - self._start_s


class VideoSink(Sink):
    """An overlay video at the source's frame rate; it has its name once it is complete.

    Frames of a live source come unevenly: each is repeated until the next one, at 10 frames a
    second, so that the video lasts as long as what it shows (an MP4 of one is a GrowingVideo). All
    frames have the first one's size, rounded up to even; others are fitted into it.
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
        picture = pad_to_even(fit_into(overlay, self._size_hw))
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

    with quiet_opencv():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        # An AVI says how many it should hold although the end is missing.
        if found > 0:
            capture.set(cv2.CAP_PROP_POS_FRAMES, found - 1)
        return found if found > 0 and capture.grab() else 0
    finally:
        capture.release()


def even(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the next even size, which is all that video codecs take."""
    return size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2


def pad_to_even(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `picture` with its last row or column repeated where its size is odd.

    OpenCV would cut them off instead.
    """
    height, width = picture.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


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
