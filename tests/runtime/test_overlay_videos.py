"""Overlay MP4s of recordings: they play in a browser, and every frame is shown at its own time."""

from __future__ import annotations

import base64
import dataclasses
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import result_for

from dedos_deploy.cli.run import main
from dedos_deploy.errors import SinkError
from dedos_deploy.runtime import Frame, OverlayPainter, SinkOptions, open_sink
from dedos_deploy.runtime.sinks import codec_choice, h264
from dedos_deploy.runtime.sinks.codec_choice import choose
from dedos_deploy.runtime.sinks.codecs import vp8_in_webp
from dedos_deploy.spec import Codec

TIMES_S = [3.0, 3.04, 3.5, 3.54, 5.0]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PLAYED = """async (data) => {
  const video = document.createElement("video");
  video.muted = true;
  const ready = new Promise((done) => { video.oncanplay = video.onerror = done; });
  video.src = data;
  await ready;
  if (video.error) return { error: video.error.message };
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const shown = () => {
    context.drawImage(video, 0, 0);
    return [...context.getImageData(video.videoWidth - 4, 4, 1, 1).data.slice(0, 3)];
  };
  const seen = [];
  let before = "0,0,0";
  for (const at of [0.0, 1.0]) {
    const there = new Promise((done) => { video.onseeked = done; });
    video.currentTime = at;
    await there;
    // A busy browser paints the picture some time after it was found.
    const until = performance.now() + 10000;
    while (String(shown()) === before && performance.now() < until) {
      await new Promise((done) => { setTimeout(done, 20); });
    }
    seen.push(shown());
    before = String(seen.at(-1));
  }
  return { state: video.readyState, duration: video.duration, width: video.videoWidth, seen };
}"""


def frames_at(times_s: list[float | None], *, clock: bool = False) -> list[Frame]:
    found = []
    for index, time_s in enumerate(times_s):
        picture = np.full((48, 64, 3), 40 + 30 * index, np.uint8)
        frame = Frame(picture, index, 0.0, "test", f"{index:06d}", media_s=time_s)
        if clock and time_s is not None:
            stamp_ns = 1_700_000_000_000_000_000 + round(1e9 * time_s)
            frame = dataclasses.replace(frame, media_s=None, clock_ns=stamp_ns)
        found.append(frame)
    return found


def write_all(path: Path, frames: list[Frame], **options: object) -> None:
    painter = OverlayPainter(legend="off")
    with open_sink(str(path), SinkOptions(painter=painter, **options)) as sink:  # type: ignore[arg-type]
        for frame in frames:
            sink.write(frame, result_for(frame.frame_bgr))
    assert sink.written == f"{path} ({len(frames)} frames)"


def video_of(path: Path) -> tuple[list[float], list[NDArray[np.uint8]]]:
    capture = cv2.VideoCapture(str(path))
    times, pictures = [], []
    while (read := capture.read())[0]:
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
        pictures.append(read[1])
    return times, pictures


def codecs_here() -> list[Codec]:
    return ["vp8", "jpeg", *(["h264"] if any(map(h264.works, h264.h264_candidates())) else [])]  # type: ignore[list-item]


def played_here() -> list[tuple[Codec, str, bool]]:
    """Codec, suffix, and whether of a live source."""
    found: list[tuple[Codec, str, bool]] = [("auto", ".webm", False), ("auto", ".webm", True)]
    found += [("vp8", ".mp4", False), ("vp8", ".mp4", True), ("auto", ".mp4", False)]
    return (
        [*found, ("h264", ".mp4", True)]
        if "av" in filter(h264.works, h264.h264_candidates())
        else found
    )


@pytest.mark.parametrize("clock", [False, True])
@pytest.mark.parametrize(
    ("codec", "suffix"), [("auto", ".webm"), *((codec, ".mp4") for codec in codecs_here())]
)
def test_every_frame_of_a_recording_is_shown_at_its_own_time(
    tmp_path: Path, codec: Codec, suffix: str, clock: bool
) -> None:
    path = tmp_path / f"o{suffix}"
    write_all(path, frames_at(list(TIMES_S), clock=clock), codec=codec, fps=2.4)
    times, pictures = video_of(path)
    assert times == pytest.approx([time_s - 3.0 for time_s in TIMES_S], abs=1e-3)
    right = [int(np.median(picture[-8:, -8:])) for picture in pictures]
    assert right == pytest.approx([40, 70, 100, 130, 160], abs=6)


