"""GStreamer pipelines: what is asked of OpenCV, and what is said when it has none."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_live_sources import FakeCapture

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import open_source
from dedos_deploy.runtime.flow import Reconnect
from dedos_deploy.runtime.opencv import quiet_opencv
from dedos_deploy.runtime.sources import gstreamer as gst_source
from dedos_deploy.runtime.sources.gstreamer import APPSINK, pipeline_of
from dedos_deploy.runtime.uri import redact

SYSTEM_PYTHON = "/usr/bin/python3"
READ_ONE = """
from dedos_deploy.runtime import open_source
with open_source("gst:videotestsrc is-live=true ! video/x-raw,width=64,height=48") as source:
    frame_bgr = next(iter(source)).frame_bgr
    print(frame_bgr.shape, frame_bgr.dtype)
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """An OpenCV that has GStreamer, as far as can be seen."""
    seen: list[tuple[Any, int]] = []

    def open_capture(address: Any, *, backend: int = 0, settings: Any = ()) -> FakeCapture:
        seen.append((address, backend))
        return FakeCapture(0 if "broken" in address else 50, opened=True)

    monkeypatch.setattr(gst_source, "has_gstreamer", lambda: True)
    monkeypatch.setattr(gst_source, "open_capture", open_capture)
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
    assert done.stdout.strip() == "(48, 64, 3) uint8", done.stderr


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
