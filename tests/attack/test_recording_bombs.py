"""Recordings whose compressed chunks would become gigabytes: refused in bounded memory."""

from __future__ import annotations

import base64
import bz2
import contextlib
import json
import sqlite3
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from memory_rise import peak_mb

sys.path += [str(Path(__file__).parents[1] / "runtime")]

from test_bags import write_ros  # noqa: E402

from dedos_deploy.errors import SourceError  # noqa: E402
from dedos_deploy.runtime import open_source
from dedos_deploy.runtime.sources import bag_chunks, mcap_messages
from dedos_deploy.runtime.sources.bag_chunks import bz2_opened, lz4_opened
from dedos_deploy.runtime.sources.bag_readers import open_bag_reader

MAGIC = b"\x89MCAP0\r\n"
LARGE = 3 << 30
STEP = bytes(1 << 22)


def zstd_of(size: int, *, says_size: bool = True) -> bytes:
    opened = zstandard.ZstdCompressor(level=1, write_content_size=says_size)
    packer = opened.compressobj(size=size if says_size else -1)
    parts = [packer.compress(head(size))]
    parts += [packer.compress(STEP) for _ in range(size // len(STEP) - 1)]
    parts += [packer.compress(STEP[: len(STEP) - len(head(size))]), packer.flush()]
    return b"".join(parts)


def lz4_of(size: int) -> bytes:
    with lz4.frame.LZ4FrameCompressor(block_size=lz4.frame.BLOCKSIZE_MAX4MB) as packer:
        parts = [packer.begin(), packer.compress(head(size))]
        parts += [packer.compress(STEP) for _ in range(size // len(STEP))]
        return b"".join([*parts, packer.flush()])


def head(size: int) -> bytes:
    """Return the start of an unknown record that fills a chunk."""
    return b"\x99" + struct.pack("<Q", size - 9)


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def record(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + struct.pack("<Q", len(content)) + content


def mcap_of(compression: str, data: bytes, says: int, *, summary_start: int = 0) -> bytes:
    chunk = struct.pack("<QQQI", 0, 1, says, 0) + text(compression)
    chunk += struct.pack("<Q", len(data)) + data
    parts = [record(1, text("") + text("x")), record(6, chunk), record(15, bytes(4))]
    return b"".join([MAGIC, *parts, record(2, struct.pack("<QQI", summary_start, 0, 0)), MAGIC])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("says", [LARGE, 100, 0])
@pytest.mark.parametrize("summary_start", [0, 8])
def test_a_zstd_chunk_of_gigabytes(says: int, summary_start: int, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(mcap_of("zstd", zstd_of(LARGE), says, summary_start=summary_start))
    assert path.stat().st_size < 200_000
    rise, sentence = peak_mb(path, limit_gb=10)
    assert rise < 200, rise
    assert "has more than 268435456 bytes when it is opened" in sentence


@pytest.mark.timeout(180)
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("says", [LARGE // 3, 1 << 20])
def test_a_chunk_that_does_not_say_its_size(compression: str, says: int, tmp_path: Path) -> None:
    size = LARGE // 3
    data = lz4_of(size) if compression == "lz4" else zstd_of(size, says_size=False)
    path = tmp_path / "a.mcap"
    path.write_bytes(mcap_of(compression, data, says))
    rise, sentence = peak_mb(path, limit_gb=10)
    assert rise < 200, rise
    assert "chunk of the recording" in sentence or "damaged or empty" in sentence


@pytest.mark.parametrize("opened", [bz2_opened, lz4_opened])
def test_chunks_are_opened_up_to_the_limit(
    opened: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = {bz2_opened: bz2.compress, lz4_opened: lz4.frame.compress}[opened](b"a" * 70_000)
    assert opened(packed) == b"a" * 70_000
    monkeypatch.setattr(bag_chunks, "MAX_CHUNK", 69_999)
    with pytest.raises(SourceError, match="breaks off, or has more bytes"):
        opened(packed)
    with pytest.raises(SourceError, match="breaks off"):
        bag_chunks.lz4_opened(lz4.frame.compress(b"abc" * 9)[:-8])


@pytest.mark.parametrize("compression", ["BZ2", "LZ4"])
def test_chunks_of_a_bag_are_opened_within_the_limit(
    compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rosbags.rosbag1 import Writer

    start = Writer.open

    def compressing(writer: Writer) -> None:
        writer.set_compression(Writer.CompressionFormat[compression])
        start(writer)

    monkeypatch.setattr(Writer, "open", compressing)
    path = write_ros(tmp_path / "a.bag", version=1)
    with open_source(str(path)) as source:
        assert len(list(source)) == 5
    monkeypatch.setattr(bag_chunks, "MAX_CHUNK", 5000)
    with open_source(str(path)) as source, pytest.raises(SourceError, match="has more bytes"):
        list(source)


def packed_ros2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a ROS 2 bag whose messages are compressed one by one."""
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer

    start = Writer.open

    def compressing(writer: Writer) -> None:
        writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
        start(writer)

    monkeypatch.setattr(Writer, "open", compressing)
    return write_ros(folder, version=2)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("says_size", [True, False])
def test_messages_of_a_ros_2_bag_that_are_gigabytes(
    says_size: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed_ros2(tmp_path / "drive", monkeypatch)
    with open_source(str(path)) as source:
        assert len(list(source)) == 5
    with contextlib.closing(sqlite3.connect(next(path.glob("*.db3*")))) as database:
        data = zstd_of(LARGE, says_size=says_size)
        database.execute("UPDATE messages SET data = ?", (data,))
        database.commit()
    rise, sentence = peak_mb(path, limit_gb=10)
    assert rise < (200 if says_size else 900), rise
    assert "none of the 5 messages" in sentence and "when it is opened" in sentence


@pytest.mark.parametrize("compression", ["LZ4", "ZSTD", "NONE"])
def test_honest_recordings_are_read_in_the_order_of_their_logging(
    compression: str, tmp_path: Path
) -> None:
    from mcap.writer import CompressionType, Writer

    path = tmp_path / "a.mcap"
    pixels = base64.b64encode(bytes(12)).decode()
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=300, compression=CompressionType[compression])
        writer.start()
        schema = writer.register_schema("foxglove.RawImage", "jsonschema", b"{}")
        channels = [writer.register_channel(topic, "json", schema) for topic in ("/a", "/b")]
        for time_ns in (5, 3, 9, 3, 1, 7, 8, 2):
            body = {"timestamp": {"sec": time_ns, "nsec": 0}, "encoding": "bgr8", "data": pixels}
            content = json.dumps(body | {"width": 2, "height": 2, "step": 6}).encode()
            for channel in channels:
                writer.add_message(channel, time_ns, content, time_ns)
        writer.finish()
    with open_bag_reader(path, topic="/b") as reader:
        found = [message.stamp_ns // 10**9 for message in reader]
    assert found == [1, 2, 3, 3, 5, 7, 8, 9] and reader.count == 8


def write_chunks(path: Path, times: list[tuple[int, ...]]) -> Path:
    """Write an MCAP file with a chunk of pictures for each of `times`, in nanoseconds."""
    from mcap.writer import Writer

    with path.open("wb") as file:
        writer = Writer(file, chunk_size=1)  # a chunk ends with the first message beyond this
        writer.start()
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", b"uint8[] data")
        channel = writer.register_channel("/image", "cdr", schema)
        for chunk in times:
            for time_ns in chunk:
                writer._Writer__chunk_size = 1 if time_ns == chunk[-1] else 1 << 20
                writer.add_message(channel, time_ns, bytes(1000), time_ns)
        writer.finish()
    return path


def times_of(path: Path) -> list[int]:
    with path.open("rb") as file:
        contents = mcap_messages.read_contents(file)
        assert contents is not None
        found = mcap_messages.messages_as_logged(file, contents, "/image")
        return [message.log_time for _, _, message in found]


def test_messages_come_in_their_order_from_chunks_that_overlap(tmp_path: Path) -> None:
    path = write_chunks(tmp_path / "o.mcap", [(5, 9), (1, 6), (6, 7), (2, 3)])
    assert times_of(path) == [1, 2, 3, 5, 6, 6, 7, 9]


def test_messages_of_one_time_are_not_held_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_chunks(tmp_path / "s.mcap", [(7,)] * 50)
    monkeypatch.setattr(mcap_messages, "MAX_HELD", 2000)
    assert times_of(path) == [7] * 50


def test_chunks_that_overlap_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_chunks(tmp_path / "o.mcap", [(number, 1000 + number) for number in range(50)])
    monkeypatch.setattr(mcap_messages, "MAX_HELD", 20_000)
    with pytest.raises(SourceError, match="overlap in time by more than 20000 bytes"):
        times_of(path)
