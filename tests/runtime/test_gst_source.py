"""GStreamer pipelines: what is asked of OpenCV, and what is said when it has none."""

from __future__ import annotations

import ctypes.util
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_live_sources import FakeCapture

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import Nv12Frame, open_source
from dedos_deploy.runtime.flow import Reconnect
from dedos_deploy.runtime.opencv import quiet_opencv
from dedos_deploy.runtime.sources import gpu_decoding
from dedos_deploy.runtime.sources import gstreamer as gst_source
from dedos_deploy.runtime.sources.gpu_decoding import decoding_pipeline, gpu_decoders, has_element
from dedos_deploy.runtime.sources.gstreamer import APPSINK, nv12_of, pipeline_of
from dedos_deploy.runtime.uri import redact

SYSTEM_PYTHON = "/usr/bin/python3"
READ_ONE = """
from dedos_deploy.runtime import open_source
start = "gst:videotestsrc is-live=true ! video/x-raw,width=64,height=48"
for address in (start, start + ",format=NV12"):
    with open_source(address) as source:
        frame = next(iter(source))
        print(type(frame.pixels).__name__, frame.frame_bgr.shape, frame.frame_bgr.dtype)
        # The first bars are grey and yellow.
        print(*frame.frame_bgr[10, 4] // 4, *frame.frame_bgr[10, 13] // 4)
"""


ROWS = np.random.default_rng(0).integers(0, 256, (75, 66), np.uint8)


class Nv12Capture(FakeCapture):
    """Gives NV12 as OpenCV does: chroma below luma."""

    def read(self) -> tuple[bool, Any]:
        delivered = super().read()[0]
        return delivered, ROWS if delivered else None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """An OpenCV that has GStreamer, as far as can be seen."""
    seen: list[tuple[Any, int]] = []

    def open_capture(address: Any, *, backend: int = 0, settings: Any = ()) -> FakeCapture:
        seen.append((address, backend))
        kind = Nv12Capture if gst_source.nv12_of(address) else FakeCapture
        return kind(0 if "broken" in address else 50, opened=True)

    for module in (gst_source, gpu_decoding):
        monkeypatch.setattr(module, "has_gstreamer", lambda: True)
        monkeypatch.setattr(module, "open_capture", open_capture)
    return seen


def test_a_pipeline_gets_an_end_that_keeps_the_newest_frame(asked: list[tuple[Any, int]]) -> None:
    with open_source("gst:v4l2src device=/dev/video9", reconnect=Reconnect(attempts=0)) as source:
        frame = next(iter(source))
    assert asked == [
        (
            f"v4l2src device=/dev/video9 ! videoconvert ! video/x-raw,format=BGR ! {APPSINK}",
            cv2.CAP_GSTREAMER,
        )
    ]
    assert source.live and frame.frame_bgr.dtype == np.uint8


def test_a_pipeline_that_ends_with_nv12_is_not_converted(asked: list[tuple[Any, int]]) -> None:
    ends = {
        "video/x-raw,format=NV12": "bt601",
        "video/x-raw, width=66, format=(string)NV12, colorimetry=bt709": "bt709",
    }
    for end, matrix in ends.items():
        with open_source(f"gst:v4l2src ! {end}", reconnect=Reconnect(attempts=0)) as source:
            frame = next(iter(source))
        assert asked[-1] == (f"v4l2src ! {end} ! {APPSINK}", cv2.CAP_GSTREAMER)
        assert isinstance(frame.pixels, Nv12Frame) and frame.pixels.matrix == matrix
        assert repr(frame).endswith("50x66)")
        np.testing.assert_array_equal(
            np.concatenate([frame.pixels.luma, frame.pixels.chroma]), ROWS
        )
        if matrix == "bt601":
            wanted = cv2.cvtColor(ROWS, cv2.COLOR_YUV2BGR_NV12)
            np.testing.assert_array_equal(frame.frame_bgr, wanted)


def test_frames_of_a_ribbon_camera_stay_nv12(asked: list[tuple[Any, int]]) -> None:
    with open_source("csi:0", reconnect=Reconnect(attempts=0)) as source:
        assert isinstance(next(iter(source)).pixels, Nv12Frame)
    assert "videoconvert" not in asked[0][0]