def test_frames_without_a_time_come_at_the_rate_of_the_source(tmp_path: Path) -> None:
    write_all(tmp_path / "o.mp4", frames_at([None] * 5), fps=10.0)
    assert video_of(tmp_path / "o.mp4")[0] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)


@pytest.mark.parametrize(
    ("times_s", "own"),
    [
        ([0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3], [0, 2, 4, 6]),
        ([0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.2, 0.2], [0, 3, 6]),
        ([0.0, 0.04, 0.08, 0.07, 0.12, 0.16], [0, 1, 2, 4, 5]),
    ],
)
def test_equal_times_and_times_out_of_order_shift_no_other(
    tmp_path: Path, times_s: list[float | None], own: list[int]
) -> None:
    write_all(tmp_path / "o.mp4", frames_at(times_s), codec="jpeg", fps=20.0)
    shown, _ = video_of(tmp_path / "o.mp4")
    assert np.diff(shown).min() > 1e-3
    assert [shown[at] for at in own] == pytest.approx([times_s[at] for at in own], abs=1e-3)


def test_a_recording_that_begins_anew_goes_on_in_the_video(tmp_path: Path) -> None:
    write_all(tmp_path / "o.mp4", frames_at([0.0, 0.5, 1.0, 0.0, 0.5]))
    assert video_of(tmp_path / "o.mp4")[0] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0], abs=1e-3)


@pytest.mark.parametrize(("codec", "suffix", "live"), played_here())
def test_an_overlay_plays_in_a_browser(
    tmp_path: Path, codec: Codec, suffix: str, live: bool
) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium to play it with")
    sync_api = pytest.importorskip("playwright.sync_api")
    frames = frames_at([0.0, 0.5, 2.0])
    for frame in frames:
        object.__setattr__(frame, "timestamp_s", frame.media_s)
    path = tmp_path / f"o{suffix}"
    write_all(path, frames, codec=codec, live=live)
    content = base64.b64encode(path.read_bytes()).decode()
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        found = browser.new_page().evaluate(PLAYED, f"data:video/{suffix[1:]};base64,{content}")
        browser.close()
    assert found.get("error") is None, found
    assert found["state"] >= 2 and found["width"] == 64
    assert found["duration"] == pytest.approx(3.5, abs=0.1)
    for seen, grey in zip(found["seen"], (40, 70), strict=True):
        assert seen == pytest.approx([grey] * 3, abs=8)


def test_the_command_line_writes_what_a_browser_plays_and_says_who_encodes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "o.mp4"
    words = ["--source", "scene:street?frames=3&size=120x160", "--classes", "road,sky#0000ff"]
    assert main([*words, "--output", str(path), "--codec", "vp8", "--legend", "off"]) == 0
    assert "o.mp4 (3 frames) in VP8" in capfd.readouterr().out
    assert b"vp08" in path.read_bytes()
    _, pictures = video_of(path)
    assert len(pictures) == 3
    # The sky is at the top, and half of it is the blue that was asked for.
    blue, green, red = pictures[0][:10].reshape(-1, 3).mean(0)
    assert blue > 1.3 * max(green, red)
    assert main([*words, "--output", str(tmp_path / "o.jsonl"), "--codec", "vp8"]) == 2
    assert "--codec vp8 is for an output .mp4, and there is none" in capfd.readouterr().err


def test_without_an_encoder_for_h264_a_way_to_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_choice, "h264_candidates", list)
    assert choose("auto").described.startswith("VP8")
    with pytest.raises(
        SinkError, match=r"no encoder for H.264 here; GStreamer.*extra h264.*or choose vp8"
    ):
        choose("h264")
    # What gives its pictures at the end is nothing for a file that grows.
    monkeypatch.setattr(codec_choice, "h264_candidates", lambda: ["gst:openh264enc"])
    monkeypatch.setattr(codec_choice, "works", lambda name: True)
    assert choose("auto").described == "H.264 by GStreamer's openh264enc"
    with pytest.raises(SinkError, match="no encoder for H.264 of a live source here"):
        choose("h264", growing=True)
    with pytest.raises(SinkError, match="a codec is one of auto, h264, vp8, jpeg, not 'av1'"):
        choose("av1")  # type: ignore[arg-type]


