"""Types of ROS 2 as Cyclone DDS wants them described; their messages stay serialized."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from dedos_deploy.runtime.ros2_messages import Ros2Messages

if TYPE_CHECKING:
    from typing_extensions import Self

_TYPE = re.compile(r"(\w+)::msg::dds_::(\w+)_")


def dds_name(kind: str) -> str:
    """Return what DDS calls a type of ROS.

    >>> dds_name("sensor_msgs/msg/Image")
    'sensor_msgs::msg::dds_::Image_'
    """
    package, _, name = kind.split("/")
    return f"{package}::msg::dds_::{name}_"


def ros_name(name: str) -> str:
    """Return what ROS calls a type of DDS; of others the name itself.

    >>> ros_name("sensor_msgs::msg::dds_::Image_"), ros_name("HelloWorld")
    ('sensor_msgs/msg/Image', 'HelloWorld')
    """
    match = _TYPE.fullmatch(name)
    return f"{match[1]}/msg/{match[2]}" if match else name


class Serialized:
    """A message that Cyclone DDS takes and gives as it is on the wire; cdr: with its header.

    Cyclone DDS's own conversion of a picture's bytes, one Python number each, takes a hundred times
    as long as rosbags's.
    """

    cdr: bytes

    @classmethod
    def holding(cls, cdr: bytes) -> Self:
        message = cls.__new__(cls)
        message.cdr = cdr
        return message

    def serialize(
        self, buffer: object = None, endianness: object = None, use_version_2: object = None
    ) -> bytes:
        """Return the message, for Cyclone DDS."""
        return self.cdr

    @classmethod
    def deserialize(
        cls, data: bytes, has_header: bool = True, use_version_2: object = None
    ) -> Self:
        """Return the message in `data`, for Cyclone DDS."""
        return cls.holding(data)

    @classmethod
    def deserialize_key(
        cls, data: bytes, has_header: bool = True, use_version_2: object = None
    ) -> Self:
        """Return what stands for a message when its publisher has gone, for Cyclone DDS."""
        return cls.holding(b"")


_MADE: dict[str, type[Serialized]] = {}


def serialized_type(messages: Ros2Messages, kind: str) -> type[Serialized]:
    """Return the described type `kind`, whose messages stay serialized."""
    # Once for a process: Cyclone DDS never lets go of a type, and topics are opened again and again.
    if kind not in _MADE:
        _MADE[kind] = _described(messages, kind)
    return _MADE[kind]


def _described(messages: Ros2Messages, kind: str) -> type[Serialized]:
    described: type[Serialized] = _struct(messages, kind)
    # As a base class it would count as a part of the type's description.
    for name in ("holding", "serialize", "deserialize", "deserialize_key"):
        setattr(described, name, vars(Serialized)[name])
    return described


def _struct(messages: Ros2Messages, kind: str) -> Any:
    from cyclonedds.idl import annotations, make_idl_struct

    _, fields = messages.store.fielddefs[kind]
    described = make_idl_struct(
        kind.rpartition("/")[2],
        dds_name(kind),
        {name: _field(messages, field) for name, field in fields},
    )
    return annotations.final(described)


def _field(messages: Ros2Messages, field: Any) -> Any:
    """Return the type of a field by rosbags's description of it."""
    from cyclonedds.idl import types
    from rosbags.interfaces import Nodetype

    form, of = field
    if form is Nodetype.BASE:
        return str if of[0] == "string" else getattr(types, of[0])
    if form is Nodetype.NAME:
        return _struct(messages, of)
    assert form is Nodetype.SEQUENCE, "no message that is published or read here has an array"
    sequence: Any = types.sequence
    return sequence[_field(messages, of[0])]
