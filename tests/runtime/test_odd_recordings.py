"""Recordings as recorders leave them: clocks that disagree, depth, nothing to see, no index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import result_for
from test_bags import write_ros

from dedos_deploy.cli.run import main
from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import Frame, SinkOptions, open_sink, open_source
from dedos_deploy.runtime.sources import bags
from dedos_deploy.runtime.sources.bag_clock import RecordingClock
from dedos_deploy.runtime.sources.bag_images import ImageMessage, decode_image

WALL_NS = 1_700_000_000_000_000_000
BOOT_NS = 12_000_000_000
TENTH_NS = 100_000_000
COUNT = 8


def write_stamped(
    path: Path,
    stamps_ns: Sequence[int],
    logged_ns: Sequence[int],
    *,
    encoding: str = "mono8",
    pixels: NDArray[Any] | None = None,
) -> Path:
    """Write pictures of one grey each, which tells their number, with these header stamps."""
    from mcap.writer import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    types: Any = store.types
    kind = "sensor_msgs/msg/Image"
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=100)
        writer.start(profile="ros2")
        text = store.generate_msgdef(kind, ros_version=2)[0].encode()
        schema = writer.register_schema(kind, "ros2msg", text)
        channel = writer.register_channel("/cam/image_raw", "cdr", schema)
        for number, (stamp_ns, log_ns) in enumerate(zip(stamps_ns, logged_ns, strict=True)):
            rows = np.full((4, 6), 10 * number, np.uint8) if pixels is None else pixels
            header = types["std_msgs/msg/Header"](
                stamp=types["builtin_interfaces/msg/Time"](
                    sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9
                ),
                frame_id="lens",
            )
            message = types[kind](
                header=header,
                height=rows.shape[0],
                width=rows.shape[1],
                encoding=encoding,
                is_bigendian=0,
                step=rows.strides[0],
                data=np.frombuffer(rows.tobytes(), np.uint8),
            )
            writer.add_message(channel, log_ns, bytes(store.serialize_cdr(message, kind)), log_ns)
        writer.finish()
    return path


def tenths(start_ns: int, count: int = COUNT) -> list[int]:
    return [start_ns + number * TENTH_NS for number in range(count)]


def frames_of(address: str) -> tuple[list[Frame], tuple[str, ...]]:
    with open_source(address) as source:
        return list(source), source.warnings


# Clocks

LOGGED = tenths(WALL_NS)
TWO_CLOCKS = {
    "first zero, then since boot": [0, *tenths(BOOT_NS)[1:]],
    "zero among others": [*tenths(WALL_NS)[:3], 0, *tenths(WALL_NS)[4:]],
    "a jump ahead for good": [*tenths(WALL_NS)[:3], *tenths(WALL_NS + 10**13)[3:]],
    "a jump ahead and back": [*tenths(WALL_NS)[:3], WALL_NS + 10**13, *tenths(WALL_NS)[4:]],
    "a jump back": [*tenths(WALL_NS)[:3], *tenths(WALL_NS - 10**13)[3:]],
    "two cameras, two clocks": [
        (WALL_NS if number % 2 else BOOT_NS) + number * TENTH_NS for number in range(COUNT)
    ],
    "standing still": [WALL_NS] * COUNT,
    "none": [0] * COUNT,
}


class Clock:
    """Stands for the module `time` where a recording waits: a machine that is busy has no say."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", TWO_CLOCKS)
def test_all_pictures_come_in_their_order_and_about_their_time(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(bags, "time", clock)
    bag = write_stamped(tmp_path / "d.mcap", TWO_CLOCKS[kind], LOGGED)
    for address in (str(bag), f"{bag}?rate=2"):
        frames, warnings = frames_of(address)
        assert [int(frame.frame_bgr[0, 0, 0]) for frame in frames] == [
            10 * number for number in range(COUNT)
        ]
        times_s = [frame.media_s for frame in frames]
        assert times_s == pytest.approx([number / 10 for number in range(COUNT)], abs=0.05)
        (warning,) = warnings
        assert "header stamp that is missing, stands still, goes back or jumps" in warning
    assert clock.now_s == pytest.approx((COUNT - 1) / 10 / 2, abs=0.05)


@pytest.mark.parametrize("kind", ["late log", "no log", "since boot", "a pause"])
def test_stamps_that_make_sense_are_kept_whatever_the_log_says(kind: str, tmp_path: Path) -> None:
    stamps, logged = tenths(WALL_NS), LOGGED
    if kind == "late log":
        # A recorder that stood still for three seconds, and wrote the rest at once.
        logged = [*LOGGED[:3], *(LOGGED[3] + 3 * 10**9 + number for number in range(COUNT - 3))]
    elif kind == "no log":
        logged = [0] * COUNT
    elif kind == "since boot":
        stamps = tenths(BOOT_NS)
    else:
        stamps = logged = [*LOGGED[:3], *tenths(WALL_NS + 10**10)[3:]]
    frames, warnings = frames_of(str(write_stamped(tmp_path / "d.mcap", stamps, logged)))
    assert [frame.clock_ns for frame in frames] == stamps
    assert warnings == ()


def test_times_that_no_clock_of_ros_can_have_are_none() -> None:
    never = (2**32 - 1) * 10**9
    clock = RecordingClock()
    times = [clock.time_ns(*both) for both in ((never, 7), (8, 9), (never, 12), (14, never))]
    assert times == [7, 8, 11, 14]
    assert clock.used_log == 2
    assert RecordingClock().time_ns(0, 2**63) == 0


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_of_a_recording_lasts_as_long_as_it(tmp_path: Path, suffix: str) -> None:
    logged = tenths(WALL_NS, 20)
    bag = write_stamped(tmp_path / "d.mcap", logged, logged)
    path = tmp_path / f"o{suffix}"
    with open_source(str(bag)) as source:
        with open_sink(str(path), SinkOptions(fps=source.fps)) as sink:
            for frame in source:
                sink.write(frame, result_for(frame.frame_bgr))
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 20
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0)


