"""Streams decoded by the GPU: RTSP through GStreamer and NVIDIA's decoder, whose NV12 stays as it is."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from urllib.parse import unquote

from dedos_deploy.errors import SourceError, nearest
from dedos_deploy.runtime.opencv import Capture, has_gstreamer, open_capture
from dedos_deploy.runtime.sources.gstreamer import APPSINK, nv12_of
from dedos_deploy.runtime.sources.live import OPEN_TIMEOUT_S, READ_TIMEOUT_S, CaptureSource
from dedos_deploy.runtime.sources.stream_probe import why_not
from dedos_deploy.runtime.uri import RTSP_UDP, network_scheme, redact

DECODERS = {
    "nvv4l2decoder": "nvv4l2decoder ! nvvidconv",
    "nvh264dec": "nvh264dec",
    "nvh265dec": "nvh265dec",
}
"""Elements that decode on the GPU, with what brings their frames to memory that OpenCV reads."""

CODECS = {
    "h264": ("rtph264depay ! h264parse", ("nvv4l2decoder", "nvh264dec")),
    "h265": ("rtph265depay ! h265parse", ("nvv4l2decoder", "nvh265dec")),
}
"""How a stream is unpacked, and what decodes it: Jetson's decoder first, then that of other GPUs."""

_RTSP = ("rtsp", "rtsps", RTSP_UDP)
_SETTING = re.compile(r"[?&](decode|codec)=([^&]*)")


def wants_gpu(uri: str) -> bool:
    """Return whether an address asks for decoding on the GPU.

    Of anything but rtsp that is an error, which `connect_decoded` raises.

    >>> wants_gpu("rtsp://gate/live?channel=1&decode=gpu"), wants_gpu("rtsp://gate/live")
    (True, False)
    """
    if network_scheme(uri) in _RTSP:
        return bool(re.search(r"[?&]decode=", uri))
    return bool(re.search(r"[?&]decode=gpu(?:&|$)", uri))


def has_element(name: str) -> bool:
    """Return whether GStreamer is installed and has an element of that name."""
    path = ctypes.util.find_library("gstreamer-1.0")
    if path is None:
        return False
    gst = ctypes.CDLL(path)
    gst.gst_element_factory_find.restype = ctypes.c_void_p
    gst.gst_object_unref.argtypes = (ctypes.c_void_p,)
    if not gst.gst_init_check(None, None, None):
        return False
    found = gst.gst_element_factory_find(name.encode())
    if found is not None:
        gst.gst_object_unref(found)
    return found is not None


def gpu_decoders() -> dict[str, str]:
    """Return the element that decodes each codec on the GPU here, without those that nothing does."""
    found = {name: has_element(name) for name in DECODERS}
    return {
        codec: next(name for name in names if found[name])
        for codec, (_, names) in CODECS.items()
        if any(found[name] for name in names)
    }


def decoding_pipeline(uri: str, decoders: dict[str, str]) -> str:
    """Return the GStreamer pipeline of `rtsp://…?decode=gpu&codec=h265`. Raises SourceError.

    decoders: as of `gpu_decoders`.
    """
    if network_scheme(uri) not in _RTSP:
        raise SourceError(
            f"{redact(uri)!r} is no rtsp stream, and decode=gpu is for those alone; leave it out, and "
            "the CPU decodes it"
        )
    settings = {match[1]: unquote(match[2]) for match in _SETTING.finditer(uri)}
    codec = settings.get("codec", "h264")
    for name, value, known in (("decode", settings["decode"], ("gpu",)), ("codec", codec, CODECS)):
        if value not in known:
            raise SourceError(
                f"{redact(uri)!r}: {name} cannot be {value!r}{nearest(value, known)}; write "
                "rtsp://…?decode=gpu, with codec=h265 for a stream of that"
            )
    if codec not in decoders:
        raise SourceError(
            f"{redact(uri)!r} asks for {codec} decoded on the GPU, and GStreamer has none of "
            f"{', '.join(CODECS[codec][1])} here; install its plugin nvcodec, or leave decode=gpu out"
        )
    scheme, _, rest = stream_address(uri).partition("://")
    transport = "udp" if scheme.lower() == RTSP_UDP else "tcp"
    location = f"{scheme.removesuffix('+udp')}://{rest}"
    for character in '" \\':  # what would end the pipeline's string, or escape its end
        location = location.replace(character, f"%{ord(character):02X}")
    return (
        f'rtspsrc location="{location}" protocols={transport} latency=100 ! {CODECS[codec][0]} ! '
        f"{DECODERS[decoders[codec]]} ! video/x-raw,format=NV12 ! {APPSINK}"
    )


def stream_address(uri: str) -> str:
    """Return an address without our settings, its own kept.

    >>> stream_address("rtsp://gate/live?decode=gpu&channel=1&codec=h265")
    'rtsp://gate/live?channel=1'
    """
    bare = _SETTING.sub(lambda match: "?" if match[0][0] == "?" else "", uri)
    return bare.replace("?&", "?").removesuffix("?")


def connect_decoded(uri: str) -> CaptureSource:
    """Return the stream at an address that `wants_gpu`. Raises SourceError."""
    import cv2

    pipeline, shown = decoding_pipeline(uri, gpu_decoders()), redact(uri)
    if not has_gstreamer():
        raise SourceError(
            f"{shown!r} asks for decoding on the GPU, which needs an OpenCV with GStreamer, and the "
            f"installed {cv2.__version__} has none; use JetPack's or Debian's python3-opencv, or "
            "leave decode=gpu out"
        )
    settings = (
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        int(1000 * OPEN_TIMEOUT_S),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        int(1000 * READ_TIMEOUT_S),
    )

    def connect() -> Capture:
        return open_capture(pipeline, backend=cv2.CAP_GSTREAMER, settings=settings)

    capture = connect()
    if not capture.isOpened() or not capture.read()[0]:
        capture.release()
        address = stream_address(uri).replace(f"{RTSP_UDP}://", "rtsp://", 1)
        raise SourceError(
            f"stream {shown!r} cannot be decoded on the GPU: {why_not(address)}; if it is H.265, add "
            "codec=h265, and without decode=gpu the CPU decodes it"
        )
    return CaptureSource(shown, connect, capture=capture, nv12=nv12_of(pipeline))
