"""Robot recordings and videos, as files of a source."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.mutators import mutate_bytes
from fuzzing.subject import Limits, Subject

START_NS = 1_700_000_000_250_000_000
STEP_NS = 100_000_000
PICTURES = 4
MOST_FRAMES = 20
ROS2_FOLDER = "ros2"
_SIZE_HW = (16, 24)
# What FFmpeg draws by chance: identities of segment and tracks, and sums over them.
_CHANCE = (rb"(\x73\xa4\x90).{16}", rb"([\x63\x73]\xc5\x88).{8}", rb"(\xbf\x84).{4}")


class Recordings(Subject):
    """MCAP, ROS 1 and ROS 2 bags, MP4, AVI and MKV, up to 20 frames of each."""

    name = "recordings"
    preload = ("cv2", "mcap.reader", "mcap_protobuf.decoder", "rosbags.highlevel", "foxglove")
    limits = Limits(memory_mb=1024)

    def write_seeds(self, folder: Path) -> None:
        write_own(folder)
        write_ros1(folder / "plain.bag", packed=False)
        write_ros1(folder / "packed.bag", packed=True)
        write_ros2(folder)
        write_json_mcap(folder / "json.mcap")
        write_videos(folder)

    def open(self, seeds: Path) -> None:
        self._files = {
            path.relative_to(seeds).as_posix(): path.read_bytes()
            for path in sorted(seeds.rglob("*"))
            if path.is_file()
        }

    def whole(self, folder: Path) -> Iterator[Path]:
        for name in self._files:
            yield self._written({}, name, folder)

    def make(self, random: Random, folder: Path) -> Path:
        name = random.choice(sorted(self._files))
        others = [other for key, other in self._files.items() if _kind(key) == _kind(name)]
        return self._written({name: mutate_bytes(self._files[name], random, others)}, name, folder)

    def attempt(self, made: Path) -> None:
        from dedos_deploy.runtime import open_source

        # Ours has two topics of pictures.
        topic = "?topic=/image" if made.name == "own.mcap" else ""
        with open_source(f"{made}{topic}") as source:
            for _ in itertools.islice(source, MOST_FRAMES):
                pass
            assert isinstance(source.warnings, tuple)

    def _written(self, changed: dict[str, bytes], name: str, folder: Path) -> Path:
        """Write a recording; a bag of ROS 2 is a folder of files."""
        root, _, inner = name.partition("/")
        names = [key for key in self._files if key.startswith(f"{root}/")] if inner else [name]
        for key in names:
            path = folder / key
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(changed.get(key, self._files[key]))
        return folder / root


def _kind(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def picture(number: int) -> Any:
    """Return the picture of a message, uint8 [16, 24, 3]."""
    import numpy as np

    return np.random.default_rng(number).integers(0, 256, (*_SIZE_HW, 3), dtype=np.uint8)


def write_own(folder: Path) -> None:
    """Write what this package records itself: MCAP, and video that can be read while it grows."""
    import numpy as np

    from dedos_deploy.runtime import SinkOptions, open_sink
    from dedos_deploy.runtime.frame import Frame
    from dedos_deploy.runtime.segmentation import Segmentation

    for name, live in (("own.mcap", True), ("own.mp4", True)):
        with open_sink(str(folder / name), SinkOptions(fps=10, live=live)) as sink:
            for number in range(PICTURES):
                seconds = number / 10
                frame = Frame(
                    picture(number),
                    number,
                    seconds,
                    "test",
                    f"{number}",
                    seconds,
                    START_NS + number * STEP_NS,
                )
                labels = np.full(_SIZE_HW, number % 2, np.uint8)
                counts = np.bincount(labels.ravel(), minlength=2).astype(np.int64)
                times = {"pre": 1.0, "engine": 1.0, "post": 1.0}
                sink.write(
                    frame,
                    Segmentation(
                        labels, labels, ("red", "green"), (0, 1), counts, 255, 1, seconds, times
                    ),
                )


def write_ros1(path: Path, *, packed: bool) -> None:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    writer = Writer(path)
    if packed:
        writer.set_compression(Writer.CompressionFormat.LZ4)
    with writer:
        connection = writer.add_connection("/image", _IMAGE, typestore=store)
        for number in range(PICTURES):
            message = ros_image(store, number, {"seq": number})
            clock_ns = START_NS + number * STEP_NS
            writer.write(connection, clock_ns, store.serialize_ros1(message, _IMAGE))


def write_ros2(folder: Path) -> None:
    """Write a bag of ROS 2 as a folder with SQLite, its file alone, and one in MCAP."""
    import shutil

    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    for plugin in (StoragePlugin.SQLITE3, StoragePlugin.MCAP):
        bag = folder / ROS2_FOLDER
        with Writer(bag, version=9, storage_plugin=plugin) as writer:
            connection = writer.add_connection("/image", _IMAGE, typestore=store)
            for number in range(PICTURES):
                message = ros_image(store, number, {})
                clock_ns = START_NS + number * STEP_NS
                writer.write(connection, clock_ns, store.serialize_cdr(message, _IMAGE))
        for file in [*bag.glob("*.db3"), *bag.glob("*.mcap")]:
            shutil.copy(file, folder / f"ros2{file.suffix}")
        if plugin is StoragePlugin.SQLITE3:
            bag.rename(folder / "kept")
        else:
            shutil.rmtree(bag)
    (folder / "kept").rename(folder / ROS2_FOLDER)


_IMAGE = "sensor_msgs/msg/Image"


def ros_image(store: Any, number: int, more: dict[str, int]) -> Any:
    """Return a message of a type store with a picture in it."""
    clock_ns = START_NS + number * STEP_NS
    stamp = store.types["builtin_interfaces/msg/Time"](clock_ns // 10**9, clock_ns % 10**9)
    header = store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera", **more)
    height, width = _SIZE_HW
    return store.types[_IMAGE](
        header=header,
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=picture(number).reshape(-1),
    )


def write_json_mcap(path: Path) -> None:
    import base64
    import json

    import cv2
    from mcap.writer import Writer

    with path.open("wb") as file:
        writer = Writer(file, chunk_size=1)
        writer.start()
        schema = writer.register_schema("foxglove.CompressedImage", "jsonschema", b"{}")
        channel = writer.register_channel("/image", "json", schema)
        for number in range(PICTURES):
            clock_ns = START_NS + number * STEP_NS
            _, encoded = cv2.imencode(".png", picture(number))
            body = {
                "timestamp": {"sec": clock_ns // 10**9, "nsec": clock_ns % 10**9},
                "frame_id": "camera",
                "format": "png",
                "data": base64.b64encode(encoded.tobytes()).decode(),
            }
            writer.add_message(channel, clock_ns, json.dumps(body).encode(), clock_ns)
        writer.finish()


def write_videos(folder: Path) -> None:
    import cv2

    for name, codec in (("plain.mp4", "mp4v"), ("plain.avi", "MJPG"), ("plain.mkv", "MJPG")):
        path = folder / name
        height, width = _SIZE_HW
        writer = cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10, (width, height)
        )
        for number in range(PICTURES):
            writer.write(picture(number))
        writer.release()
        content = path.read_bytes()
        for pattern in _CHANCE if name.endswith(".mkv") else ():
            content = re.sub(
                pattern,
                lambda found: found[1].ljust(len(found[0]), b"\1"),
                content,
                flags=re.DOTALL,
            )
        path.write_bytes(content)
