"""MCAP outputs keep what a recording calls its camera and topic, and can be messages of ROS 2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from runtime_fakes import result_for
from test_bags import START_NS, STEP_NS, write_foxglove_mcap, write_json_mcap, write_ros
from test_growing_outputs import live_frames, messages_of

from dedos_deploy.cli.run import main
from dedos_deploy.errors import SinkError
from dedos_deploy.runtime import open_sink, open_source
from dedos_deploy.runtime.segmentation import Segmentation

CLOCKS_NS = [START_NS + number * STEP_NS for number in range(5)]


def label(source: Path, output: str) -> None:
    with open_source(str(source)) as frames, open_sink(output) as sink:
        for frame in frames:
            sink.write(frame, result_for(frame.frame_bgr))


def read_ros(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return (log time, decoded message) by topic, as rosbags reads a recording of ROS 2."""
    from rosbags.highlevel import AnyReader

    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([path]) as reader:
        assert reader.is2
        for connection, logged_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            found.setdefault(connection.topic, []).append((logged_ns, message))
    return found


def test_frames_know_the_topic_and_camera_of_their_recording(tmp_path: Path) -> None:
    for number, source in enumerate(
        (
            write_ros(tmp_path / "one.bag", version=1),
            write_ros(tmp_path / "two", version=2),
            write_json_mcap(tmp_path / "json.mcap"),
            write_foxglove_mcap(tmp_path / "foxglove.mcap"),
        )
    ):
        with open_source(str(source)) as frames:
            names = {(frame.topic, frame.coordinate_frame) for frame in frames}
        assert names == {("/camera/image" if number < 2 else "/img", "cam")}


@pytest.mark.parametrize("topic", ["/front/image_raw", "/front/image_raw/compressed"])
def test_frame_id_prefix_and_stamps_are_those_of_the_recording(topic: str, tmp_path: Path) -> None:
    bag = write_ros(tmp_path / "drive.bag", version=1, topics=(topic,))
    label(bag, str(tmp_path / "o.mcap"))
    found = messages_of(tmp_path / "o.mcap")
    assert sorted(found) == [
        f"/front/{name}" for name in ("annotations", "image", "labels", "overlay", "result")
    ]
    for name in ("image", "labels", "overlay"):
        messages = found[f"/front/{name}"]
        assert [at_ns for at_ns, _ in messages] == CLOCKS_NS
        assert [one.timestamp.ToNanoseconds() for _, one in messages] == CLOCKS_NS
        assert {one.frame_id for _, one in messages} == {"cam"}


def test_ros2_messages_are_read_back_by_rosbags(tmp_path: Path) -> None:
    bag = write_ros(tmp_path / "drive.bag", version=1, topics=("/front/image_raw",))
    path = tmp_path / "o.mcap"
    label(bag, f"{path}?profile=ros2")
    found = read_ros(path)
    pictures = {"image/compressed", "overlay/compressed", "labels"}
    assert set(found) == {f"/front/{name}" for name in pictures | {"label_info", "result"}}
    for name in pictures:
        messages = found[f"/front/{name}"]
        assert [at_ns for at_ns, _ in messages] == CLOCKS_NS
        stamps = [one.header.stamp for _, one in messages]
        assert [stamp.sec * 10**9 + stamp.nanosec for stamp in stamps] == CLOCKS_NS
        assert {one.header.frame_id for _, one in messages} == {"cam"}
    labels = found["/front/labels"][0][1]
    assert (labels.encoding, labels.height, labels.width, labels.step) == ("mono8", 16, 24, 24)
    expected = result_for(np.zeros((16, 24, 3), np.uint8)).label_map
    np.testing.assert_array_equal(labels.data.reshape(16, 24), expected)
    picture = cv2.imdecode(found["/front/image/compressed"][3][1].data, cv2.IMREAD_COLOR)
    assert abs(int(picture[8, 12, 0]) - 60) <= 6
    ((_, info),) = found["/front/label_info"]
    assert [(one.class_id, one.class_name) for one in info.class_map] == [(0, "left")]
    assert '"none_id": 255' in found["/front/result"][0][1].data
    with open_source(f"{path}?topic=/front/labels") as source:
        assert [frame.clock_ns for frame in source] == CLOCKS_NS