def test_an_element_that_fails_is_said_and_no_video_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = tmp_path / "bin" / "gst-launch-1.0"
    launch.parent.mkdir()
    launch.write_text("#!/bin/sh\nexit 1\n")
    launch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{launch.parent}:/bin:/usr/bin")
    assert not h264.works.__wrapped__("gst:openh264enc")
    monkeypatch.setattr(codec_choice, "h264_candidates", lambda: ["gst:openh264enc"])
    monkeypatch.setattr(codec_choice, "works", lambda name: True)
    sink = open_sink(str(tmp_path / "o.mp4"), SinkOptions(codec="h264"))
    with pytest.raises(SinkError, match="GStreamer's openh264enc did not encode to the end"):
        with sink:
            for frame in frames_at([0.0, 0.1]):
                sink.write(frame, result_for(frame.frame_bgr))
    assert sink.written is None
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_ctrl_c_does_not_reach_the_process_that_encodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = tmp_path / "gst-launch-1.0"
    launch.write_text("#!/bin/sh\ncat > /dev/null\n")
    launch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with h264.GstH264("openh264enc", (48, 64)) as encoder:
        assert os.getpgid(encoder._process.pid) != os.getpgid(0)  # type: ignore[attr-defined]


def test_a_byte_stream_is_split_into_its_pictures(tmp_path: Path) -> None:
    delimiter, sps, pps = b"\x09\xf0", b"\x67\x42\xc0\x1e\x01", b"\x68\xce"
    key, second, inter = b"\x65\x88\x84", b"\x65\x40\x11", b"\x41\x9a\x02"
    pictures = [[delimiter, sps, pps, key, second], [delimiter, inter], [inter]]
    units = [unit for picture in pictures for unit in picture]
    start = [b"\0\0\0\1", b"\0\0\1"]
    stream = b"".join(start[i % 2] + unit for i, unit in enumerate(units))
    path = tmp_path / "stream.h264"
    path.write_bytes(stream)
    assert list(h264.pictures_of(path)) == pictures
    for size in range(1, len(stream) + 1):
        assert list(h264._units_in(path, size)) == units, size


def test_a_webm_plays_after_every_picture(tmp_path: Path) -> None:
    """As a writer leaves it that is killed."""
    path = tmp_path / "o.webm"
    with open_sink(str(path), SinkOptions(live=True)) as sink:
        for number, frame in enumerate(frames_at([0.0] * 4)):
            object.__setattr__(frame, "timestamp_s", number / 4)
            sink.write(frame, result_for(frame.frame_bgr))
            assert video_of(path)[0] == pytest.approx([n / 4 for n in range(number + 1)])
    assert video_of(path)[0] == pytest.approx([0.0, 0.25, 0.5, 0.75])


def test_a_webm_holds_no_other_codec(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"a .webm holds vp8, not h264; write .mp4, or leave"):
        open_sink(str(tmp_path / "o.webm"), SinkOptions(codec="h264"))
    assert not list(tmp_path.iterdir())


def test_a_picture_that_is_too_large_for_vp8_is_refused(tmp_path: Path) -> None:
    wide = np.zeros((2, 16_384, 3), np.uint8)
    with pytest.raises(SinkError, match=r"16384x2 cannot be written as \.webp; choose another"):
        write_all(tmp_path / "o.mp4", [Frame(wide, 0, 0.0, "test", "000000")], codec="vp8")
    assert list(tmp_path.iterdir()) == []


def test_a_webp_that_is_not_lossy_is_refused() -> None:
    with pytest.raises(SinkError, match="a WebP of kind b'VP8L' where a lossy one was asked for"):
        vp8_in_webp(b"RIFF\0\0\0\0WEBPVP8L")
