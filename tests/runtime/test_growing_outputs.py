"""Outputs that grow: MP4, MCAP and Rerun recordings, at their true times, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from run_process import start, wait_for_lines
from runtime_fakes import result_for

from dedos_deploy.errors import SinkError
from dedos_deploy.runtime import Frame, SinkOptions, open_sink, open_source
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.palette import word_colour_bgr

LIVE = SinkOptions(live=True)
TIMES_S = [100.0, 100.1, 100.5, 100.55, 102.0, 102.1]
CLOCK_NS = 1_700_000_000_000_000_000


def picture_of(number: int, size_hw: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    return np.full((*size_hw, 3), 40 + 20 * number, dtype=np.uint8)


def live_frames(size_hw: tuple[int, int] = (48, 64), *, clock: bool = False) -> list[Frame]:
    return [
        Frame(
            picture_of(number, size_hw),
            number,
            time_s,
            "yard",
            f"{number:06d}",
            clock_ns=CLOCK_NS + round((time_s - 100) * 1e9) if clock else None,
        )
        for number, time_s in enumerate(TIMES_S)
    ]


def write_all(path: Path, frames: list[Frame], options: SinkOptions = LIVE) -> str | None:
    with open_sink(str(path), options) as sink:
        for frame in frames:
            sink.write(frame, result_for(frame.frame_bgr, frame.timestamp_s))
    return sink.written


def video_of(path: Path) -> tuple[list[float], list[NDArray[np.uint8]]]:
    """Return the times and pictures of a video as a player finds them."""
    times, pictures = [], []
    with open_source(str(path)) as source:
        while isinstance(frame := source.read(1.0), Frame):
            assert frame.media_s is not None
            times.append(frame.media_s)
            pictures.append(frame.frame_bgr)
    return times, pictures


def assert_pictures(pictures: list[NDArray[np.uint8]]) -> None:
    # The right half is unlabelled and stays as it was.
    values = [int(np.median(picture[-8:, -8:])) for picture in pictures]
    assert np.abs(np.array(values) - [40 + 20 * n for n in range(len(values))]).max() <= 4


# MP4


@pytest.mark.parametrize("size_hw", [(48, 64), (47, 63), (1, 1)])
@pytest.mark.parametrize("clock", [False, True])
def test_a_live_mp4_shows_every_picture_at_the_time_of_its_capture(
    tmp_path: Path, size_hw: tuple[int, int], clock: bool
) -> None:
    path = tmp_path / "o.mp4"
    assert write_all(path, live_frames(size_hw, clock=clock)) == f"{path} (6 frames)"
    times, pictures = video_of(path)
    assert times == pytest.approx([time_s - 100.0 for time_s in TIMES_S], abs=1e-3)
    assert {picture.shape for picture in pictures} == {(*size_hw, 3)}
    if size_hw != (1, 1):
        assert_pictures(pictures)
    assert os.listdir(tmp_path) == ["o.mp4"]


def test_a_live_mp4_can_be_played_after_every_picture(tmp_path: Path) -> None:
    path = tmp_path / "o.mp4"
    with open_sink(str(path), LIVE) as sink:
        for number, frame in enumerate(live_frames(), start=1):
            sink.write(frame, result_for(frame.frame_bgr))
            assert len(video_of(path)[1]) == number


def test_a_live_mp4_can_be_searched(tmp_path: Path) -> None:
    """The index at its end leads to a picture, and a player may jump to it."""
    path = tmp_path / "o.mp4"
    write_all(path, live_frames())
    content = path.read_bytes()
    (size,) = np.frombuffer(content[-4:], ">u4")
    index = content[-int(size) :]
    assert index[4:8] == b"mfra" and index[12:16] == b"tfra"
    entries = np.frombuffer(
        index[32 : 32 + 2 * 19], np.dtype([("time", ">u8"), ("at", ">u8"), ("sample", "S3")])
    )
    assert entries["time"].tolist() == [0, 180_000]
    for at in entries["at"]:
        assert content[at + 4 : at + 8] == b"moof"
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_POS_MSEC, 2000)
    found, picture = capture.read()
    # OpenCV only guesses which of the last two it is.
    assert found and int(np.median(picture[-8:, -8:])) > 115


def test_cut_anywhere_a_live_mp4_plays_up_to_there(tmp_path: Path) -> None:
    path, cut = tmp_path / "o.mp4", tmp_path / "cut.mp4"
    write_all(path, live_frames())
    content = path.read_bytes()
    ends = [place for place in range(len(content)) if content[place + 4 : place + 8] == b"moof"]
    for number, place in enumerate(ends[1:], start=1):
        for extra in (0, 5, 60):
            cut.write_bytes(content[: place + extra])
            times, pictures = video_of(cut)
            assert len(times) == number
            assert_pictures(pictures)


def test_a_pause_of_a_day_ends_no_live_mp4(tmp_path: Path) -> None:
    path = tmp_path / "o.mp4"
    times_s = (0.0, 0.1, 86_400.0, 86_400.1)
    frames = [Frame(picture_of(n), n, time_s, "t", str(n)) for n, time_s in enumerate(times_s)]
    write_all(path, frames)
    assert video_of(path)[0] == pytest.approx(times_s, abs=1e-3)


def test_pictures_of_another_size_and_equal_times(tmp_path: Path) -> None:
    path = tmp_path / "o.mp4"
    shapes = [(48, 64), (96, 64), (20, 200)]
    frames = [Frame(picture_of(1, hw), n, 7.0, "t", str(n)) for n, hw in enumerate(shapes)]
    write_all(path, frames)
    times, pictures = video_of(path)
    assert [picture.shape for picture in pictures] == [(48, 64, 3)] * 3
    assert np.all(np.diff(times) >= 0) and times[-1] < 0.001


def test_a_live_mp4_is_there_at_once_and_an_existing_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "o.mp4"
    path.write_text("precious")
    with pytest.raises(SinkError, match="exists; allow it to be replaced"):
        open_sink(str(path), LIVE)
    assert path.read_text() == "precious"


# MCAP


def messages_of(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return (log time, decoded message) by topic, with the libraries that Foxglove publishes."""
    reader = pytest.importorskip("mcap.reader")
    factory = pytest.importorskip("mcap_protobuf.decoder").DecoderFactory()
    found: dict[str, list[tuple[int, Any]]] = {}
    with path.open("rb") as file:
        for schema, channel, message in reader.make_reader(file).iter_messages():
            if channel.message_encoding == "protobuf":
                content = factory.decoder_for("protobuf", schema)(message.data)
            else:
                content = json.loads(message.data)
            found.setdefault(channel.topic, []).append((message.log_time, content))
    return found


