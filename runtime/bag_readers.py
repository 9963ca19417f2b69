"""Image messages out of MCAP files and ROS bags, without a ROS installation."""

from __future__ import annotations

import base64
import binascii
import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedos_deploy.closing import Closing
from dedos_deploy.errors import SourceError, nearest
from dedos_deploy.runtime.bag_images import IMAGE_TYPES, ImageMessage


@dataclass(frozen=True, eq=False)
class BagMessage:
    """clock_ns: of the message's header, its logging time where that is zero; image: the picture."""

    clock_ns: int
    image: ImageMessage


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


def choose_topic(path: Path, images: Mapping[str, object], topic: str | None) -> str:
    """Return the image topic to read. Raises SourceError naming those there are."""
    if topic is not None and topic in images:
        return topic
    if not images:
        raise SourceError(
            f"recording {str(path)!r} has no image topic; images are {', '.join(IMAGE_TYPES)}"
        )
    names = ", ".join(sorted(images))
    if topic is not None:
        raise SourceError(
            f"recording {str(path)!r} has no image topic {topic!r}{nearest(topic, images)}; it has "
            f"{names}"
        )
    if len(images) > 1:
        raise SourceError(
            f"recording {str(path)!r} has {len(images)} image topics, {names}; choose one with "
            f"{path.name}?topic={next(iter(sorted(images)))}"
        )
    return next(iter(images))


def plain_type(name: str) -> str:
    """Return a message type without ROS 2's `/msg/`.

    >>> plain_type("sensor_msgs/msg/Image")
    'sensor_msgs/Image'
    """
    return name.replace("/msg/", "/")


class _RosReader(BagReader):
    """ROS 1 `.bag`, ROS 2 `.db3` and folders, through rosbags."""

    def __init__(self, path: Path, topic: str | None) -> None:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_typestore

        self._path = path
        self._opened = contextlib.ExitStack()
        try:
            # Recordings without definitions of their own are of ROS 2 before Iron.
            store = get_typestore(Stores.ROS2_HUMBLE)
            reader = AnyReader([path], default_typestore=store)
            self._reader = self._opened.enter_context(reader)
        except (AnyReaderError, OSError, ValueError, KeyError) as error:
            raise _damaged(path, error) from error
        images = {
            one.topic: one for one in self._reader.connections
            if plain_type(one.msgtype) in IMAGE_TYPES
        }  # fmt: skip
        try:
            self.topic = choose_topic(path, images, topic)
        except SourceError:
            self.close()
            raise
        self._connection = images[self.topic]
        self.count = self._connection.msgcount

    def __iter__(self) -> Iterator[BagMessage]:
        kind = self._connection.msgtype
        try:
            for _, logged_ns, raw in self._reader.messages([self._connection]):
                yield bag_message(kind, self._reader.deserialize(raw, kind), logged_ns)
        except SourceError:
            raise
        except Exception as error:  # each of the formats underneath has errors of its own
            raise _damaged(self._path, error) from error

    def close(self) -> None:
        self._opened.close()


