"""Topics as sources, published by a program with nothing of ours."""

from __future__ import annotations

import base64
import gc
import time
from typing import Any

import cv2
import numpy as np
import pytest
from dds_sides import Peers, until
from numpy.typing import NDArray

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import Frame, Outcome, open_source
from dedos_deploy.runtime import dds as runtime_dds
from dedos_deploy.runtime.dds import Node
from dedos_deploy.runtime.flow import Reconnect
from dedos_deploy.runtime.sources import dds
from dedos_deploy.runtime.sources.dds import connect_topic

pytest.importorskip("cyclonedds", reason="needs the extra dds")

IMAGE_HASH = "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47"
"""Of sensor_msgs/msg/Image, as a node of ROS 2 Jazzy tells it."""
TOLD = f"typehash={IMAGE_HASH};"
STAMP_NS = 1_700_000_000_123_456_789


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (24, 32, 3), np.uint8)


def next_frame(source: Any, timeout_s: float = 20.0) -> Frame:
    ends_s = time.monotonic() + timeout_s
    while not isinstance(item := source.read(0.1), Frame):
        assert item is Outcome.TIMEOUT and time.monotonic() < ends_s
    return item


def test_pictures_come_with_the_stamp_and_frame_of_their_header(
    peers: Peers, domain: int, picture: NDArray[np.uint8]
) -> None:
    camera = peers("publish", "/cam/image", "Image", "reliable", TOLD)
    camera.send_picture(picture, stamp_ns=STAMP_NS)
    with connect_topic(f"ros2:/cam/image?domain={domain}") as source:
        first = next_frame(source)
        # Stamps of 0 are ROS's for none.
        camera.send_picture(picture[..., ::-1].copy(), stamp_ns=0, encoding="rgb8", frame_id="")
        second = next_frame(source)
    assert (first.frame_id, first.clock_ns) == (0, STAMP_NS)
    assert (first.topic, first.coordinate_frame) == ("/cam/image", "camera_optical")
    assert (second.frame_id, second.clock_ns, second.coordinate_frame) == (1, None, "")
    assert np.array_equal(first.frame_bgr, picture) and np.array_equal(second.frame_bgr, picture)


def test_compressed_pictures_come_best_effort(
    peers: Peers, domain: int, picture: NDArray[np.uint8]
) -> None:
    camera = peers("publish", "/cam/compressed", "CompressedImage", "best_effort", "")
    png = base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()
    camera.send(stamp_ns=STAMP_NS, frame_id="cam", format="png", data=png)
    with connect_topic(f"ros2:/cam/compressed?domain={domain}") as source:
        assert np.array_equal(next_frame(source).frame_bgr, picture)


def test_the_newest_of_what_came_is_read_and_the_rest_is_counted(
    peers: Peers, domain: int, picture: NDArray[np.uint8]
) -> None:
    camera = peers("publish", "/cam", "Image", "reliable", TOLD)
    camera.send_picture(picture, stamp_ns=1)
    with connect_topic(f"ros2:/cam?domain={domain}&depth=3") as source:
        next_frame(source)
        for number in range(2, 9):
            camera.send_picture(picture, stamp_ns=number)
        time.sleep(0.3)
        frames = [next_frame(source)]
        while frames[-1].clock_ns != 8:
            frames.append(next_frame(source))
        # What was not kept, since three are, is not known of.
        assert source.drops["superseded"] >= 2
        assert frames[-1].frame_id == len(frames) + source.drops["superseded"]


def test_what_is_no_picture_is_skipped_and_said(
    peers: Peers, domain: int, picture: NDArray[np.uint8]
) -> None:
    camera = peers("publish", "/cam", "Image", "reliable", TOLD)
    camera.send_picture(picture, stamp_ns=1)
    with connect_topic(f"ros2:/cam?domain={domain}") as source:
        next_frame(source)
        camera.send_picture(picture, stamp_ns=2, encoding="32FC1")
        until(lambda: source.read(0.1) is Outcome.TIMEOUT and "unreadable" in source.drops)
        camera.send_picture(picture, stamp_ns=3, height=2**31)
        until(lambda: source.read(0.1) is Outcome.TIMEOUT and source.drops["unreadable"] == 2)
        camera.send_picture(picture, stamp_ns=4)
        assert next_frame(source).frame_id == 3
        assert "its encoding '32FC1' is not a picture's" in source.warnings[0]


