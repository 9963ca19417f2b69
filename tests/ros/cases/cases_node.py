"""The node in a process of its own, with a camera, a bag, and Nav2's layer around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from nav2_layer import Nav2Layer
from robot import CLASSES, LATCHED, Node, Robot, image, node, stamp_ns, wait_for
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from vision_msgs.msg import LabelInfo

from dedos_deploy import Bundle, Segmenter
from dedos_deploy.runtime import Frame, Nv12Frame, OverlayPainter
from dedos_deploy.words_file import save_words_file

HW = 120, 160
TWO = (["road", "car", "tree"], ["building", "sky", "sidewalk"])


def picture(seed: int = 5) -> np.ndarray:
    from dedos_deploy.scenes import render_image

    return render_image("street", seed=seed, size_hw=HW)[0]


def pixels(message: Image) -> np.ndarray:
    return (
        np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1).squeeze()
    )


def camera_info(size_hw: tuple[int, int]) -> CameraInfo:
    height, width = size_hw
    info = CameraInfo(height=height, width=width)
    info.k = [200.0, 0.0, width / 2, 0.0, 200.0, height / 2, 0.0, 0.0, 1.0]
    return info


def depth_image(size_hw: tuple[int, int], stamp: int) -> Image:
    millimetres = np.full(size_hw, 2000, np.uint16)
    millimetres[: size_hw[0] // 3] = 0
    return image(millimetres, stamp, "16UC1")


def seen_with(stamp: int, size_hw: tuple[int, int] = HW) -> dict[str, object]:
    return {"/camera_info": camera_info(size_hw), "/depth": depth_image(size_hw, stamp)}


def test_a_bag_comes_out_frame_by_frame_as_nav2_takes_it(
    around: Robot, segmenter: Segmenter, bag: list[Frame]
) -> None:
    assert len(bag) == 12
    size_hw = bag[0].frame_bgr.shape[:2]
    layer = Nav2Layer(CLASSES)
    begin = len(around.heard)
    for frame in bag:
        stamp = frame.captured_ns
        sent = image(frame.frame_bgr, stamp)
        sent.header.frame_id = frame.coordinate_frame or "camera"
        around.labelled(sent, "points", before=seen_with(stamp, size_hw))
        mask, confidence = (
            wait_for(lambda t=topic, s=stamp: around.heard_of(t, s), topic)
            for topic in ("label_mask", "confidence")
        )
        expected = segmenter.segment(frame.frame_bgr)
        assert mask.header == confidence.header == sent.header
        assert (mask.encoding, mask.step) == ("mono8", mask.width)
        np.testing.assert_array_equal(pixels(mask), expected.label_map)
        np.testing.assert_array_equal(pixels(confidence), expected.confidence)
    layer.label_info(around.by_topic["label_info"][-1])
    stamps = {frame.captured_ns for frame in bag}
    for topic, message in around.heard[begin:]:
        if topic in ("label_mask", "confidence", "points") and stamp_ns(message) in stamps:
            layer.take(topic, message)
    assert layer.accepted >= len(bag)
    assert layer.observations["road"] > 1000


def test_points_are_where_the_camera_sees_them(around: Robot) -> None:
    stamp = 7_000_000_000
    first = stamp - 10**9
    around.labelled(image(picture(), first), "points", before=seen_with(first))
    # A depth within 100 ms serves, once one came that is not older than the mask.
    for offset_ns in (-40_000_000, 60_000_000):
        around.send(depth_image(HW, stamp + offset_ns), "/depth")
    cloud = around.labelled(image(picture(), stamp), "points")
    mask = around.heard_of("label_mask", stamp)
    assert cloud.header == mask.header and (cloud.height, cloud.width) == HW
    kind = np.dtype(
        {
            "names": ["x", "y", "z", "label", "confidence"],
            "formats": ["<f4", "<f4", "<f4", "<u2", "u1"],
            "offsets": [field.offset for field in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )
    points = np.frombuffer(cloud.data, kind).reshape(HW)
    assert np.isnan(points["z"][: HW[0] // 3]).all()
    assert points["z"][100, 130] == 2 and abs(points["x"][100, 130] - 2 * 50 / 200) < 1e-6
    assert abs(points["y"][100, 130] - 2 * 40 / 200) < 1e-6
    np.testing.assert_array_equal(points["label"], pixels(mask))


@pytest.mark.parametrize("encoding", ["padded bgr8", "rgb8", "nv12", "yuv422_yuy2"])
def test_encodings_are_read_as_the_runtime_reads_them(
    around: Robot, segmenter: Segmenter, encoding: str
) -> None:
    from dedos_ros.frames import frame_of_image

    bgr = picture(seed=7)
    if encoding == "padded bgr8":
        rows = np.pad(bgr.reshape(HW[0], -1), ((0, 0), (0, 32)), constant_values=77)
        message, expected = image(rows, 1, "bgr8", width=HW[1]), bgr
    elif encoding == "rgb8":
        message, expected = image(bgr[..., ::-1].copy(), 2, "rgb8"), bgr
    elif encoding == "nv12":
        rows = np.random.default_rng(0).integers(0, 255, (HW[0] * 3 // 2, HW[1]), np.uint8)
        message = image(rows, 3, "nv12", height=HW[0])
        expected = Nv12Frame.from_rows(rows).frame_bgr
    else:
        message = image(np.random.default_rng(0).integers(0, 255, (*HW, 2), np.uint8), 4, encoding)
        expected = frame_of_image(message)
    mask = around.labelled(message)
    np.testing.assert_array_equal(pixels(mask), segmenter.segment(expected).label_map)


def test_what_is_no_picture_is_said_in_one_sentence_each(around: Robot, running: Node) -> None:
    bad = {
        "its encoding '64FC9' is not a picture's; known are bgr8": dict(encoding="64FC9"),
        "its encoding '(empty)' is not a picture's": dict(encoding=""),
        "its bgr8 picture of 160x480 needs 230400 bytes and has 57600": dict(height=480),
        "its bgr8 picture of 0x120 needs 0 bytes and has 57600": dict(width=0),
        "its nv12 picture of 160x120 needs": dict(encoding="nv12", step=8),
    }
    for number, (sentence, fields) in enumerate(bad.items()):
        for _ in range(2):
            around.send(image(picture(), 100 + number, **fields))
        assert sentence in around.complaint(f"image: {sentence}")
        assert running.log().count(f"image: {sentence}") == 1
    around.labelled(image(picture(), 200))
    around.complaint("labels images")
    assert "Traceback" not in running.log()


def test_parameters_that_cannot_be_are_refused_and_nothing_changes(
    around: Robot, segmenter: Segmenter
) -> None:
    before = len(around.by_topic["label_info"])
    many = [f"thing {number}" for number in range(255)]
    for values, sentence in (
        (
            {"classes": many},
            "at most 254 classes, not 255; set the parameter mask_encoding to mono16",
        ),
        ({"classes": ["road", "road"]}, "road"),
        ({"unlabelled": 0}, "unlabelled is read at configure; clean the node up first"),
        ({"classes": ["car"], "engine": "rtx"}, "engine is read at configure"),
    ):
        answer = around.set_parameters(**values)
        assert not answer.successful and sentence in answer.reason
    mask = around.labelled(image(picture(), 300))
    np.testing.assert_array_equal(pixels(mask), segmenter.segment(picture()).label_map)
    assert len(around.by_topic["label_info"]) == before


def test_overlay_and_costmap_size_come_when_somebody_listens(
    around: Robot, segmenter: Segmenter
) -> None:
    bgr = picture()
    around.listen("overlay")
    around.listen("resized/label_mask")
    overlay = around.labelled(image(bgr, 400), "overlay")
    result = segmenter.segment(bgr)
    assert overlay.encoding == "bgr8"
    np.testing.assert_array_equal(pixels(overlay), OverlayPainter().paint(bgr, result))
    large = np.repeat(np.repeat(bgr, 4, 0), 4, 1)
    smaller = around.labelled(image(large, 401), "resized/label_mask")
    assert (smaller.height, smaller.width, smaller.step) == (200, 267, 267)
    expected = segmenter.segment(large).resized((200, 267))
    np.testing.assert_array_equal(pixels(smaller), expected)


def test_a_change_of_words_never_mislabels(around: Robot) -> None:
    bgr = picture()
    expected = {}
    for words in TWO:
        with Segmenter.load("demo", classes=words, background="none", threads=1) as alone:
            expected[frozenset(words)] = np.array(words)[alone.segment(bgr).label_map]
    stop = threading.Event()
    begin = len(around.by_topic["label_mask"])
    publisher = around.publisher("/image")

    def flow() -> None:
        stamp = 10**12
        while not stop.wait(0.01):
            publisher.publish(image(bgr, stamp := stamp + 1))

    flowing = threading.Thread(target=flow)
    flowing.start()
    try:
        for turn in range(6):
            assert around.set_parameters(classes=TWO[turn % 2]).successful
            seen = len(around.by_topic["label_mask"])
            wait_for(lambda n=seen: len(around.by_topic["label_mask"]) > n + 1, "masks")
    finally:
        stop.set()
        flowing.join()
    time.sleep(0.3)
    said = [each for each in around.by_topic["label_info"] if each.header.frame_id != "version=1"]
    checked: set[str] = set()
    for mask in around.by_topic["label_mask"][begin:]:
        valid = [each for each in said if stamp_ns(each) < stamp_ns(mask)]
        if stamp_ns(mask) < 10**12 or not valid:
            continue
        info = valid[-1]
        names = {each.class_id: each.class_name for each in info.class_map}
        table = np.array([names.get(number, "?") for number in range(256)])
        labels = table[pixels(mask)]
        np.testing.assert_array_equal(labels, expected[frozenset(names.values())])
        checked.add(info.header.frame_id)
    assert len(checked) >= 5
    assert around.set_parameters(classes=CLASSES).successful


def test_words_come_by_the_prompt_and_to_who_joins_late(around: Robot) -> None:
    seen = len(around.by_topic["label_info"])
    around.send(String(data="floor, wall|partition"), "/dedos/change_prompt")
    wait_for(lambda: len(around.by_topic["label_info"]) > seen, "label_info")
    around.send(String(data="road,,"), "/dedos/change_prompt")
    context = rclpy.Context()
    context.init()
    late, got = rclpy.create_node("late", context=context), []
    late.create_subscription(LabelInfo, "/dedos/label_info", got.append, LATCHED)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(late)
    wait_for(lambda: executor.spin_once(timeout_sec=0.1) or got, "label_info for a late joiner")
    executor.shutdown()
    late.destroy_node()
    context.try_shutdown()
    assert [each.class_name for each in got[-1].class_map] == ["floor", "wall"]
    assert got[-1] == around.by_topic["label_info"][-1]
    assert around.set_parameters(classes=CLASSES).successful


def tuned(path: Path, words: list[str], model_sha256: str | None = None) -> Path:
    """Write a words file for the embedded model whose words have the rows of each other."""
    with Bundle.open("demo") as bundle:
        known = bundle.known_embeddings()
        model_sha256 = model_sha256 or bundle.manifest.checkpoint_sha256
    rows = np.stack([known[word] for word in words[::-1]])
    said = {"model_sha256": model_sha256, "tuning": {"frames": 20}}
    entries = [f"{words[0]}@0.25", *words[1:]]
    return save_words_file(path, entries=entries, words=words, embeddings=rows, **said)


def test_a_words_file_is_taken_like_words(around: Robot, running: Node, tmp_path: Path) -> None:
    file = tuned(tmp_path / "my.words", ["road", "tree", "sky"])
    frame = picture()
    with Segmenter.load("demo", classes=file, background="none", threads=1) as alone:
        expected = alone.segment(frame).label_map
        assert len(np.unique(expected)) > 1
        assert around.set_parameters(classes=[str(file)]).successful
        names = [each.class_name for each in around.by_topic["label_info"][-1].class_map]
        mask = around.labelled(image(frame, 700))
        ids = {number: name for name, number, _ in alone.entries}
        info = {
            each.class_id: each.class_name for each in around.by_topic["label_info"][-1].class_map
        }
        told = np.vectorize(info.get)(pixels(mask))
        np.testing.assert_array_equal(told, np.vectorize(ids.get)(expected))
    assert names == ["road", "tree", "sky"]
    # By the prompt as well; what cannot be is refused in a sentence and leaves the words as they are.
    seen = len(around.by_topic["label_info"])
    around.send(
        String(data=str(tuned(tmp_path / "two.words", ["car", "sky"]))), "/dedos/change_prompt"
    )
    wait_for(lambda: len(around.by_topic["label_info"]) > seen, "label_info")
    other = tuned(tmp_path / "other.words", ["car", "sky"], model_sha256="b" * 64)
    (tmp_path / "cut.words").write_bytes(file.read_bytes()[:-7])
    for classes, sentence in (
        ([str(other)], "was tuned on another model"),
        ([str(tmp_path / "cut.words")], "cannot be used: vocabulary is damaged"),
        ([str(tmp_path / "none.words")], "does not exist"),
        ([str(file), "road"], "beside others; give the file alone, or words"),
    ):
        result = around.set_parameters(classes=classes)
        assert not result.successful and sentence in result.reason and "\n" not in result.reason
    around.labelled(image(frame, 701))
    names = [each.class_name for each in around.by_topic["label_info"][-1].class_map]
    assert names == ["car", "sky"]
    with node({"classes": [str(other)]}, "-r", "__node:=wrong") as wrong:
        wait_for(lambda: "was tuned on another model" in wrong.log(), "no sentence in the log")
        assert wrong.process.wait(60) == 2 and "Traceback" not in wrong.log()


def test_pictures_of_900_kilobytes_all_arrive() -> None:
    listener = Path(__file__).with_name("listener.py")
    command = [sys.executable, listener, "/large", "30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        node = rclpy.create_node("camera")
        publisher = node.create_publisher(Image, "/large", rclpy.qos.qos_profile_sensor_data)
        wait_for(publisher.get_subscription_count, "nobody listens")
        # Whoever listens may learn later of who sends than that of them: what was sent until then is lost.
        assert process.stdout is not None and process.stdout.readline() == "matched 1\n"
        content = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
        for number in range(30):
            publisher.publish(image(content, number))
            time.sleep(0.03)
        # A match may be told of more than once.
        (*_, output) = process.communicate(timeout=60)[0].splitlines()
        node.destroy_node()
    assert json.loads(output) == list(range(30))
