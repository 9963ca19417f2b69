"""H.264 by an encoder that is on the machine: GStreamer's, or that of PyAV."""

from __future__ import annotations

import contextlib
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SinkError, require
from dedos_deploy.runtime.sinks.codecs import Encoder
from dedos_deploy.runtime.sinks.fragmented_mp4 import Packet, box, sample_entry

LAUNCH = "gst-launch-1.0"
HARDWARE = {
    "nvv4l2h264enc": "nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! nvv4l2h264enc bitrate={bits}",
    "nvh264enc": "nvh264enc bitrate={kilobits}",
    "vah264enc": "vah264enc bitrate={kilobits}",
    "vah264lpenc": "vah264lpenc bitrate={kilobits}",
    "v4l2h264enc": "v4l2h264enc extra-controls=controls,video_bitrate={bits} ! video/x-h264,level=(string)4",
}
SOFTWARE = {"openh264enc": "openh264enc rate-control=bitrate bitrate={bits}"}
"""Elements of GStreamer and how they are asked for: those of Jetson, NVIDIA cards, Intel and AMD,
Raspberry Pi; and Cisco's (BSD). x264's is left out, as it is GPL."""
BITS = 0.25
"""Per pixel: 1.9 Mbit/s at 640x480, 13 at 1920x1080."""
KEY_EVERY = 50

AV_ENCODERS = ("libx264", "libopenh264")
AV_OPTIONS = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}

PROBE_HW = 240, 320
FINISH_S = 60.0
"""How long an element may take for the pictures that it still has."""
NOMINAL_FPS = 25
"""What encoders take frames to come at; the file has the real times."""
START_CODE = re.compile(b"\0\0\1")
PICTURES, KEY_PICTURE, SPS, PPS, DELIMITER = (1, 5), 5, 7, 8, 9


def h264_candidates() -> list[str]:
    """Return the names of the encoders that may work here, the fastest first: elements of GStreamer as
    `gst:NAME`, and `av`."""
    has_gstreamer = shutil.which(LAUNCH) is not None
    names = [f"gst:{name}" for name in HARDWARE if has_gstreamer]
    names += ["av"] if find_spec("av") else []
    return names + [f"gst:{name}" for name in SOFTWARE if has_gstreamer]


def open_h264(name: str, size_hw: tuple[int, int]) -> Encoder:
    """Return an encoder by its name among `h264_candidates`. Raises SinkError, MissingExtraError."""
    return AvH264(size_hw) if name == "av" else GstH264(name.removeprefix("gst:"), size_hw)


@lru_cache
def works(name: str) -> bool:
    """Return whether an encoder encodes two pictures; tried once."""
    picture = np.zeros((*PROBE_HW, 3), np.uint8)
    try:
        with open_h264(name, PROBE_HW) as encoder:
            packets = [*encoder.encode(picture), *encoder.encode(picture), *encoder.finish()]
            return len(packets) == 2 and bool(encoder.entry(PROBE_HW))
    except SinkError:
        return False


class _H264(Encoder):
    """What is common to encoders that give a byte stream (ISO/IEC 14496-10, Annex B)."""

    def __init__(self) -> None:
        self._parameters: dict[int, bytes] = {}

    def entry(self, size_hw: tuple[int, int]) -> bytes:
        sps, pps = self._parameters[SPS], self._parameters[PPS]
        configuration = (
            struct.pack(">B3sBB", 1, sps[1:4], 0xFF, 0xE1)
            + struct.pack(">H", len(sps))
            + sps
            + struct.pack(">BH", 1, len(pps))
            + pps
        )
        return sample_entry("avc1", size_hw, box("avcC", configuration))

    def _packet(self, units: Iterable[bytes]) -> Packet:
        """Return the units of one picture as an MP4 holds them, each behind its length."""
        content, key = [], False
        for unit in units:
            kind = unit[0] & 31
            if kind in (SPS, PPS):
                self._parameters[kind] = unit
            elif kind != DELIMITER:
                content += [struct.pack(">I", len(unit)), unit]
            key = key or kind == KEY_PICTURE
        return Packet(b"".join(content), key)


