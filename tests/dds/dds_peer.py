"""The other side of a topic, as a program with nothing of ours: a camera, or somebody who listens.

    python dds_peer.py publish DOMAIN TOPIC TYPE RELIABILITY USER_DATA
    python dds_peer.py listen DOMAIN TYPE:TOPIC ...

A publisher sends a message per line of stdin, the values of its fields in JSON with bytes in base64;
it says "there" once it can be found. A listener says "there" once all its topics have publishers, and
then writes a line per message: topic, a space, and the message in base64, as Cyclone DDS serializes
what it has read.
"""

# Not with annotations as texts, which Cyclone DDS does not resolve.
import base64
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.annotations import final
from cyclonedds.idl.types import float32, int32, sequence, uint8, uint16, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

HERE_ONLY = (
    '<CycloneDDS><Domain Id="any"><General><AllowMulticast>false</AllowMulticast><Interfaces>'
    '<NetworkInterface address="127.0.0.1"/></Interfaces></General><Discovery><ParticipantIndex>auto'
    '</ParticipantIndex><Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain></CycloneDDS>'
)


@dataclass
@final
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
@final
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
@final
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


@dataclass
@final
class CompressedImage(IdlStruct, typename="sensor_msgs::msg::dds_::CompressedImage_"):
    header: Header
    format: str
    data: sequence[uint8]


@dataclass
@final
class VisionClass(IdlStruct, typename="vision_msgs::msg::dds_::VisionClass_"):
    class_id: uint16
    class_name: str


@dataclass
@final
class LabelInfo(IdlStruct, typename="vision_msgs::msg::dds_::LabelInfo_"):
    header: Header
    class_map: sequence[VisionClass]
    threshold: float32


@dataclass
@final
class String(IdlStruct, typename="std_msgs::msg::dds_::String_"):
    data: str


def qos(reliability: str, user_data: bytes = b"") -> Qos:
    reliable = Policy.Reliability.Reliable(10**9)
    return Qos(
        reliable if reliability == "reliable" else Policy.Reliability.BestEffort,
        Policy.History.KeepLast(100),
        Policy.DataRepresentation(use_cdrv0_representation=True),
        Policy.Userdata(user_data),
    )


def message_of(kind: Any, fields: dict[str, Any]) -> Any:
    if "data" in fields and kind is not String:
        fields["data"] = list(base64.b64decode(fields["data"]))
    if "stamp_ns" in fields:
        stamp = Time(*divmod(fields.pop("stamp_ns"), 10**9))
        fields["header"] = Header(stamp, fields.pop("frame_id"))
    return kind(**fields)


def publish(domain: str, name: str, kind: str, reliability: str, user_data: str) -> None:
    participant = DomainParticipant(int(domain))
    topic = Topic(participant, f"rt{name}", globals()[kind])
    writer = DataWriter(participant, topic, qos(reliability, user_data.encode()))
    print("there", flush=True)
    for line in sys.stdin:
        message = message_of(globals()[kind], json.loads(line))
        while not writer.get_matched_subscriptions():
            time.sleep(0.01)
        writer.write(message)
    writer.wait_for_acks(2 * 10**9)


def listen(domain: str, *topics: str) -> None:
    participant = DomainParticipant(int(domain))
    readers = {}
    for kind, _, name in (one.partition(":") for one in topics):
        latched = kind == "LabelInfo"
        more = Policy.Durability.TransientLocal if latched else Policy.Durability.Volatile
        topic = Topic(participant, f"rt{name}", globals()[kind])
        readers[name] = DataReader(participant, topic, Qos(more, base=qos("reliable")))
    while not all(reader.get_matched_publications() for reader in readers.values()):
        time.sleep(0.01)
    print("there", flush=True)
    while True:
        for name, reader in readers.items():
            for sample in reader.take(100):
                if sample.sample_info.valid_data:
                    cdr = sample.serialize(use_version_2=False)
                    print(name, base64.b64encode(cdr).decode(), flush=True)
        time.sleep(0.002)


if __name__ == "__main__":
    configured = Domain(int(sys.argv[2]), HERE_ONLY)
    {"publish": publish, "listen": listen}[sys.argv[1]](*sys.argv[2:])