def test_names_are_said_again_when_they_change_and_for_who_comes_later(tmp_path: Path) -> None:
    from mcap.reader import make_reader

    path = tmp_path / "o.mcap"
    with open_sink(f"{path}?profile=ros2") as sink:
        for number, frame in enumerate(live_frames()):
            names = ("left",) if number < 3 else ("left", "车")
            result = result_for(frame.frame_bgr, classes=names)
            sink.write(frame, replace(result, vocabulary_version=1 + (number >= 3)))
    found = read_ros(path)
    infos = [info for _, info in found["/label_info"]]
    assert [[one.class_name for one in info.class_map] for info in infos] == [
        ["left"],
        ["left", "车"],
    ]
    # Frames of a camera have no clock of their own: all messages of one have the same.
    assert found["/labels"][3][0] == found["/image/compressed"][3][0] == found["/label_info"][1][0]
    with path.open("rb") as file:
        reader = make_reader(file)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
    assert summary is not None
    (channel,) = (one for one in summary.channels.values() if one.topic == "/label_info")
    assert "durability: 1\n" in channel.metadata["offered_qos_profiles"]


def test_ros2_labels_of_many_classes_have_16_bits(tmp_path: Path) -> None:
    frame = live_frames()[0]
    base = result_for(frame.frame_bgr, classes=tuple(f"c{n}" for n in range(301)))
    label_map = np.where(base.label_map == 255, 65535, 300).astype(np.uint16)
    with open_sink(f"{tmp_path / 'o.mcap'}?profile=ros2") as sink:
        sink.write(frame, Segmentation(**{**vars(base), "label_map": label_map, "none_id": 65535}))
    ((_, labels),) = read_ros(tmp_path / "o.mcap")["/labels"]
    assert (labels.encoding, labels.step) == ("mono16", 128)
    np.testing.assert_array_equal(labels.data.view("<u2").reshape(48, 64), label_map)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("profile=ros1", "the profile of an MCAP is foxglove or ros2, not 'ros1'"),
        ("profil=ros2", "unknown setting 'profil', did you mean 'profile'"),
    ],
)
def test_settings_of_an_mcap_that_are_not_known(query: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=message):
        open_sink(f"{tmp_path / 'o.mcap'}?{query}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_writes_ros2_messages_and_never_over_its_source(
    tmp_path: Path, bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = next(write_ros(tmp_path / "drive", version=3).glob("*.mcap"))
    common = ["--bundle", str(bundle_folder), "--threads", "1", "--classes", "red", "--quiet"]
    output = f"{tmp_path / 'o.mcap'}?profile=ros2"
    assert main(["--source", str(bag), "--output", output, *common]) == 0
    assert len(read_ros(tmp_path / "o.mcap")["/camera/labels"]) == 5
    before = bag.read_bytes()
    output = f"{bag}?profile=ros2"
    assert main(["--source", str(bag), "--output", output, "--overwrite", *common]) == 2
    assert bag.name in capsys.readouterr().err and bag.read_bytes() == before
    both = ["--output", f"{tmp_path / 'p.mcap'}", "--output", f"{tmp_path / 'p.mcap'}?profile=ros2"]
    assert main(["--source", str(bag), *both, "--overwrite", *common]) == 2
    assert not (tmp_path / "p.mcap").exists()


@pytest.mark.parametrize(
    ("profile", "seconds"),
    [("foxglove", -1), ("foxglove", 2**32), ("ros2", -1), ("ros2", 2**31)],
)
def test_a_time_that_no_message_holds_is_one_sentence(
    profile: str, seconds: int, tmp_path: Path
) -> None:
    frame = replace(live_frames()[0], clock_ns=seconds * 10**9)
    place = tmp_path / "o.mcap"
    with open_sink(f"{place}?profile={profile}") as sink:
        with pytest.raises(SinkError, match=f"its messages hold times from 0 .* is {seconds} s"):
            sink.write(frame, result_for(frame.frame_bgr))
    assert not place.exists()
