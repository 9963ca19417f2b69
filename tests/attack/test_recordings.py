"""Recordings and pictures under attack: every damage is one sentence, or a message that is skipped."""

from __future__ import annotations

import json
import os
import random
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

sys.path += [str(Path(__file__).parents[1] / "runtime")]

from test_bags import write_foxglove_mcap, write_json_mcap, write_ros  # noqa: E402

from dedos_deploy.errors import BadInputError, SourceError  # noqa: E402
from dedos_deploy.label_files import read_label_values  # noqa: E402
from dedos_deploy.pictures import open_picture  # noqa: E402
from dedos_deploy.runtime import open_source  # noqa: E402
from dedos_deploy.runtime.sources.bag_images import ImageMessage, decode_image

REFUSED = re.compile("is not a readable image|pixels, at most .* are read")
POSIX = pytest.mark.skipif(os.name == "nt", reason="named pipes")
SPECIAL = (b"\xff" * 4, b"\x00" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\xff" * 8 + b"\x7f")


def mutant(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(changed))
        match rng.choice(["bit", "byte", "special", "insert", "remove", "copy"]):
            case "bit":
                changed[at] ^= 1 << rng.randrange(8)
            case "byte":
                changed[at] = rng.randrange(256)
            case "special":
                word = rng.choice(SPECIAL)
                changed[at : at + len(word)] = word
            case "insert":
                changed[at:at] = rng.choice(SPECIAL)
            case "remove":
                del changed[at : at + rng.choice([1, 4, 16])]
            case "copy":
                other = rng.randrange(len(changed))
                changed[at : at + 16] = changed[other : other + 16]
    return bytes(changed)


def frames_of(path: Path | str) -> int | str:
    """Return the number of frames of a source, or the sentence that it was refused with."""
    try:
        with open_source(str(path)) as source:
            return len(list(source))
    except SourceError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 1000, message
        return message


WRITERS: dict[str, Callable[[Path], Path]] = {
    "json.mcap": lambda folder: write_json_mcap(folder / "json.mcap"),
    "foxglove.mcap": lambda folder: write_foxglove_mcap(folder / "foxglove.mcap"),
    "ros2.mcap": lambda folder: next(write_ros(folder / "ros2", version=3).glob("*.mcap")),
    "ros1.bag": lambda folder: write_ros(folder / "ros1.bag", version=1),
    "ros2.db3": lambda folder: next(write_ros(folder / "ros2", version=2).glob("*.db3")),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_recordings(kind: str, tmp_path: Path) -> None:
    data = WRITERS[kind](tmp_path).read_bytes()
    rng = random.Random(kind)
    results = []
    for number in range(60):
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(mutant(data, rng))
        results.append(frames_of(path))
    assert any(isinstance(result, str) for result in results)
    assert any(isinstance(result, int) and result > 0 for result in results)


@pytest.mark.parametrize("count", ["many", "0.5", "[1]", "null", "'5'"])
def test_a_count_of_messages_that_is_no_number(count: str, tmp_path: Path) -> None:
    folder = write_ros(tmp_path / "drive", version=2)
    path = folder / "metadata.yaml"
    path.write_text(path.read_text().replace("message_count: 5", f"message_count: {count}"))
    assert "cannot be read" in str(frames_of(folder))


@pytest.mark.timeout(60)
def test_damaged_metadata_of_a_ros2_bag(tmp_path: Path) -> None:
    folder = write_ros(tmp_path / "drive", version=2)
    data = (folder / "metadata.yaml").read_bytes()
    rng = random.Random(0)
    results = []
    for _ in range(40):
        (folder / "metadata.yaml").write_bytes(mutant(data, rng))
        results.append(frames_of(folder))
    assert sum(isinstance(result, str) for result in results) > 5


# Named kinds


def ros_image(height: int = 4) -> bytes:
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    types: Any = store.types
    stamp = types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="cam")
    image = types["sensor_msgs/msg/Image"](
        header=header,
        height=height,
        width=4,
        encoding="bgr8",
        is_bigendian=0,
        step=12,
        data=np.full(12 * height, 77, np.uint8),
    )
    return bytes(store.serialize_cdr(image, "sensor_msgs/msg/Image"))


def write_mcap(path: Path, messages: list[bytes], **kind: Any) -> Path:
    from mcap.writer import Writer

    settings = {"encoding": "cdr", "schema": "sensor_msgs/msg/Image", "text": b"", **kind}
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema(
            settings["schema"], settings.get("schema_encoding", "ros2msg"), settings["text"]
        )
        channel = writer.register_channel("/img", settings["encoding"], schema)
        for number, content in enumerate(messages):
            writer.add_message(channel, number, content, number)
        writer.finish()
    return path


@pytest.mark.parametrize("schema_encoding", ["", "ros2msg"])
def test_a_schema_without_text_of_a_type_that_everybody_has_is_read(
    schema_encoding: str, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "d.mcap", [ros_image()] * 3, schema_encoding=schema_encoding)
    with open_source(str(path)) as source:
        frames = list(source)
    assert len(frames) == 3 and (frames[0].frame_bgr == 77).all()


def test_a_short_message_is_skipped_and_counted(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "d.mcap", [ros_image(), ros_image()[:40], ros_image()])
    with open_source(str(path)) as source:
        assert [frame.frame_id for frame in source] == [0, 2]
        assert source.drops == {"unreadable": 1}
        assert "is damaged" in source.warnings[0]


def test_a_recording_without_one_picture_is_refused(tmp_path: Path) -> None:
    short = write_mcap(tmp_path / "d.mcap", [ros_image()[:40]] * 3)
    assert "none of the 3 messages" in str(frames_of(short))
    depth = write_mcap(tmp_path / "e.mcap", [ros_image().replace(b"bgr8", b"32F8")])
    assert "its encoding '32F8' is not a picture's" in str(frames_of(depth))


def test_a_damaged_chunk_is_said(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "d.mcap", [ros_image(64)] * 50)
    data = bytearray(path.read_bytes())
    start = data.index(b"\x28\xb5\x2f\xfd")  # of a zstd frame
    data[start + 4 : start + 40] = b"\xff" * 36
    path.write_bytes(data)
    assert "cannot be read (ZstdError)" in str(frames_of(path))


@pytest.mark.parametrize(
    "kind",
    [
        {"schema": "sensor_msgs/msg/Image", "text": b"uint8[ data\n(("},
        {
            "schema": "foxglove.RawImage",
            "schema_encoding": "protobuf",
            "encoding": "protobuf",
            "text": b"\xff\xff\xff",
        },
        {"schema": "foxglove.RawImage", "schema_encoding": "flatbuffer", "encoding": "flatbuffer"},
        {"schema": "foxglove_msgs/msg/RawImage"},
    ],
)
def test_schemas_that_cannot_be_used(kind: dict[str, Any], tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "d.mcap", [ros_image()] * 2, **kind)
    assert "none of the 2 messages" in str(frames_of(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"height": "tall"},
        {"height": -1},
        {"height": 1e308},
        {"data": [1, {}]},
        {"data": "%"},
        {"data": None},
        {"step": 10**400},
        {"width": 2**31},
        {"encoding": []},
        {"timestamp": {"sec": "NaN", "nsec": 1}},
        {"timestamp": {"sec": 10**30, "nsec": 1}},
    ],
)
def test_fields_of_any_type(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = {
        "timestamp": {"sec": 1, "nsec": 2},
        "data": "AAAA",
        "encoding": "bgr8",
        "height": 1,
        "width": 1,
        "step": 3,
    }
    kind = {"schema": "foxglove.RawImage", "schema_encoding": "jsonschema", "encoding": "json"}
    messages = [json.dumps(body).encode() for body in (whole, whole | changes, whole)]
    with open_source(str(write_mcap(tmp_path / "d.mcap", messages, **kind))) as source:
        assert [frame.frame_id for frame in source] == [0, 2]


@pytest.mark.parametrize("encoding", ["nv12", "uyvy", "bayer_rggb8", "yuv422_yuy2"])
def test_sides_that_an_encoding_cannot_have(encoding: str) -> None:
    for height, width in ((1, 1), (3, 5), (1, 4), (2, 3)):
        message = ImageMessage(bytes(4 * height * width), encoding, height, width)
        try:
            assert decode_image(message).shape == (height, width, 3)
        except SourceError as error:
            assert "cannot be turned to BGR" in str(error) or "needs" in str(error)


# Pictures


def bmp_of(width: int, height: int) -> bytes:
    """A BMP of a few bytes that claims a size."""
    size = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + size + bytes(100)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".bmp"])
