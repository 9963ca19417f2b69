"""Messages inside MCAP files, from bytes: Protobuf, JSON, and what ROS 1 and ROS 2 serialize."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dedos_deploy.errors import SourceError, require

Decode = Callable[[bytes], Any]

_ROS = {"ros1": "ros1msg", "cdr": "ros2msg"}
"""Encoding of a schema's text per encoding of its messages."""


class McapDecoders:
    """Decoders by channel, each made at the channel's first message."""

    def __init__(self) -> None:
        self._decoders: dict[int, Decode] = {}

    def decode(self, schema: Any, channel: Any, data: bytes) -> Any:
        """Return the message in `data`. Raises SourceError, and whatever the libraries raise."""
        if channel.id not in self._decoders:
            self._decoders[channel.id] = _decoder(schema, channel.message_encoding)
        return self._decoders[channel.id](data)


def _decoder(schema: Any, encoding: str) -> Decode:
    if encoding == "json":
        return json.loads
    if schema is not None and encoding in _ROS and schema.encoding in (_ROS[encoding], ""):
        return _ros(schema, encoding)
    if schema is not None and encoding == "protobuf":
        from mcap_protobuf.decoder import DecoderFactory

        found = DecoderFactory().decoder_for(encoding, _described(schema))
        if found is not None:
            decode: Decode = found
            return decode
    raise SourceError(
        f"its messages are encoded as {encoding[:40]!r}, which is not read; known are json, "
        f"protobuf, {' and '.join(_ROS)}"
    )


def _described(schema: Any) -> Any:
    """Return a schema of Protobuf with its definition: some recorders leave out Foxglove's, too."""
    package, _, name = schema.name.partition(".")
    if schema.data or package != "foxglove":
        return schema
    known = getattr(require("foxglove.messages", extra="bags", purpose=schema.name), name, None)
    return schema if known is None else replace(schema, data=known.get_schema().data)


def _ros(schema: Any, encoding: str) -> Decode:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    name = schema.name if "/msg/" in schema.name else schema.name.replace("/", "/msg/")
    if schema.data.strip():
        store = get_typestore(Stores.EMPTY)
        store.register(get_types_from_msg(schema.data.decode(), name))
    else:
        # Some recorders leave out the text of a schema that everybody has.
        store = get_typestore(Stores.ROS1_NOETIC if encoding == "ros1" else Stores.ROS2_HUMBLE)
    read = store.deserialize_ros1 if encoding == "ros1" else store.deserialize_cdr
    return lambda data: read(data, name)