def test_mcap_holds_pictures_labels_names_and_numbers_at_their_times(tmp_path: Path) -> None:
    path = tmp_path / "o.mcap"
    frames = live_frames(clock=True)
    assert write_all(path, frames) == f"{path} (6 frames)"
    found = messages_of(path)
    assert sorted(found) == ["/annotations", "/image", "/labels", "/overlay", "/result"]
    for messages in found.values():
        assert [at for at, _ in messages] == [frame.clock_ns for frame in frames]
    result = result_for(frames[0].frame_bgr)
    for number, (_, image) in enumerate(found["/image"]):
        assert (image.format, image.frame_id) == ("jpeg", "yard")
        assert image.timestamp.ToNanoseconds() == frames[number].clock_ns
        picture = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(picture.astype(int) - frames[number].frame_bgr).max() <= 4
    overlay = cv2.imdecode(np.frombuffer(found["/overlay"][2][1].data, np.uint8), cv2.IMREAD_COLOR)
    expected = (np.array(word_colour_bgr("left")) + 80) / 2
    assert np.abs(overlay[-4, 8].astype(int) - expected).max() <= 25
    _, labels = found["/labels"][0]
    assert (labels.encoding, labels.step) == ("mono8", 64)
    label_map = np.frombuffer(labels.data, np.uint8).reshape(labels.height, labels.width)
    np.testing.assert_array_equal(label_map, result.label_map)
    (text,) = found["/annotations"][0][1].texts
    assert text.text == "left"
    assert label_map[int(text.position.y), int(text.position.x)] == 0
    assert text.background_color.r == pytest.approx(word_colour_bgr("left")[2] / 255)
    _, numbers = found["/result"][3]
    assert numbers["frame_id"] == 3 and numbers["coverage"] == {"left": 0.5}
    assert (numbers["classes"], numbers["none_id"]) == (["left"], 255)