@pytest.mark.parametrize("fps", [5, 30])
def test_the_rate_is_that_of_the_stamps_of_every_kind_of_recording(
    tmp_path: Path, fps: int
) -> None:
    times = [WALL_NS + round(number * 1e9 / fps) for number in range(COUNT)]
    times = [*times[:4], *(at + 7 * 10**9 for at in times[4:])]
    bag = write_stamped(tmp_path / "d.mcap", times, times)
    with open_source(str(bag)) as source, open_source(f"{bag}?rate=2") as fast:
        assert source.fps == pytest.approx(fps, rel=0.01)
        assert fast.fps == pytest.approx(2 * fps, rel=0.01)
    for version, name in ((1, "one.bag"), (2, "two")):
        with open_source(str(write_ros(tmp_path / name, version=version))) as source:
            assert source.fps == pytest.approx(10.0)


def test_cameras_with_a_common_topic_and_trigger_have_a_rate_and_a_video(tmp_path: Path) -> None:
    stamps = [at for at in tenths(WALL_NS, 10) for _ in range(2)]
    logged = [at + 10**6 * (number % 2) for number, at in enumerate(stamps)]
    bag = write_stamped(tmp_path / "d.mcap", stamps, logged)
    path = tmp_path / "o.mp4"
    with open_source(str(bag)) as source:
        assert source.fps == pytest.approx(20)
        with open_sink(str(path), SinkOptions(fps=source.fps, codec="jpeg")) as sink:
            for frame in source:
                sink.write(frame, result_for(frame.frame_bgr))
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 20
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20, rel=0.05)


# Depth


def depth_mm() -> NDArray[np.uint16]:
    """A wall from one metre to three, with a hole in it where nothing was measured."""
    depth = np.tile(np.linspace(1000, 3000, 64).astype(np.uint16), (48, 1))
    depth[:8, :8] = 0
    return depth


def assert_readable(shown: NDArray[np.uint8]) -> None:
    assert shown.shape == (48, 64, 3) and shown.dtype == np.uint8
    assert shown[:8, :8].max() == 0 and shown[20, 0].max() <= 5 and shown[20, -1].min() >= 250
    assert (np.diff(shown[20, :, 0].astype(int)) >= 0).all()
    assert 120 <= shown[20, 32, 0] <= 136


def test_depth_in_millimetres_can_be_seen(tmp_path: Path) -> None:
    for encoding in ("16UC1", "mono16"):
        bag = write_stamped(
            tmp_path / "d.mcap", LOGGED, LOGGED, encoding=encoding, pixels=depth_mm()
        )
        frames, warnings = frames_of(str(bag))
        assert_readable(frames[-1].frame_bgr)
        assert len(warnings) == 1 and "hold depth or little light" in warnings[0]
    cv2.imwrite(str(tmp_path / "depth.png"), depth_mm())
    (frame,), (warning,) = frames_of(str(tmp_path / "depth.png"))
    assert_readable(frame.frame_bgr)
    assert "hold depth or little light" in warning


def test_compressed_depth_can_be_seen() -> None:
    png = cv2.imencode(".png", depth_mm())[1].tobytes()
    assert_readable(decode_image(ImageMessage(png, format="16UC1; png compressed")))
    wrapped = ImageMessage(bytes(12) + png, format="16UC1; compressedDepth png")
    assert_readable(decode_image(wrapped))
    # Values of 32FC1 are inverse depth, whose scale stands in the header.
    with pytest.raises(SourceError, match=r"'32FC1; compressedDepth png'.*known are JPEG, PNG"):
        decode_image(ImageMessage(bytes(12) + png, format="32FC1; compressedDepth png"))


