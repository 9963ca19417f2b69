"""Image messages out of MCAP files and ROS bags, without a ROS installation."""

from __future__ import annotations

import base64
import contextlib
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dedos_deploy.borders import foreign, foreign_items, plain_reason
from dedos_deploy.closing import Closing
from dedos_deploy.errors import SourceError, listed, nearest
from dedos_deploy.files import open_regular
from dedos_deploy.runtime.sources.bag_chunks import bound_chunks, take_over_messages, zstd_opened
from dedos_deploy.runtime.sources.bag_decoders import McapDecoders
from dedos_deploy.runtime.sources.bag_images import IMAGE_TYPES, ImageMessage
from dedos_deploy.runtime.sources.mcap_messages import (
    Contents,
    messages_as_logged,
    messages_as_written,
    read_contents,
)

ACTIVE = ".active"
"""At the end of a ROS 1 bag's name until its recorder closes it."""


@dataclass(frozen=True, eq=False)
class BagMessage:
    """One message of an image topic."""

    logged_ns: int
    """When it was recorded, by the recorder's clock; at most 2**63 where there is a picture."""

    stamp_ns: int
    """Of the message's header, in 0 to 2**63; 0 if it has none."""

    image: ImageMessage | SourceError
    """The picture, or why the message cannot be decoded."""


class BagReader(Closing):
    """Messages of one image topic; topic: its name; count: how many there are, None if unknown;
    warnings: sentences about what was wrong although reading went on."""

    topic: str
    count: int | None = None
    warnings: tuple[str, ...] = ()

    @abstractmethod
    def __iter__(self) -> Iterator[BagMessage]:
        """Yield the messages in the order of their logging. Raises SourceError."""


def open_bag_reader(path: Path, *, topic: str | None) -> BagReader:
    """Return the reader of `topic`, or of the only image topic there is. Raises SourceError."""
    if path.suffix.lower() == ".mcap":
        return _McapReader(path, topic)
    return _RosReader(path, topic)


def choose_topic(path: Path, topics: Iterable[tuple[str, str]], topic: str | None) -> str:
    """Return the image topic to read. topics: all there are, each with the plain name of its type.
    Raises SourceError naming them."""
    topics = sorted(set(topics))
    images = sorted({name for name, kind in topics if kind in IMAGE_TYPES})
    if topic is not None and topic in images:
        return topic
    if not images:
        others = listed(f"{name[:40]} ({kind[:36]})" for name, kind in topics)
        raise SourceError(
            f"recording {str(path)!r} has no image topic; images are {', '.join(IMAGE_TYPES)}, and it "
            f"has {others or 'nothing'}"
        )
    names = listed(images)
    if topic is not None:
        raise SourceError(
            f"recording {str(path)!r} has no image topic {topic!r}{nearest(topic, images)}; it has "
            f"{names}"
        )
    if len(images) > 1:
        raise SourceError(
            f"recording {str(path)!r} has {len(images)} image topics, {names}; choose one with "
            f"{path.name}?topic={images[0]}"
        )
    return images[0]


def plain_type(name: str) -> str:
    """Return a message type without ROS 2's `/msg/`.

    >>> plain_type("sensor_msgs/msg/Image")
    'sensor_msgs/Image'
    """
    return name.replace("/msg/", "/")