def test_mcap_with_many_classes_has_labels_of_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "o.mcap"
    frame = live_frames()[0]
    base = result_for(frame.frame_bgr, classes=tuple(f"c{n}" for n in range(301)))
    label_map = np.where(base.label_map == 255, 65535, 300).astype(np.uint16)
    wide = Segmentation(**{**vars(base), "label_map": label_map, "none_id": 65535})
    with open_sink(str(path), LIVE) as sink:
        sink.write(frame, wide)
    _, labels = messages_of(path)["/labels"][0]
    assert (labels.encoding, labels.step) == ("mono16", 128)
    np.testing.assert_array_equal(np.frombuffer(labels.data, "<u2").reshape(48, 64), label_map)


def test_an_mcap_that_was_written_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "o.mcap"
    frames = live_frames(clock=True)
    write_all(path, frames)
    read = []
    with open_source(f"{path}?topic=/image") as source:
        while isinstance(frame := source.read(1.0), Frame):
            read.append(frame)
    assert [frame.clock_ns for frame in read] == [frame.clock_ns for frame in frames]


# Rerun


def test_rerun_recordings_are_whole_and_hold_what_was_seen(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    path = tmp_path / "o.rrd"
    assert write_all(path, live_frames(clock=True)) == f"{path} (6 frames)"
    rerun = [str(Path(sys.executable).with_name("rerun")), "rrd"]
    subprocess.run([*rerun, "verify", str(path)], check=True, capture_output=True, timeout=60)
    command = [*rerun, "print", "-vv", str(path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    for part in (
        "/camera/image",
        "/camera/labels",
        "/coverage/left",
        "/latency_ms/engine",
        "captured",
        "AnnotationContext",
    ):
        assert part in told, part
    # What ids mean holds from its time on, and not for what was seen before.
    assert any("captured" in row and "AnnotationContext" in row for row in told.splitlines())


def test_a_rerun_viewer_that_is_not_there_costs_no_time(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    started = time.monotonic()
    with open_sink("rerun+http://127.0.0.1:1/proxy", LIVE) as sink:
        for frame in live_frames():
            sink.write(frame, result_for(frame.frame_bgr))
    assert time.monotonic() - started < 15
    with pytest.raises(SinkError, match="is no address of a Rerun viewer"):
        open_sink("rerun+http://", LIVE)


# Killed


def frames_in_mcap(path: Path) -> int:
    """Return how many pictures a recording holds that was never finished."""
    count = 0
    with open_source(f"{path}?topic=/image") as source:
        while isinstance(source.read(1.0), Frame):
            count += 1
    return count


@pytest.mark.parametrize(
    ("name", "count_of", "may_lack"),
    [("o.mp4", lambda path: len(video_of(path)[1]), 1), ("o.mcap", frames_in_mcap, 200)],
)
def test_kill_9_costs_at_most_what_was_in_the_hand(
    bundle_folder: Path, tmp_path: Path, name: str, count_of: Callable[[Path], int], may_lack: int
) -> None:
    path, lines = tmp_path / name, tmp_path / "o.jsonl"
    process = start(
        bundle_folder,
        "--source",
        "test:bars?fps=60&size=48x64",
        "--classes",
        "red,blue",
        "--threads",
        "1",
        "--output",
        path,
        "--output",
        lines,
        "--quiet",
    )
    try:
        wait_for_lines(process, lines, may_lack + 100)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
    # Both sinks run on threads of their own, so one may be a few results ahead of the other.
    said = lines.read_text().count("\n")
    assert said - may_lack - 5 <= count_of(path) <= said + 5
    if name.endswith(".mp4"):
        times, _ = video_of(path)
        assert np.diff(times).min() > 0


# A full disk


@pytest.mark.parametrize("suffix", [".mp4", ".mcap", ".jsonl"])
def test_a_full_disk_is_said_and_the_file_closed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"o{suffix}"
    sink = open_sink(str(path), LIVE)
    file = sink._file  # type: ignore[attr-defined]
    fill(file)
    with pytest.raises(SinkError, match="No space left on device.*check the folder"):
        for frame in live_frames() * 50:
            sink.write(frame, result_for(frame.frame_bgr))
        sink.close()
    with pytest.raises(SinkError, match="No space left on device"):
        sink.close()
    sink.close()
    assert file.closed


def fill(file: IO[bytes]) -> None:
    """Let the disk below an open file be full."""
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), file.fileno())