class _McapReader(BagReader):
    """MCAP with messages of ROS 1, ROS 2, Protobuf or JSON, also when its recorder was killed."""

    def __init__(self, path: Path, topic: str | None) -> None:
        from mcap.exceptions import McapError
        from mcap.reader import NonSeekingReader, SeekingReader

        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise _damaged(path, error) from error
        try:
            summary = SeekingReader(self._file).get_summary()
        except (McapError, EOFError, OSError, ValueError):
            # Without its end the index is missing, and what was written is still there.
            summary = None
        self._file.seek(0)
        self._seeking = summary is not None and bool(summary.chunk_indexes)
        self._make = SeekingReader if self._seeking else NonSeekingReader
        try:
            if summary is not None and summary.channels:
                images = {
                    channel.topic: channel for channel in summary.channels.values()
                    if channel.schema_id in summary.schemas
                    and plain_type(summary.schemas[channel.schema_id].name) in IMAGE_TYPES
                }  # fmt: skip
                self.topic = choose_topic(path, images, topic)
                if summary.statistics is not None:
                    counts = summary.statistics.channel_message_counts
                    self.count = counts.get(images[self.topic].id)
            else:
                self.topic = topic or self._first_topic()
                self.warnings = (
                    f"recording {str(path)!r} has no index, its recorder may have been killed; what "
                    "was written is read",
                )
        except SourceError:
            self.close()
            raise

    def _first_topic(self) -> str:
        from mcap.exceptions import McapError

        with contextlib.suppress(McapError, EOFError):
            for schema, channel, _ in self._make(self._file).iter_messages(log_time_order=False):
                if schema is not None and plain_type(schema.name) in IMAGE_TYPES:
                    return channel.topic
        raise SourceError(
            f"recording {str(self._path)!r} is damaged or empty: no image was found in it"
        )

    def __iter__(self) -> Iterator[BagMessage]:
        from mcap.exceptions import EndOfFile, McapError

        self._file.seek(0)
        reader = self._make(self._file, decoder_factories=_decoders())
        # Without an index all would have to be in memory to be sorted.
        messages = reader.iter_decoded_messages(topics=[self.topic], log_time_order=self._seeking)
        try:
            for schema, _, message, decoded in messages:
                yield bag_message(schema.name if schema else "", decoded, message.log_time)
        except (EndOfFile, EOFError):
            return
        except SourceError:
            raise
        except (McapError, ValueError, KeyError) as error:
            raise _damaged(self._path, error) from error

    def close(self) -> None:
        self._file.close()


def _decoders() -> list[Any]:
    import json

    from mcap.decoder import DecoderFactory
    from mcap_protobuf.decoder import DecoderFactory as Protobuf
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    class Ros(DecoderFactory):
        def decoder_for(self, message_encoding: str, schema: Any) -> Any:
            if schema is None or schema.encoding not in ("ros1msg", "ros2msg"):
                return None
            name = schema.name if "/msg/" in schema.name else schema.name.replace("/", "/msg/")
            store = get_typestore(Stores.EMPTY)
            store.register(get_types_from_msg(schema.data.decode(), name))
            read = store.deserialize_ros1 if message_encoding == "ros1" else store.deserialize_cdr
            return lambda data: read(data, name)

    class Json(DecoderFactory):
        def decoder_for(self, message_encoding: str, schema: Any) -> Any:
            return json.loads if message_encoding == "json" else None

    return [Protobuf(), Ros(), Json()]


def bag_message(kind: str, message: Any, logged_ns: int) -> BagMessage:
    """Return what a decoded message of an image type holds. Raises SourceError."""
    try:
        fields = _Fields(message)
        data = fields("data")
        if isinstance(data, str):
            data = base64.b64decode(data)
        if IMAGE_TYPES[plain_type(kind)] == "compressed":
            return BagMessage(_stamp_ns(fields) or logged_ns, ImageMessage(data))
        return BagMessage(
            _stamp_ns(fields) or logged_ns,
            ImageMessage(
                data, str(fields("encoding")), int(fields("height")), int(fields("width")),
                int(fields("step")), bool(fields("is_bigendian", False)),
            ),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, binascii.Error) as error:
        raise SourceError(f"a message of type {kind} lacks what images have: {error}") from error


class _Fields:
    """Fields of a message by name, whether it is a dict or an object."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __call__(self, name: str, *default: Any) -> Any:
        if isinstance(self._message, dict):
            return self._message.get(name, *default) if default else self._message[name]
        return getattr(self._message, name, *default)


def _stamp_ns(fields: _Fields) -> int:
    header = fields("header", None)
    stamp = fields("timestamp", None) if header is None else _Fields(header)("stamp")
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


def _damaged(path: Path, error: Exception) -> SourceError:
    return SourceError(
        f"recording {str(path)!r} cannot be read ({str(error) or type(error).__name__}); it may be "
        "damaged or still being written"
    )
