"""Results as topics, read by a program with nothing of ours."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from dds_sides import Peers, until
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dedos_deploy.errors import SinkError, SourceError
from dedos_deploy.runtime import Frame, Segmentation, open_sink
from dedos_deploy.runtime.dds import Node
from dedos_deploy.runtime.label_maps import majority
from dedos_deploy.runtime.sinks.contract import SinkOptions

pytest.importorskip("cyclonedds", reason="needs the extra dds")

STAMP_NS = 1_700_000_000_123_456_789
STORE = get_typestore(Stores.ROS2_JAZZY)
for name, definition in {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name",
    "vision_msgs/msg/LabelInfo": "std_msgs/Header header\n"
    "vision_msgs/VisionClass[] class_map\nfloat32 threshold",
}.items():
    STORE.register(get_types_from_msg(definition, name))


def frame(number: int, size_hw: tuple[int, int] = (24, 33), **fields: Any) -> Frame:
    pixels = np.random.default_rng(number).integers(0, 256, (*size_hw, 3), np.uint8)
    known = dict(topic="/cam/image", coordinate_frame="cam", clock_ns=STAMP_NS + number)
    return Frame(pixels, number, time.monotonic(), "a", f"{number:06d}", **(known | fields))


def labelled(
    words: tuple[str, ...], version: int, size_hw: tuple[int, int] = (24, 33), none_id: int = 255
) -> Segmentation:
    rng = np.random.default_rng(version)
    ids = rng.integers(0, len(words), size_hw).astype(np.uint8 if none_id == 255 else np.uint16)
    ids[0, :5] = none_id
    return Segmentation(
        label_map=ids,
        confidence=rng.integers(0, 256, size_hw, np.uint8),
        classes=words,
        class_ids=tuple(range(len(words))),
        counts=np.bincount(ids[ids != none_id], minlength=len(words)),
        none_id=none_id,
        vocabulary_version=version,
        timestamp_s=0.0,
        latency_ms={},
    )


def image(pixels: NDArray[Any], encoding: str, stamp_ns: int, frame_id: str = "cam") -> bytes:
    """The message that ROS would make, by rosbags alone."""
    types = STORE.types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    content = pixels.astype("<u2").tobytes() if encoding == "mono16" else pixels.tobytes()
    message = types["sensor_msgs/msg/Image"](
        types["std_msgs/msg/Header"](stamp, frame_id),
        *pixels.shape[:2],
        encoding,
        0,
        len(content) // len(pixels),
        np.frombuffer(content, np.uint8),
    )
    return padded(bytes(STORE.serialize_cdr(message, "sensor_msgs/msg/Image")))


def padded(message: bytes) -> bytes:
    """As Cyclone DDS has it: whole words."""
    return message + bytes(-len(message) % 4)


def label_info(message: bytes) -> tuple[int, dict[int, str]]:
    found = STORE.deserialize_cdr(message, "vision_msgs/msg/LabelInfo")
    stamp = found.header.stamp
    return (
        stamp.sec * 10**9 + stamp.nanosec,
        {one.class_id: one.class_name for one in found.class_map},
    )


def test_masks_are_bit_by_bit_what_ros_would_send_and_their_names_come_before_them(
    peers: Peers, domain: int
) -> None:
    listener = peers("listen", "Image:/dedos/label_mask", "LabelInfo:/dedos/label_info")
    with open_sink(f"ros2:/dedos?domain={domain}") as sink:
        assert sink.written is None
        assert listener.said() == "there"
        results = [labelled(("road", "car"), 1)] * 2 + [labelled(("floor", "person", "öl"), 2)]
        for number, result in enumerate(results):
            sink.write(frame(number), result)
        messages = [(topic, padded(message)) for topic, message in listener.messages(5)]
        assert sink.written == f"ros2:/dedos?domain={domain} (3 frames)"
        # A volatile topic and a latched one; whoever comes later gets the last names alone.
        late = peers("listen", "LabelInfo:/dedos/label_info")
        assert late.said() == "there"
        ((_, last),) = late.messages(1)
    masks = [message for topic, message in messages if topic == "/dedos/label_mask"]
    assert masks == [
        image(one.label_map, "mono8", STAMP_NS + number) for number, one in enumerate(results)
    ]
    infos = [label_info(message) for topic, message in messages if topic == "/dedos/label_info"]
    assert infos == [
        (STAMP_NS, {0: "road", 1: "car"}),
        (STAMP_NS + 2, {0: "floor", 1: "person", 2: "öl"}),
    ]
    assert label_info(last) == infos[1] and late.silent(0.1)


def test_the_names_of_new_ids_are_sent_before_the_first_mask_with_them(
    domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_sink(f"ros2:/dedos?domain={domain}") as sink:
        sent: list[Any] = []
        monkeypatch.setattr(sink, "_send", lambda writer, content: sent.append(content) is None)
        for number, version in enumerate((1, 1, 2)):
            sink.write(frame(number), labelled(("road", "car"), version))
    info, first, second, changed, third = sent
    assert label_info(info)[0] == STAMP_NS and label_info(changed)[0] == STAMP_NS + 2
    assert [len(one) for one in (first, second, third)] == [len(first)] * 3
    assert len(info) == len(changed) != len(first)


def test_names_that_were_not_taken_in_time_are_sent_again(
    domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_sink(f"ros2:/d?domain={domain}") as sink:
        taken = iter((False, True))
        monkeypatch.setattr(sink._labels, "write", lambda content: next(taken))
        for number in range(3):
            sink.write(frame(number), labelled(("road",), 1))
        assert next(taken, None) is None
        assert sink.written is not None and "3 frames, 1 messages not taken" in sink.written


def test_more_topics_are_made_when_somebody_listens(peers: Peers, domain: int) -> None:
    size_hw = (303, 410)
    result = labelled(("road", "car"), 1, size_hw)
    options = SinkOptions()
    with open_sink(f"ros2:/d?domain={domain}&also=confidence,overlay,resized", options) as sink:
        names = {"confidence": "mono8", "overlay": "bgr8", "resized/label_mask": "mono8"}
        listener = peers("listen", *(f"Image:/d/{name}" for name in names))
        assert listener.said() == "there"
        sink.write(frame(1, size_hw), result)
        found = {topic: padded(message) for topic, message in listener.messages(3)}
    overlay = options.painter.paint(frame(1, size_hw).frame_bgr, result)
    smaller = majority(result.label_map, (200, 271))
    expected = (result.confidence, overlay, smaller)
    assert found == {
        f"/d/{name}": image(pixels, names[name], STAMP_NS + 1)
        for name, pixels in zip(names, expected, strict=True)
    }


def test_masks_of_sixteen_bits_are_asked_for(peers: Peers, domain: int) -> None:
    many = labelled(tuple(f"thing {number}" for number in range(300)), 1, none_id=65535)
    with open_sink(f"ros2:/d?domain={domain}") as sink:
        with pytest.raises(SinkError, match="mono8 holds 254 classes, and there are 300; ask for"):
            sink.write(frame(0), many)
    with open_sink(f"ros2:/d?domain={domain}&mask=mono16") as sink:
        listener = peers("listen", "Image:/d/label_mask")
        assert listener.said() == "there"
        few = labelled(("road", "car"), 2)
        sink.write(frame(0), many)
        sink.write(frame(1), few)
    # Closed at once, and nothing of it is lost.
    found = [padded(message) for _, message in listener.messages(2)]
    wide = few.label_map.astype(np.uint16)
    wide[wide == 255] = 65535
    assert found[0] == image(many.label_map, "mono16", STAMP_NS)
    assert found[1] == image(wide, "mono16", STAMP_NS + 1)


def test_frames_of_no_topic_are_called_by_their_source_and_time(peers: Peers, domain: int) -> None:
    listener = peers("listen", "Image:/d/label_mask")
    result = labelled(("road",), 1)
    with open_sink(f"ros2:/d?domain={domain}") as sink:
        assert listener.said() == "there"
        before_ns = time.time_ns()
        sink.write(frame(1, topic="", coordinate_frame="", clock_ns=None), result)
        sink.write(frame(2, coordinate_frame=""), result)
        (_, first), (_, second) = listener.messages(2)
    header = STORE.deserialize_cdr(first, "sensor_msgs/msg/Image").header
    stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec
    assert header.frame_id == "a" and 0 <= stamp_ns - before_ns + 10**9 < 2 * 10**9
    assert padded(second) == image(result.label_map, "mono8", STAMP_NS + 2, frame_id="")


@pytest.mark.parametrize("seconds", [2**31, -(2**31) - 1, 2**40])
def test_a_time_that_no_header_holds_is_one_sentence(domain: int, seconds: int) -> None:
    with open_sink(f"ros2:/d?domain={domain}") as sink:
        with pytest.raises(SinkError, match=f"from -2147483648 to 2147483647 s .* is {seconds} s"):
            sink.write(frame(1, clock_ns=seconds * 10**9), labelled(("road",), 1))
        sink.write(frame(1, clock_ns=-(2**31) * 10**9), labelled(("road",), 1))


def test_subscribers_find_types_with_their_hashes(domain: int) -> None:
    with (
        open_sink(f"ros2:/d?domain={domain}&reliability=best_effort"),
        Node(domain, refusal=SourceError, purpose="a test") as node,
    ):
        until(lambda: len(node.publications()) == 2)
        found = {one.topic: one for one in node.publications()}
    mask, info = found["/d/label_mask"], found["/d/label_info"]
    assert (mask.is_reliable, info.is_reliable) == (False, True)
    assert mask.type_hash == STORE.hash_rihs01("sensor_msgs/msg/Image")
    assert info.type_hash == STORE.hash_rihs01("vision_msgs/msg/LabelInfo")


def test_subscribers_that_hang_cost_messages_and_little_time(
    peers: Peers, domain: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cyclonedds.core import DDSException

    uri = f"ros2:/d?domain={domain}&also=confidence,overlay,resized"
    sink = open_sink(uri)
    topics = ("label_mask", "confidence", "overlay", "resized/label_mask")
    listener = peers("listen", *(f"Image:/d/{topic}" for topic in topics))
    assert listener.said() == "there"
    listener.process.send_signal(signal.SIGSTOP)
    result = labelled(("road",), 1)
    for number in range(20):
        sink.write(frame(number), result)

    def full(message: object) -> None:
        raise DDSException(DDSException.DDS_RETCODE_TIMEOUT)

    monkeypatch.setattr(sink._writers["/label_mask"]._writer, "write", full)
    sink.write(frame(20), result)
    sink.write(frame(21), result)
    assert sink.written == f"{uri} (22 frames, 2 messages not taken in time)"
    assert [record.message for record in caplog.records] == [
        f"{uri}: a subscriber is too slow, messages are lost"
    ]
    started_s = time.monotonic()
    sink.close()
    sink.close()
    # Each of four topics would wait a second.
    assert time.monotonic() - started_s < 3.0, "it waits for one that hangs"


def test_no_library_of_it_is_loaded_before_it_is_used() -> None:
    code = (
        "import sys, dedos_deploy.runtime.sinks.opening as s, dedos_deploy.runtime.sources.live;"
        "s.open_sink('null'); assert not {'cyclonedds', 'rosbags'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_network_that_cannot_be_used_is_one_sentence(
    domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYCLONEDDS_URI", "<CycloneDDS><Nonsense/></CycloneDDS>")
    with pytest.raises(
        SinkError, match=f"domain {domain} .*; check the network, and CYCLONEDDS_URI"
    ):
        open_sink(f"ros2:/d?domain={domain}")
