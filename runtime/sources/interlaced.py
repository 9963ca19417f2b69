"""Interlaced video where OpenCV reads it as black, through a filter of its own FFmpeg.

FFmpeg 8 refuses to turn interlaced pictures into BGR, and OpenCV 5.0.0, whose wheel has it, goes on with
whatever was in memory. The pictures are decoded all the same, and a filter may call them progressive.
"""

from __future__ import annotations

import base64
import functools
import re
import tempfile
from pathlib import Path

from dedos_deploy.runtime.opencv import Capture, open_capture
from dedos_deploy.runtime.uri import RTSP_UDP, network_scheme

FIRST_BAD_SWSCALE = (9, 0)
"""Version of the library that comes with FFmpeg 8; OpenCV 4.10 to 4.12 have older ones and are right."""
NEVER_INTERLACED = ("MJPG", "VP80", "VP90", "vp09", "AV01", "av01", "png ")
LOOKED_AT = 25
"""Pictures among which an interlaced one is looked for."""
TIMEOUT_US = 5_000_000
ADVICE = (
    "install OpenCV 4.12 (pip install 'opencv-python==4.12.*'), or convert the video: ffmpeg -i VIDEO -vf "
    "bwdif progressive.mp4"
)

COLOURS_BGR = ((0, 200, 0), (200, 0, 200))
CLIP = base64.b64decode(
    "AAABswEAEBP//+AAAAABtRSCAAEAAAAAAbgACABAAAABAAAP//gAAAG1j//zAAAAAAEBE2SlKXwt+awAAAECE2SlKX"
    "wt+awAAAGzAQAQE///4AAAAAG1FIIAAQAAAAABuAAIAMAAAAEAAA//+AAAAbWP//MAAAAAAQETeWpSl91fpMAAAAEC"
    "E3lqUpfdX6VA"
)
"""Interlaced MPEG-2 pictures of 16x16 pixels in COLOURS_BGR: of two, since what is left in memory may look
like one."""


def read_right(address: str, capture: Capture) -> Capture:
    """Return a capture that reads the video at `address` as it is: the one that is open already, or
    another in its place where its pictures are interlaced and come out wrong."""
    import cv2

    code = capture.get(cv2.CAP_PROP_FOURCC)
    if not is_suspect() or not 0 < code < 2**32:
        return capture
    codec = int(code).to_bytes(4, "little").decode("latin-1")
    if codec in NEVER_INTERLACED or not (has_interlaced(address) and is_bad()):
        return capture
    capture.release()
    return _filtered(address, "setfield=prog")


def warning_of(name: str) -> str | None:
    """Return a sentence for a video that may be interlaced and then read wrong, None elsewhere."""
    import cv2

    if not is_suspect() or can_filter() or not is_bad():
        return None
    return f"OpenCV {cv2.__version__} reads interlaced video as black; if {name!r} is interlaced, {ADVICE}"


@functools.cache
def is_suspect() -> bool:
    """Return whether OpenCV's FFmpeg is of the versions that refuse interlaced pictures."""
    import cv2

    found = re.search(r"swscale:\s+YES \((\d+)\.(\d+)", cv2.getBuildInformation())
    return found is not None and (int(found[1]), int(found[2])) >= FIRST_BAD_SWSCALE


@functools.cache
def is_bad() -> bool:
    """Return whether OpenCV reads a known interlaced picture wrong."""
    return not _reads_clip(filtered=False)


@functools.cache
def can_filter() -> bool:
    """Return whether OpenCV's FFmpeg has the filter that mends it, and it does."""
    return _reads_clip(filtered=True)


def has_interlaced(address: str) -> bool:
    """Return whether one of the first pictures of a video is interlaced."""
    capture = _filtered(
        address, f"trim=end_frame={LOOKED_AT},select=gt(interlace_type\\,0),setfield=prog"
    )
    try:
        return capture.isOpened() and capture.read()[0]
    finally:
        capture.release()


def _reads_clip(*, filtered: bool) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.m2v"
        path.write_bytes(CLIP)
        capture = _filtered(str(path), "setfield=prog") if filtered else open_capture(str(path))
        try:
            pictures = [capture.read()[1] for _ in COLOURS_BGR]
        finally:
            capture.release()
    return all(
        picture is not None and bool(abs(picture.mean((0, 1)) - colour).max() < 20)
        for picture, colour in zip(pictures, COLOURS_BGR, strict=True)
    )


def _filtered(address: str, filters: str) -> Capture:
    import cv2

    options = ""
    if (scheme := network_scheme(address)) is not None:
        # OpenCV's own limits of time do not reach into the filter.
        given = f"rw_timeout={TIMEOUT_US}"
        if scheme.startswith("rtsp"):
            transport = "udp" if scheme == RTSP_UDP else "tcp"
            given = f"rtsp_transport={transport}:timeout={TIMEOUT_US}"
            address = address.replace(scheme, "rtsp", 1) if scheme == RTSP_UDP else address
        options = f":format_opts={_escaped(given)}"
    graph = f"movie=filename={_escaped(address)}{options},{filters}"
    return open_capture(graph, backend=cv2.CAP_FFMPEG, options={"input_format": "lavfi"})


def _escaped(text: str) -> str:
    """Return `text` as the value of a filter's option: escaped for the option, then for the graph.

    >>> _escaped("a:b,c")
    'a\\\\\\\\:b\\\\,c'
    """
    option = re.sub(r"([\\':])", r"\\\1", text)
    return re.sub(r"([\\'\[\],;])", r"\\\1", option)