def test_damaged_pictures(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    rng = random.Random(suffix)
    for number in range(60):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(mutant(data, rng))
        found = frames_of(path)
        assert found == 1 or REFUSED.search(str(found))
        for read in (open_picture, read_label_values):
            try:
                read(path)
            except BadInputError as error:
                assert path.name in str(error)


def test_a_picture_that_claims_more_than_there_can_be(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(bmp_of(1 << 20, 1 << 20))
    # OpenCV raises here, where it returns nothing for other damage.
    with pytest.raises(cv2.error):
        cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert f"has {1 << 40} pixels, at most" in str(frames_of(path))
    with pytest.raises(BadInputError, match=r"a\.png"):
        open_picture(path)
    with pytest.raises(SourceError, match="compressed picture has"):
        decode_image(ImageMessage(path.read_bytes()))


# What is no file


@POSIX
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a.mcap", "a.bag", "a.db3", "a"])
def test_pipes_are_no_sources(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(SourceError, match="it is a named pipe, not a regular file"):
        open_source(str(tmp_path / name))


@POSIX
@pytest.mark.timeout(60)
def test_a_pipe_in_the_folder_of_a_bag(tmp_path: Path) -> None:
    folder = write_ros(tmp_path / "drive", version=2)
    (database,) = folder.glob("*.db3")
    database.unlink()
    os.mkfifo(database)
    with pytest.raises(SourceError, match="it is a named pipe, not a regular file"):
        open_source(str(folder))


@POSIX
@pytest.mark.timeout(60)
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_devices_other_than_cameras_are_no_sources(device: str) -> None:
    with pytest.raises(SourceError, match="it is a device, not a regular file"):
        open_source(device)