@pytest.mark.parametrize(
    "end",
    [
        "appsink name=mine",
        "video/x-raw,format=BGR",
        "video/x-raw(memory:NVMM),format=NV12",
        "video/x-raw,format=NV12 ! nvvidconv",
        "x name=format=NV12",
    ],
)
def test_a_pipeline_that_ends_otherwise_gives_bgr(end: str) -> None:
    assert nv12_of(f"videotestsrc ! {end}") is None


def test_a_pipeline_with_an_end_of_its_own_stays_as_it_is() -> None:
    assert pipeline_of("gst:videotestsrc ! appsink name=mine") == "videotestsrc ! appsink name=mine"


def test_a_ribbon_camera_is_asked_for_its_size_and_rate(asked: list[tuple[Any, int]]) -> None:
    with open_source("csi:1?size=1080x1920&fps=60", reconnect=Reconnect(attempts=0)):
        pass
    pipeline = asked[0][0]
    assert pipeline.startswith(
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,"
    )
    assert "height=1080,framerate=60/1" in pipeline and pipeline.endswith(APPSINK)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("gst:", "holds no pipeline"),
        ("csi:x", "is no CSI camera"),
        ("csi:0?size=big", "is no CSI camera"),
        ("csi:0?sise=720x1280", "unknown setting 'sise', did you mean 'size'"),
    ],
)
def test_mistakes_are_said(uri: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        pipeline_of(uri)


def test_a_pipeline_without_frames_is_said_without_its_secrets(
    asked: list[tuple[Any, int]],
) -> None:
    uri = (
        'gst:broken location="rtsp://admin:hunter2@cam/1" user-pw=hunter3 password = "hunter 4" ! x'
    )
    with pytest.raises(SourceError, match="delivers no frame; try it with gst-launch") as caught:
        open_source(uri)
    assert "hunter" not in str(caught.value) and "admin" not in str(caught.value)
    assert "hunter" not in redact(uri) and "location=" in redact(uri)


def test_without_gstreamer_it_says_whose_opencv_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gst_source, "has_gstreamer", lambda: False)
    with pytest.raises(SourceError, match="needs an OpenCV with GStreamer.*python3-opencv"):
        open_source("gst:videotestsrc user-pw=hunter2")


def test_with_gstreamer_frames_come() -> None:
    """By the system's Python and its OpenCV: pip's has no GStreamer."""
    checks = "from dedos_deploy.runtime.opencv import has_gstreamer; assert has_gstreamer()"
    if _by_system_python(checks).returncode:
        pytest.skip(
            f"needs an OpenCV with GStreamer for {SYSTEM_PYTHON}: apt install python3-opencv"
        )
    done = _by_system_python(READ_ONE)
    lines = done.stdout.splitlines()
    assert lines[::2] == ["ndarray (48, 64, 3) uint8", "Nv12Frame (48, 64, 3) uint8"], done.stderr
    bars = np.array([line.split() for line in lines[1::2]], int)
    assert np.abs(bars[0] - bars[1]).max() <= 1 and np.ptp(bars[0][:3]) <= 1, bars
    assert bars[0][3] < 10 < 40 < bars[0][4], bars