def test_depth_beyond_a_quarter_of_the_range_is_not_dark_near_by() -> None:
    depth = (20 * depth_mm()).astype(np.uint16)
    assert_readable(decode_image(ImageMessage(depth.tobytes(), "16UC1", 48, 64, 128)))
    # A photograph keeps its whole range.
    photo = decode_image(ImageMessage(depth.tobytes(), "mono16", 48, 64, 128))
    np.testing.assert_array_equal(photo[..., 0], depth >> 8)


@pytest.mark.parametrize("value", [0, 1500])
def test_a_picture_of_16_bits_with_one_value(value: int) -> None:
    flat = np.full((8, 8), value, np.uint16)
    shown = decode_image(ImageMessage(flat.tobytes(), "16UC1", 8, 8, 16))
    assert (shown == (255 if value else 0)).all()


# Nothing to see


@pytest.mark.parametrize("output", ["o.jsonl", "o.mcap", "o.mp4", "masks:m", "overlays:m"])
def test_nothing_decodable_is_2_and_leaves_nothing(
    output: str,
    tmp_path: Path,
    bundle_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    depth = np.ones((4, 6), np.float32)
    bag = write_stamped(tmp_path / "d.mcap", LOGGED, LOGGED, encoding="32FC1", pixels=depth)
    monkeypatch.chdir(tmp_path)
    common = ["--bundle", str(bundle_folder), "--threads", "1", "--quiet"]
    code = main(["--source", str(bag), "--classes", "red", "--output", output, *common])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert "none of the 8 messages" in line and "'/cam/image_raw'" in line
    assert "its encoding '32FC1' is not a picture's; known are bgr8" in line
    assert sorted(set(os.listdir(tmp_path)) - {"cache"}) == ["d.mcap"]


@pytest.mark.parametrize("kind", ["masks:", "overlays:", ""])
def test_no_result_no_output(kind: str, tmp_path: Path) -> None:
    sink = open_sink(f"{kind}{tmp_path / 'o.jsonl'}")
    sink.close()
    sink.close()
    assert sink.written is None and os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    open_sink(f"masks:{tmp_path / 'mine'}").close()
    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize("name", ["o.jsonl", "o.mcap"])
def test_what_was_there_stays_until_there_is_a_result(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("precious")
    sink = open_sink(str(path), SinkOptions(overwrite=True))
    sink.close()
    assert sink.written is None and path.read_text() == "precious"


def test_a_recording_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    bag = write_stamped(tmp_path / "d.mcap", LOGGED, LOGGED)
    data = bag.read_bytes().replace(b"sensor_msgs/msg/Image", b"sensor_msgs/msg/Other")
    bag.write_bytes(data)
    with pytest.raises(
        SourceError,
        match=r"no image topic; images are sensor_msgs/Image.*it has "
        r"/cam/image_raw \(sensor_msgs/Other\)",
    ):
        open_source(str(bag))


def test_foxglove_schemas_without_a_definition_are_known_by_their_name(tmp_path: Path) -> None:
    from foxglove.messages import CompressedImage, Timestamp
    from mcap.writer import Writer

    png = cv2.imencode(".png", np.full((4, 6, 3), 77, np.uint8))[1].tobytes()
    message = CompressedImage(timestamp=Timestamp(5, 6), frame_id="lens", data=png, format="png")
    for name, count in (("foxglove.CompressedImage", 3), ("foxglove.Other", 0)):
        with (tmp_path / "d.mcap").open("wb") as file:
            writer = Writer(file)
            writer.start()
            schema = writer.register_schema(name, "protobuf", b"")
            channel = writer.register_channel("/img", "protobuf", schema)
            for number in range(3):
                writer.add_message(channel, number, bytes(message.encode()), number)
            writer.finish()
        if not count:
            with pytest.raises(SourceError, match=r"it has /img \(foxglove.Other\)"):
                open_source(str(tmp_path / "d.mcap"))
            continue
        frames, _ = frames_of(str(tmp_path / "d.mcap"))
        assert [frame.coordinate_frame for frame in frames] == ["lens"] * count
        assert (frames[0].frame_bgr == 77).all()


# Killed recorders


def test_a_killed_ros1_recorder_is_told_to_reindex(tmp_path: Path) -> None:
    data = bytearray(write_ros(tmp_path / "whole.bag", version=1).read_bytes())
    at = data.index(b"index_pos=") + len(b"index_pos=")
    data[at : at + 8] = bytes(8)  # what a recorder fills in last
    for name in ("killed.bag", "killed.bag.active"):
        path = tmp_path / name
        path.write_bytes(data[:-400])
        with pytest.raises(SourceError, match=f"run: rosbag reindex {path}$"):
            open_source(str(path))


def test_a_killed_ros2_recorder_is_told_to_reindex_or_read(tmp_path: Path) -> None:
    folder = write_ros(tmp_path / "drive", version=2)
    (folder / "metadata.yaml").unlink()
    with pytest.raises(SourceError, match=f"run: ros2 bag reindex {folder}, or name the file"):
        open_source(str(folder))
    (file,) = folder.glob("*.db3")
    assert len(frames_of(str(file))[0]) == 5