class _RosReader(BagReader):
    """ROS 1 `.bag`, ROS 2 `.db3` and folders, through rosbags."""

    def __init__(self, path: Path, topic: str | None) -> None:
        from rosbags.highlevel import AnyReader
        from rosbags.rosbag1 import Reader as Rosbag1Reader
        from rosbags.typesys import Stores, get_typestore

        self._refused = partial(_damaged, path)
        self._opened = contextlib.ExitStack()
        if path.suffix == ACTIVE:
            raise _unopened(path, "it was not closed")
        # Recordings without definitions of their own are of ROS 2 before Iron.
        store = get_typestore(Stores.ROS2_HUMBLE)
        with foreign(partial(_unopened, path)):
            self._reader = self._opened.enter_context(AnyReader([path], default_typestore=store))
        (reader,) = self._reader.readers
        self._is_packed = False
        if isinstance(reader, Rosbag1Reader):
            bound_chunks(reader)
        else:
            self._is_packed = take_over_messages(reader)
        # A topic has a connection for each of its publishers.
        kinds = [(one.topic, plain_type(one.msgtype)) for one in self._reader.connections]
        try:
            self.topic = choose_topic(path, kinds, topic)
            self._connections = [
                one
                for one, (name, kind) in zip(self._reader.connections, kinds, strict=True)
                if name == self.topic and kind in IMAGE_TYPES
            ]
            # In a ROS 2 bag it stands in a text file, and may be anything.
            with foreign(self._refused):
                self.count = sum(operator.index(one.msgcount) for one in self._connections)
        except SourceError:
            self.close()
            raise

    def __iter__(self) -> Iterator[BagMessage]:
        messages = self._reader.messages(self._connections)
        for publisher, logged_ns, raw in foreign_items(messages, self._refused):
            kind = publisher.msgtype
            yield decoded_message(kind, partial(self._decoded, raw, kind), logged_ns)

    def _decoded(self, raw: bytes, kind: str) -> Any:
        return self._reader.deserialize(zstd_opened(raw) if self._is_packed else raw, kind)

    def close(self) -> None:
        with foreign(self._refused):
            self._opened.close()


class _McapReader(BagReader):
    """MCAP with messages of ROS 1, ROS 2, Protobuf or JSON, also when its recorder was killed."""

    def __init__(self, path: Path, topic: str | None) -> None:
        self._path = path
        self._refused = partial(_damaged, path)
        try:
            self._file = open_regular(path)
        except OSError as error:
            raise _damaged(path, plain_reason(error)) from error
        self._contents = self._index()
        try:
            if self._contents is not None and self._contents.channels:
                self._choose(self._contents, topic)
            else:
                self.topic = topic or self._first_topic()
                self.warnings = (
                    f"recording {str(path)!r} has no index, its recorder may have been killed; what "
                    "was written is read",
                )
        except SourceError:
            self.close()
            raise

    def _index(self) -> Contents | None:
        """Return the recording's own index, None where it has none that can be read."""
        try:
            with foreign(self._refused):
                return read_contents(self._file)
        except SourceError:
            # Without its end the index is missing, and what was written is still there.
            return None

    def _choose(self, contents: Contents, topic: str | None) -> None:
        kinds = [
            (channel.topic, plain_type(contents.schemas[channel.schema_id].name))
            for channel in contents.channels.values()
            if channel.schema_id in contents.schemas
        ]
        self.topic = choose_topic(self._path, kinds, topic)
        if contents.counts is not None:
            publishers = [one.id for one in contents.channels.values() if one.topic == self.topic]
            self.count = sum(contents.counts.get(number, 0) for number in publishers)

    def _messages(self) -> Iterator[tuple[Any, Any, Any]]:
        # Without an index all would have to be in memory to be sorted.
        if self._contents is not None and self._contents.chunks:
            messages = messages_as_logged(self._file, self._contents, self.topic)
        else:
            messages = messages_as_written(self._file, self.topic)
        yield from foreign_items(messages, self._refused)

    def _first_topic(self) -> str:
        everything = messages_as_written(self._file, None)
        try:
            for schema, channel, _ in foreign_items(everything, self._refused):
                if schema is not None and plain_type(schema.name) in IMAGE_TYPES:
                    return str(channel.topic)
        except SourceError as error:
            if error.__cause__ is None:
                raise  # more than is read, not damage
        raise SourceError(
            f"recording {str(self._path)!r} is damaged or empty: no image was found in it"
        )

    def __iter__(self) -> Iterator[BagMessage]:
        from mcap.exceptions import EndOfFile

        decoders = McapDecoders()
        try:
            for schema, channel, message in self._messages():
                kind = schema.name if schema else ""
                decode = partial(decoders.decode, schema, channel, message.data)
                yield decoded_message(kind, decode, message.log_time)
        except SourceError as error:
            # The recorder was killed in the middle of a record; warned of when it was opened.
            if not (isinstance(error.__cause__, (EndOfFile, EOFError)) and self.warnings):
                raise

    def close(self) -> None:
        self._file.close()