@pytest.mark.parametrize("shape", [(72, 65), (73, 64), (76, 66)])
def test_nv12_with_an_odd_side_is_refused_before_the_run_begins(
    asked: list[tuple[Any, int]], monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    """(76, 66) is what OpenCV makes of 51 rows. A run would open such a pipeline again and again."""
    monkeypatch.setattr(
        Nv12Capture, "read", lambda self: (True, np.zeros(shape, np.uint8)), raising=True
    )
    with pytest.raises(SourceError, match="NV12 with an odd side.*; end it with '! videoconvert"):
        open_source("gst:v4l2src ! video/x-raw,format=NV12")
    with open_source("gst:v4l2src ! videoconvert ! video/x-raw,format=BGR") as source:
        assert next(iter(source)).frame_bgr.shape == (2, 2, 3)


ON_JETSON = {"h264": "nvv4l2decoder", "h265": "nvv4l2decoder"}


@pytest.mark.parametrize(
    ("uri", "decoders", "wanted"),
    [
        (
            "rtsp://guard:pass@gate:8554/live?decode=gpu",
            {"h264": "nvh264dec"},
            'rtspsrc location="rtsp://guard:pass@gate:8554/live" protocols=tcp latency=100 ! '
            "rtph264depay ! h264parse ! nvh264dec ! video/x-raw,format=NV12 ! ",
        ),
        (
            'rtsp+udp://gate/a"b\\?channel=1&decode=gpu&subtype=0&codec=h265',
            ON_JETSON,
            'rtspsrc location="rtsp://gate/a%22b%5C?channel=1&subtype=0" protocols=udp latency=100 ! '
            "rtph265depay ! h265parse ! nvv4l2decoder ! nvvidconv ! video/x-raw,format=NV12 ! ",
        ),
    ],
)
def test_a_stream_is_decoded_on_the_gpu(
    asked: list[tuple[Any, int]],
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
    decoders: dict[str, str],
    wanted: str,
) -> None:
    monkeypatch.setattr(gpu_decoding, "gpu_decoders", lambda: decoders)
    with open_source(uri, reconnect=Reconnect(attempts=0)) as source:
        assert isinstance(next(iter(source)).pixels, Nv12Frame)
        assert source.source_id == redact(uri) and "pass" not in source.source_id
    assert asked == [(wanted + APPSINK, cv2.CAP_GSTREAMER)]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("decode=cpu", r"decode cannot be 'cpu'.*; write rtsp://…\?decode=gpu"),
        ("decode=gpu&codec=h266", "codec cannot be 'h266', did you mean 'h26"),
        (
            "decode=gpu&codec=h265",
            "none of nvv4l2decoder, nvh265dec here; install its plugin nvcodec",
        ),
    ],
)
def test_what_the_gpu_cannot_decode_is_said(query: str, says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        decoding_pipeline(f"rtsp://guard:hunter2@gate/live?{query}", {"h264": "nvh264dec"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["drive.mp4?decode=gpu", "http://127.0.0.1:1/live?a=b&decode=gpu", "a.mcap?decode=gpu"]
)
def test_what_is_no_rtsp_is_not_decoded_on_the_gpu(uri: str) -> None:
    with pytest.raises(SourceError, match="is no rtsp stream, and decode=gpu is for those alone"):
        open_source(uri)


def test_a_stream_that_does_not_come_says_how_to_do_without(
    asked: list[tuple[Any, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_decoding, "gpu_decoders", lambda: ON_JETSON)
    with pytest.raises(SourceError, match="nothing listens on port 1 .*without decode=gpu the CPU"):
        open_source("rtsp://guard:hunter2@127.0.0.1:1/broken?decode=gpu")
    monkeypatch.setattr(gpu_decoding, "has_gstreamer", lambda: False)
    with pytest.raises(SourceError, match="needs an OpenCV with GStreamer.*leave decode=gpu out"):
        open_source("rtsp://127.0.0.1:1/live?decode=gpu")


def test_gstreamer_is_asked_for_its_elements() -> None:
    if ctypes.util.find_library("gstreamer-1.0") is None:
        pytest.skip("needs GStreamer: apt install python3-opencv")
    assert has_element("identity") and not has_element("nosuchelement")


def test_jetson_s_decoder_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"nvv4l2decoder", "nvh265dec"}
    monkeypatch.setattr(gpu_decoding, "has_element", there.__contains__)
    assert gpu_decoders() == ON_JETSON
    there.remove("nvv4l2decoder")
    assert gpu_decoders() == {"h265": "nvh265dec"}
    there.clear()
    assert gpu_decoders() == {}


def _by_system_python(program: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [SYSTEM_PYTHON, "-c", program], capture_output=True, text=True, timeout=60, cwd=root
    )


def test_opencv_before_4_7_is_silenced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = [3]
    monkeypatch.delattr(cv2.utils, "logging")
    monkeypatch.setattr(cv2, "getLogLevel", lambda: levels[-1], raising=False)
    monkeypatch.setattr(cv2, "setLogLevel", levels.append, raising=False)
    with quiet_opencv():
        assert levels[-1] == 0
    assert levels[-1] == 3