class AvH264(_H264):
    """The FFmpeg of PyAV (extra `h264`), whose wheels hold x264: GPL."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self._av: Any = require("av", extra="h264", purpose="a video in H.264")
        known = self._av.codecs_available
        name = next((name for name in AV_ENCODERS if name in known), None)
        if name is None:
            raise SinkError(
                f"the installed PyAV has none of {', '.join(AV_ENCODERS)}; install that of pip, or "
                "choose another codec"
            )
        context = self._av.CodecContext.create(name, "w")
        context.height, context.width = size_hw
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, NOMINAL_FPS)
        context.gop_size = KEY_EVERY
        context.options = AV_OPTIONS if name == "libx264" else {}
        self._context = context
        self._count = 0

    def encode(self, picture_bgr: NDArray[np.uint8]) -> list[Packet]:
        frame = self._av.VideoFrame.from_ndarray(picture_bgr, format="bgr24")
        frame.pts = self._count
        self._count += 1
        return self._packets(frame)

    def finish(self) -> Iterable[Packet]:
        return self._packets(None)

    def _packets(self, frame: Any) -> list[Packet]:
        try:
            found = self._context.encode(frame)
        except self._av.error.FFmpegError as error:
            raise SinkError(f"PyAV cannot encode H.264: {error}; choose another codec") from error
        return [self._packet(units_of(bytes(packet))) for packet in found]


class GstH264(_H264):
    """An element of GStreamer in a process of its own, since pip's OpenCV has no GStreamer; its packets
    come at the end, from a file."""

    def __init__(self, element: str, size_hw: tuple[int, int]) -> None:
        super().__init__()
        height, width = size_hw
        self._element = element
        self._folder = tempfile.TemporaryDirectory(prefix="dedos-h264-")
        self._stream = Path(self._folder.name) / "stream.h264"
        bits = round(BITS * height * width * NOMINAL_FPS)
        asked = (HARDWARE | SOFTWARE)[element].format(bits=bits, kilobits=bits // 1000)
        pipeline = (
            f"fdsrc ! rawvideoparse format=bgr width={width} height={height} "
            f"framerate={NOMINAL_FPS}/1 ! videoconvert ! {asked} ! h264parse config-interval=-1 ! "
            "video/x-h264,stream-format=byte-stream,alignment=au ! filesink"
        )
        self._process = subprocess.Popen(
            [LAUNCH, "-q", *pipeline.split(), f"location={self._stream}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C ends the run, which then completes this.
            start_new_session=True,
        )

    def encode(self, picture_bgr: NDArray[np.uint8]) -> list[Packet]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(picture_bgr).data)
        except BrokenPipeError as error:
            raise self._failed() from error
        return []

    def finish(self) -> Iterable[Packet]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError as error:
            raise self._failed() from error
        try:
            code = self._process.wait(FINISH_S)
        except subprocess.TimeoutExpired as error:
            raise self._failed() from error
        if code != 0:
            raise self._failed()
        return (self._packet(units) for units in pictures_of(self._stream))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            # Pictures that nobody takes any more.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._folder.cleanup()

    def _failed(self) -> SinkError:
        return SinkError(
            f"GStreamer's {self._element} did not encode to the end; try it with {LAUNCH}, or choose "
            "another codec"
        )


def units_of(stream: bytes) -> Iterator[bytes]:
    """Return the units of a byte stream without their start codes."""
    starts = [found.end() for found in START_CODE.finditer(stream)]
    ends = [*(at - 3 for at in starts), len(stream)][1:]
    for start, end in zip(starts, ends, strict=True):
        # A start code may have more zeros; a unit never ends with one.
        unit = stream[start:end].rstrip(b"\0")
        if unit:
            yield unit


def pictures_of(path: Path) -> Iterator[list[bytes]]:
    """Return the units of each picture of a byte stream: those of its slices, and what stands before."""
    units: list[bytes] = []
    has_slice = False
    for unit in _units_in(path):
        kind = unit[0] & 31
        # A slice that begins at the first block is of a new picture.
        begins = kind not in PICTURES or unit[1] & 0x80 != 0
        if has_slice and begins:
            yield units
            units, has_slice = [], False
        units.append(unit)
        has_slice = has_slice or kind in PICTURES
    if has_slice:
        yield units


def _units_in(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    """Return the units of a file, which may be larger than what fits into memory."""
    rest = b""
    with open(path, "rb") as stream:
        while block := stream.read(size):
            rest += block
            at = rest.rfind(b"\0\0\1", 1)
            if at > 0:
                yield from units_of(rest[:at])
                rest = rest[at:]
    yield from units_of(rest)
