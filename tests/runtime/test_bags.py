"""MCAP files and ROS bags, written by other libraries, with the clock they were recorded with."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import open_source
from dedos_deploy.runtime.sources.bag_images import ImageMessage, decode_image

START_NS = 1_700_000_000_250_000_000
STEP_NS = 100_000_000


def picture(number: int) -> NDArray[np.uint8]:
    """Smooth, so that JPEG keeps it; its blue tells the number."""
    grid = np.linspace(0, 200, 24, dtype=np.uint8)
    return np.dstack([np.full((16, 24), 20 * number), *2 * [np.tile(grid, (16, 1))]]).astype(
        np.uint8
    )


def write_ros(path: Path, *, version: int, topics: tuple[str, ...] = ("/camera/image",)) -> Path:
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.rosbag2 import StoragePlugin
    from rosbags.rosbag2 import Writer as Writer2
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC if version == 1 else Stores.ROS2_HUMBLE)
    types: Any = store.types
    kind = "sensor_msgs/msg/Image"
    plugin = StoragePlugin.MCAP if version == 3 else StoragePlugin.SQLITE3
    writer: Any = Writer1(path) if version == 1 else Writer2(path, version=9, storage_plugin=plugin)
    with writer:
        for topic in topics:
            connection = writer.add_connection(topic, kind, typestore=store)
            for number in range(5):
                clock_ns = START_NS + number * STEP_NS
                stamp = types["builtin_interfaces/msg/Time"](
                    sec=clock_ns // 10**9, nanosec=clock_ns % 10**9
                )
                header_fields = {"seq": number} if version == 1 else {}
                header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="cam", **header_fields)
                pixels = picture(number)[:, :, ::-1]
                message = types[kind](
                    header=header,
                    height=16,
                    width=24,
                    encoding="rgb8",
                    is_bigendian=0,
                    step=72,
                    data=pixels.reshape(-1),
                )
                raw = (
                    store.serialize_ros1(message, kind)
                    if version == 1
                    else store.serialize_cdr(message, kind)
                )
                # Logged a while after its capture, as in life.
                writer.write(connection, clock_ns + 7_000_000, raw)
    return path


def write_json_mcap(path: Path, *, damage_at: int | None = None) -> Path:
    from mcap.writer import Writer

    with path.open("wb") as file:
        writer = Writer(file, chunk_size=1)
        writer.start()
        schema = writer.register_schema("foxglove.CompressedImage", "jsonschema", b"{}")
        channel = writer.register_channel("/img", "json", schema)
        for number in range(5):
            clock_ns = START_NS + number * STEP_NS
            _, encoded = cv2.imencode(".png", picture(number))
            data = b"no picture" if number == damage_at else encoded.tobytes()
            body = {
                "timestamp": {"sec": clock_ns // 10**9, "nsec": clock_ns % 10**9},
                "frame_id": "cam",
                "format": "png",
                "data": base64.b64encode(data).decode(),
            }
            content = json.dumps(body).encode()
            writer.add_message(channel, clock_ns, content, clock_ns)
        writer.finish()
    return path


def write_foxglove_mcap(path: Path) -> Path:
    import foxglove
    from foxglove.channels import CompressedImageChannel
    from foxglove.messages import CompressedImage, Timestamp

    context = foxglove.Context()
    with foxglove.open_mcap(path, context=context):
        channel = CompressedImageChannel("/img", context=context)
        for number in range(5):
            clock_ns = START_NS + number * STEP_NS
            _, encoded = cv2.imencode(".png", picture(number))
            channel.log(
                CompressedImage(
                    timestamp=Timestamp(clock_ns // 10**9, clock_ns % 10**9),
                    frame_id="cam",
                    data=encoded.tobytes(),
                    format="png",
                ),
                log_time=clock_ns,
            )
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "ros1": lambda folder: write_ros(folder / "drive.bag", version=1),
    "ros2 folder": lambda folder: write_ros(folder / "drive", version=2),
    "ros2 db3": lambda folder: next(write_ros(folder / "drive", version=2).glob("*.db3")),
    "ros2 mcap": lambda folder: next(write_ros(folder / "drive", version=3).glob("*.mcap")),
    "json mcap": lambda folder: write_json_mcap(folder / "drive.mcap"),
    "foxglove mcap": lambda folder: write_foxglove_mcap(folder / "drive.mcap"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_gives_its_pictures_with_their_clock(kind: str, tmp_path: Path) -> None:
    with open_source(str(WRITERS[kind](tmp_path))) as source:
        frames = list(source)
        assert source.frames == 5 and not source.live and source.warnings == ()
    assert [frame.clock_ns for frame in frames] == [START_NS + n * STEP_NS for n in range(5)]
    assert [frame.captured_ns for frame in frames] == [frame.clock_ns for frame in frames]
    assert [frame.media_s for frame in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.frame_bgr, picture(number))


def test_of_several_topics_one_must_be_chosen(tmp_path: Path) -> None:
    bag = write_ros(tmp_path / "drive.bag", version=1, topics=("/left/image", "/right/image"))
    with pytest.raises(SourceError, match=r"2 image topics, /left/image, /right/image.*\?topic="):
        open_source(str(bag))
    with pytest.raises(
        SourceError, match=r"no image topic '/lift/image', did you mean '/left/image'"
    ):
        open_source(f"{bag}?topic=/lift/image")
    with open_source(f"{bag}?topic=/right/image") as source:
        assert len(list(source)) == 5


def test_pictures_of_all_publishers_of_a_topic_are_read(tmp_path: Path) -> None:
    from rosbags.rosbag1 import Reader, Writer

    whole = write_ros(tmp_path / "one.bag", version=1)
    with Reader(whole) as reader, Writer(tmp_path / "two.bag") as writer:
        (one,) = reader.connections
        publishers = [
            writer.add_connection(
                one.topic, one.msgtype, msgdef=one.msgdef.data, md5sum=one.digest, callerid=name
            )
            for name in ("/left", "/right")
        ]
        for number, (_, logged_ns, raw) in enumerate(reader.messages()):
            writer.write(publishers[number % 2], logged_ns, raw)
    with open_source(str(tmp_path / "two.bag")) as source:
        frames = list(source)
        assert source.frames == 5
    assert [frame.clock_ns for frame in frames] == [START_NS + n * STEP_NS for n in range(5)]


def test_with_a_rate_it_takes_the_time_it_took_and_a_slow_reader_loses_frames(
    tmp_path: Path,
) -> None:
    bag = write_json_mcap(tmp_path / "drive.mcap")
    started = time.monotonic()
    with open_source(f"{bag}?rate=2") as source:
        assert source.live
        stamps = [frame.timestamp_s - started for frame in source]
    assert len(stamps) == 5
    assert 0.19 <= stamps[-1] - stamps[0] <= 0.4
    with open_source(f"{bag}?rate=10") as source:
        kept = []
        for frame in source:
            kept.append(frame.frame_id)
            time.sleep(0.015)
        assert kept[-1] == 4 and len(kept) + source.drops["superseded"] == 5
        assert source.drops["superseded"] >= 1


def test_a_recorder_that_was_killed_leaves_what_it_wrote(tmp_path: Path) -> None:
    whole = write_json_mcap(tmp_path / "drive.mcap").read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[: len(whole) // 2])
    with open_source(str(cut)) as source:
        frames = list(source)
        assert 1 <= len(frames) < 5
        assert "no index" in source.warnings[0]
    assert [frame.clock_ns for frame in frames] == [
        START_NS + n * STEP_NS for n in range(len(frames))
    ]


def test_a_damaged_message_is_skipped_and_counted(tmp_path: Path) -> None:
    with open_source(str(write_json_mcap(tmp_path / "drive.mcap", damage_at=2))) as source:
        assert [frame.frame_id for frame in source] == [0, 1, 3, 4]
        assert source.drops == {"unreadable": 1}
        assert "1 messages" in source.warnings[0] and "damaged" in source.warnings[0]


@pytest.mark.parametrize("suffix", [".mcap", ".bag", ".db3"])
def test_what_is_no_recording_is_said(suffix: str, tmp_path: Path) -> None:
    bad = tmp_path / f"drive{suffix}"
    bad.write_bytes(b"this is not a recording at all")
    with pytest.raises(SourceError, match=f"drive{suffix}"):
        open_source(str(bad))
    with pytest.raises(SourceError, match="does not exist"):
        open_source(str(tmp_path / f"gone{suffix}"))
    with pytest.raises(SourceError, match="unknown setting 'tpoic', did you mean 'topic'"):
        open_source(f"{bad}?tpoic=/a")
    with pytest.raises(SourceError, match="rate must lie in"):
        open_source(f"{bad}?rate=0")


# Pixels


def test_encodings_agree_with_opencv_and_by_hand() -> None:
    rng = np.random.default_rng(0)
    bgr = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)

    def decoded(pixels: NDArray[Any], encoding: str, **options: Any) -> NDArray[np.uint8]:
        step = pixels.strides[0]
        return decode_image(
            ImageMessage(pixels.tobytes(), encoding, 4, 6, options.pop("step", step), **options)
        )

    np.testing.assert_array_equal(decoded(bgr, "bgr8"), bgr)
    np.testing.assert_array_equal(decoded(bgr[:, :, ::-1].copy(), "rgb8"), bgr)
    alpha = np.dstack([bgr, bgr[:, :, 0]])
    np.testing.assert_array_equal(decoded(alpha, "bgra8"), bgr)
    np.testing.assert_array_equal(decoded(alpha[:, :, [2, 1, 0, 3]].copy(), "rgba8"), bgr)
    grey = bgr[:, :, 0].copy()
    np.testing.assert_array_equal(decoded(grey, "mono8"), np.dstack([grey] * 3))
    deep = grey.astype(np.uint16) * 256 + 13
    np.testing.assert_array_equal(decoded(deep, "mono16"), np.dstack([grey] * 3))
    np.testing.assert_array_equal(
        decoded(deep.astype(">u2"), "mono16", big_endian=True), np.dstack([grey] * 3)
    )


def test_rows_may_be_padded_and_must_be_there() -> None:
    bgr = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    padded = np.zeros((2, 16), np.uint8)
    padded[:, :9] = bgr.reshape(2, 9)
    np.testing.assert_array_equal(
        decode_image(ImageMessage(padded.tobytes(), "bgr8", 2, 3, 16)), bgr
    )
    with pytest.raises(SourceError, match="needs 18 bytes and has 17"):
        decode_image(ImageMessage(bgr.tobytes()[:17], "bgr8", 2, 3, 9))
    with pytest.raises(SourceError, match="encoding '32FC1' is not a picture's"):
        decode_image(ImageMessage(bgr.tobytes(), "32FC1", 2, 3, 9))


@pytest.mark.parametrize(
    ("encoding", "first_row", "second_row"),
    [
        # A red, a green and a blue pixel of a uniformly red scene: only R sites are lit.
        ("bayer_rggb8", (255, 0), (0, 0)),
        ("bayer_bggr8", (0, 0), (0, 255)),
        ("bayer_gbrg8", (0, 0), (255, 0)),
        ("bayer_grbg8", (0, 255), (0, 0)),
    ],
)
def test_bayer_patterns_name_their_first_pixels(
    encoding: str, first_row: tuple[int, int], second_row: tuple[int, int]
) -> None:
    tile = np.array([first_row, second_row], np.uint8)
    mosaic = np.tile(tile, (8, 8))
    middle = decode_image(ImageMessage(mosaic.tobytes(), encoding, 16, 16, 16))[4:12, 4:12]
    assert middle[:, :, 2].min() == 255 and middle[:, :, :2].max() == 0


@pytest.mark.parametrize(
    ("encoding", "pair"), [("yuv422", (128, 90, 128, 200)), ("yuv422_yuy2", (90, 128, 200, 128))]
)
def test_yuv_pairs_keep_their_order(encoding: str, pair: tuple[int, ...]) -> None:
    row = np.tile(np.array(pair, np.uint8), (2, 2))
    grey = decode_image(ImageMessage(row.tobytes(), encoding, 2, 4, 8))
    # Without colour a value of 16 to 235 is stretched to 0 to 255.
    assert np.ptp(grey, axis=2).max() == 0
    np.testing.assert_allclose(
        grey[0, :2, 0], [(90 - 16) * 255 / 219, (200 - 16) * 255 / 219], atol=1
    )


def test_nv12_is_light_and_colour() -> None:
    planes = np.concatenate([np.full((4, 4), 126, np.uint8), np.full((2, 4), 128, np.uint8)])
    grey = decode_image(ImageMessage(planes.tobytes(), "nv12", 4, 4, 4))
    assert grey.shape == (4, 4, 3)
    np.testing.assert_allclose(grey, (126 - 16) * 255 / 219, atol=1)