def decoded_message(kind: str, decode: Callable[[], Any], logged_ns: int) -> BagMessage:
    """Return a message of an image type, with what is wrong where it cannot be decoded."""
    try:
        with foreign(
            lambda why: SourceError(f"a message of type {kind[:60]!r} is damaged ({why})")
        ):
            message = decode()
        return bag_message(kind, message, logged_ns)
    except SourceError as error:
        return BagMessage(logged_ns, 0, error)


def bag_message(kind: str, message: Any, logged_ns: int) -> BagMessage:
    """Return what a decoded message of an image type holds. Raises SourceError."""
    try:
        fields = _Fields(message)
        data = fields("data")
        if isinstance(data, str):
            data = base64.b64decode(data)
        content = np.frombuffer(data, np.uint8)
        # Foxglove's messages have the fields of a header themselves.
        header = fields("header", None)
        about = fields if header is None else _Fields(header)
        stamp_ns = _stamp_ns(about("timestamp" if header is None else "stamp", None))
        if not (0 <= stamp_ns < 2**63 and 0 <= logged_ns < 2**63):
            raise ValueError("a time outside 64 bits")
        image = ImageMessage(content, coordinate_frame=str(about("frame_id", "")))
        if IMAGE_TYPES[plain_type(kind)] == "compressed":
            image = replace(image, format=str(fields("format", "")))
        else:
            image = replace(
                image,
                encoding=str(fields("encoding")),
                height=int(fields("height")),
                width=int(fields("width")),
                step=int(fields("step")),
                big_endian=bool(fields("is_bigendian", False)),
            )
        return BagMessage(logged_ns, stamp_ns, image)
    # What a message holds may be of any type: JSON has a text where a number belongs.
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise SourceError(
            f"a message of type {kind[:60]!r} lacks what images have ({type(error).__name__})"
        ) from error


class _Fields:
    """Fields of a message by name, whether it is a dict or an object."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __call__(self, name: str, *default: Any) -> Any:
        if isinstance(self._message, dict):
            return self._message.get(name, *default) if default else self._message[name]
        return getattr(self._message, name, *default)


def _stamp_ns(stamp: Any) -> int:
    if stamp is None:
        return 0
    parts = _Fields(stamp)
    seconds = parts("sec", None)
    if seconds is None:
        seconds = parts("seconds", 0)
    for name in ("nanosec", "nanos", "nsec"):
        nanoseconds = parts(name, None)
        if nanoseconds is not None:
            return int(seconds) * 10**9 + int(nanoseconds)
    return int(seconds) * 10**9


def _damaged(path: Path, reason: str) -> SourceError:
    return SourceError(
        f"recording {str(path)!r} cannot be read ({reason}); it may be damaged or still being "
        "written"
    )


def _unopened(path: Path, reason: str) -> SourceError:
    """Return the error for a recording that gave nothing, with the way to mend what a kill leaves."""
    if path.is_dir():
        return SourceError(
            f"recording {str(path)!r} cannot be read ({reason}); if its recorder was killed, run: "
            f"ros2 bag reindex {path}, or name the file in it"
        )
    if path.suffix in (".bag", ACTIVE):
        return SourceError(
            f"recording {str(path)!r} cannot be read ({reason}); if its recorder was killed, it has no "
            f"index yet, run: rosbag reindex {path}"
        )
    return _damaged(path, reason)
