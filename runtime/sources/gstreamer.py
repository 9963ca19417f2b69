"""GStreamer pipelines and CSI cameras, where the installed OpenCV can read them."""

from __future__ import annotations

import re

from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.runtime.nv12 import Matrix, Nv12Frame
from dedos_deploy.runtime.opencv import Capture, has_gstreamer, open_capture, opencv_remedy
from dedos_deploy.runtime.sources.live import CaptureSource
from dedos_deploy.runtime.uri import redact, settings_of

GST = "gst:"
CSI = "csi:"
APPSINK = "appsink drop=true max-buffers=1 sync=false"
CSI_DEFAULTS = {"size": "720x1280", "fps": "30"}


def pipeline_of(uri: str) -> str:
    """Return the GStreamer pipeline of an address. Raises SourceError.

    `gst:PIPELINE` may leave out its end: without an appsink one is added that keeps the newest frame,
    in NV12 where the pipeline ends with that (`video/x-raw,format=NV12`), else in BGR.
    `csi:0?size=720x1280&fps=30` is the camera of a Jetson's ribbon connector.

    >>> pipeline_of("gst:videotestsrc")
    'videotestsrc ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false'
    >>> pipeline_of("gst:v4l2src ! video/x-raw,format=NV12")
    'v4l2src ! video/x-raw,format=NV12 ! appsink drop=true max-buffers=1 sync=false'
    """
    if uri.startswith(CSI):
        return _csi_pipeline(uri)
    text = uri.removeprefix(GST).strip()
    if not text:
        raise SourceError(
            f"{uri!r} holds no pipeline; write it after gst:, as in 'gst:v4l2src device=/dev/video0'"
        )
    if re.search(r"\bappsink\b", text):
        return text
    if nv12_of(text) is not None:
        return f"{text} ! {APPSINK}"
    return f"{text} ! videoconvert ! video/x-raw,format=BGR ! {APPSINK}"


def nv12_of(pipeline: str) -> Matrix | None:
    """Return the matrix of the NV12 that a pipeline ends with, None where it ends with anything else.

    >>> nv12_of("v4l2src ! video/x-raw,format=NV12"), nv12_of("videotestsrc ! appsink")
    ('bt601', None)
    """
    caps = re.sub(r"!\s*appsink\b.*", "", pipeline).rpartition("!")[2].replace("(string)", "")
    if not re.match(r"\s*video/x-raw\s*,.*\bformat\s*=\s*NV12\b", caps):
        return None
    # What OpenCV takes all NV12 for, unless the pipeline says more.
    return "bt709" if re.search(r"\bcolorimetry\s*=\s*bt709\b", caps) else "bt601"


def connect_gstreamer(uri: str) -> CaptureSource:
    """Return the live source of a `gst:` or `csi:` address. Raises SourceError."""
    import cv2

    pipeline, shown = pipeline_of(uri), redact(uri)
    if not has_gstreamer():
        raise SourceError(
            f"source {shown!r} needs an OpenCV with GStreamer, and the installed {cv2.__version__} has "
            f"none (that of pip never has); {opencv_remedy()}; dedos-doctor says what yours has"
        )

    def connect() -> Capture:
        return open_capture(pipeline, backend=cv2.CAP_GSTREAMER)

    capture, nv12 = connect(), nv12_of(pipeline)
    delivered, rows = capture.read() if capture.isOpened() else (False, None)
    if not delivered or rows is None:
        capture.release()
        raise SourceError(
            f"pipeline {shown!r} delivers no frame; try it with gst-launch-1.0, with fakesink in place "
            "of the appsink"
        )
    try:
        if nv12 is not None and rows.ndim == 2:
            Nv12Frame.from_rows(rows)
    except BadInputError as error:
        capture.release()
        raise SourceError(
            f"pipeline {shown!r} gives NV12 with an odd side, which cannot be kept; end it with "
            "'! videoconvert ! video/x-raw,format=BGR', or crop it by videocrop"
        ) from error
    return CaptureSource(shown, connect, capture=capture, nv12=nv12)


def _csi_pipeline(uri: str) -> str:
    match = re.fullmatch(r"csi:(\d{1,2})(?:\?(.*))?", uri)
    takes = f"it takes {' and '.join(CSI_DEFAULTS)}"
    settings = CSI_DEFAULTS | settings_of(
        (match and match[2]) or "", CSI_DEFAULTS, what=repr(uri), takes=takes, refusal=SourceError
    )
    size = re.fullmatch(r"(\d{2,4})x(\d{2,4})", settings.get("size", ""))
    if match is None or size is None or not re.fullmatch(r"[1-9]\d{0,2}", settings["fps"]):
        raise SourceError(
            f"{uri!r} is no CSI camera; write csi:0, with size and rate as in csi:0?size=720x1280&fps=30"
        )
    return (
        f"nvarguscamerasrc sensor-id={match[1]} ! video/x-raw(memory:NVMM),width={size[2]},"
        f"height={size[1]},framerate={settings['fps']}/1 ! nvvidconv ! video/x-raw,format=NV12 ! "
        f"{APPSINK}"
    )