def test_publishers_that_left_and_that_were_killed_come_back(
    peers: Peers, domain: int, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(stamp_ns: int) -> Any:
        camera = peers("publish", "/cam", "Image", "reliable", TOLD)
        camera.send_picture(picture, stamp_ns=stamp_ns)
        return camera

    monkeypatch.setattr(dds, "GONE_S", 0.1)
    camera = publish(1)
    with open_source(f"ros2:/cam?domain={domain}", reconnect=Reconnect(first_s=0.05)) as source:
        assert next_frame(source).frame_id == 0
        camera.process.stdin.close()
        camera.process.wait(10.0)
        camera = publish(2)
        frame = next_frame(source)
        assert (frame.frame_id, frame.clock_ns, source.reconnects) == (1, 2, 1)
        assert "was lost and opened again 1 times" in source.warnings[0]
        # Discovery still knows one that was killed; the next one is heard at once.
        camera.process.kill()
        publish(3)
        assert (next_frame(source).clock_ns, source.reconnects) == (3, 1)


def test_a_topic_whose_publisher_has_left_is_lost(
    peers: Peers, domain: int, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dds, "GONE_S", 0.1)
    camera = peers("publish", "/cam", "Image", "reliable", TOLD)
    camera.send_picture(picture, stamp_ns=1)
    with connect_topic(f"ros2:/cam?domain={domain}") as source:
        next_frame(source)
        time.sleep(0.2)
        assert source.read(0.0) is Outcome.TIMEOUT, "a publisher may be silent"
        camera.process.stdin.close()
        with pytest.raises(
            SourceError, match="stopped delivering frames: its topic has had no pub"
        ):
            until(lambda: source.read(0.1) is Outcome.END)


def refused(uri: str) -> str:
    with pytest.raises(SourceError) as caught:
        connect_topic(uri, open_timeout_s=0.4)
    return str(caught.value)


def test_what_cannot_be_read_is_refused_in_a_sentence(
    peers: Peers, domain: int, picture: NDArray[np.uint8]
) -> None:
    asked = f"ros2:/cam/image_rwa?domain={domain}"
    assert "in which nothing is published; check that its node runs, ROS_DOMAIN_ID" in refused(
        asked
    )
    peers("publish", "/cam/image_raw", "Image", "best_effort", TOLD).said()
    peers("publish", "/chatter", "String", "reliable", "").said()
    peers("publish", "/mine", "Image", "reliable", "typehash=RIHS01_0;").said()
    grey = peers("publish", "/grey", "Image", "reliable", "")
    grey.said()
    grey.send_picture(picture, stamp_ns=1, encoding="32FC1")

    found = refused(asked)
    assert f"no publisher in domain {domain}, did you mean '/cam/image_raw'?" in found
    assert "pictures are published on /cam/image_raw, /grey, /mine" in found
    assert "carries std_msgs/msg/String; pictures are sensor_msgs/msg/Image and" in refused(
        f"ros2:/chatter?domain={domain}"
    )
    assert (
        "another sensor_msgs/msg/Image than ROS 2 defines (hash of its definition 'RIHS01_0'"
        in (refused(f"ros2:/mine?domain={domain}"))
    )
    assert "is published best effort, and cannot be read reliably" in refused(
        f"ros2:/cam/image_raw?domain={domain}&reliability=reliable"
    )
    assert "has a publisher and delivers no frame" in refused(
        f"ros2:/cam/image_raw?domain={domain}"
    )
    assert "gives no picture: its encoding '32FC1'" in refused(f"ros2:/grey?domain={domain}")


def test_discovery_tells_type_and_hash_and_a_closed_node_is_gone(peers: Peers, domain: int) -> None:
    peers("publish", "/cam", "Image", "best_effort", TOLD).said()
    with Node(domain, refusal=SourceError, purpose="a test") as node:
        until(lambda: node.publications())
        (found,) = node.publications()
        assert found.type_hash == node.messages.type_hash(found.kind) == IMAGE_HASH
    assert (found.topic, found.kind, found.is_reliable) == ("/cam", "sensor_msgs/msg/Image", False)


def test_topics_that_are_opened_again_leave_nothing_behind(domain: int) -> None:
    def objects_after(times: int) -> int:
        for _ in range(times):
            with Node(domain, refusal=SourceError, purpose="a test") as node:
                node.reader("/cam", "sensor_msgs/msg/Image", reliable=True, depth=5)
        gc.collect()
        return len(gc.get_objects())

    before = objects_after(2)
    assert objects_after(4) - before < 100


@pytest.mark.parametrize(
    "what", ["cyclonedds.domain.DomainParticipant", "cyclonedds.builtin.BuiltinDataReader"]
)
def test_a_domain_that_could_not_be_joined_is_configured_anew(
    domain: int, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from cyclonedds.core import DDSException

    def refuse(*_: object) -> None:
        raise DDSException(DDSException.DDS_RETCODE_OUT_OF_RESOURCES)

    with monkeypatch.context() as patched:
        patched.setattr(what, refuse)
        with pytest.raises(SourceError, match="check the network"):
            Node(domain, refusal=SourceError, purpose="a test")
    assert domain not in runtime_dds._configured and not runtime_dds._nodes[domain]
