"""How the node comes, goes, and is killed; and several cameras on one engine."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import rclpy
import yaml
from dedos_ros.node import SegmentationNode
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from robot import CLASSES, PROGRAM, Robot, image, node, robot, stamp_ns, wait_for
from sensor_msgs.msg import CompressedImage

from dedos_deploy import Segmenter
from dedos_deploy.scenes import render_image

HW = 120, 160


def picture(seed: int = 5) -> np.ndarray:
    return render_image("street", seed=seed, size_hw=HW)[0]


def heard(around: Robot, stamp: int) -> bool:
    return around.heard_of("label_mask", stamp) is not None


def test_transitions_and_a_kill() -> None:
    remapped = ("-r", "__node:=walker", "-r", "image:=/walker/image")
    with robot("walker") as around:
        around.listen("label_mask")
        around.listen("label_info")
        with node({"autostart": False}, *remapped) as running:
            assert around.state() == "unconfigured"
            assert around.set_parameters(bundle="/no/such/bundle").successful
            assert not around.change_state("configure")
            assert around.state() == "unconfigured" and "/no/such/bundle" in running.log()
            assert around.set_parameters(bundle="demo").successful
            assert around.change_state("configure") and around.state() == "inactive"
            assert not around.by_topic["label_info"]
            assert around.change_state("activate") and around.state() == "active"
            around.labelled(image(picture(), 1), to="/walker/image")
            assert around.change_state("deactivate") and around.state() == "inactive"
            wait_for(lambda: not around.node.count_subscribers("/walker/image"), "still subscribed")
            assert around.change_state("activate")
            around.labelled(image(picture(), 2), to="/walker/image")
            for transition in ("deactivate", "cleanup"):
                assert around.change_state(transition)
            assert around.state() == "unconfigured"
            assert around.set_parameters(classes=["sky", "road"]).successful
            assert around.change_state("configure") and around.change_state("activate")
            around.labelled(image(picture(), 3), to="/walker/image")
            names = [each.class_name for each in around.by_topic["label_info"][-1].class_map]
            assert names == ["sky", "road"]
            assert running.stop(signal.SIGKILL) == -signal.SIGKILL
        before = len(around.by_topic["label_info"])
        with node({}, *remapped) as running:
            wait_for(
                lambda: len(around.by_topic["label_info"]) > before, "label_info after a restart"
            )
            mask = around.labelled(image(picture(), 4), to="/walker/image")
            assert stamp_ns(mask) == 4
            again = around.by_topic["label_info"][-1]
            assert [each.class_name for each in again.class_map] == CLASSES
            assert again.header.frame_id == "version=1"
            assert running.stop() == 0 and "Traceback" not in running.log()


def begun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, "--ros-args", *(str(each) for each in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-p", "threshold:=1"), "'threshold' to '1' of type 'INTEGER', expecting type 'DOUBLE'"),
        (("-p", "classes:=road"), "expecting type 'STRING_ARRAY'"),
        (("-p", "autostart:=true", "-p", "classes:=[]"), "classes must not be empty; give it"),
        (("--params-file", "/no/such.yaml"), "/no/such.yaml"),
    ],
)
def test_arguments_that_cannot_be(arguments: tuple[str, ...], sentence: str) -> None:
    done = begun(*arguments)
    own = [line for line in done.stderr.splitlines() if "[rcl]" not in line]
    assert done.returncode == 2 and len(own) == 1 and sentence in own[0]


def test_the_parameter_file_of_the_package_is_taken_and_a_wrong_name_is_told() -> None:
    (path,) = PROGRAM.parents[2].glob("share/dedos_ros/config/segmentation.yaml")
    # `threads` here keeps the node from the cores of other tests; the rest is the file's.
    given = (
        "--params-file",
        path,
        "-p",
        "threads:=1",
        "-p",
        "clases:=[sky]",
        "-r",
        "__node:=filed",
    )
    command = [sys.executable, PROGRAM, "--ros-args", *(str(each) for each in given)]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        robot("filed") as around,
    ):
        try:
            around.listen("label_info")
            (info,) = wait_for(lambda: around.by_topic["label_info"], "label_info")
        finally:
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
    names = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]["classes"]
    assert [each.class_name for each in info.class_map] == [each.split("|")[0] for each in names]
    assert process.returncode == 0 and said.count("has no effect") == 1
    assert "parameter 'clases' is unknown and has no effect, did you mean 'classes'?" in said


def test_a_signal_in_the_middle_of_a_start_ends_it_quietly() -> None:
    program = """
import os, signal, sys, time
from dedos_ros import main, node
def interrupted(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
node._segmenter = interrupted
sys.exit(main.main(["--ros-args", "-p", "autostart:=true"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_a_signal_while_ros_is_imported_ends_it_quietly() -> None:
    program = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "dedos_ros.node":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from dedos_ros.main import main
sys.exit(main([]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_what_a_transition_raises_is_logged(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr("dedos_ros.node._segmenter", broken)
    composed = SegmentationNode("broken")
    try:
        assert composed.trigger_configure() == TransitionCallbackReturn.ERROR
    finally:
        composed.destroy_node()
    assert "RuntimeError: no memory left" in capfd.readouterr().err


def test_nodes_are_composed_in_one_process_by_name() -> None:
    executor = rclpy.executors.MultiThreadedExecutor(2)
    given = [Parameter("classes", value=["road", "sky"]), Parameter("threads", value=1)]
    nodes = [SegmentationNode(name, parameter_overrides=given) for name in ("left", "right")]
    spinning = threading.Thread(target=executor.spin, daemon=True)
    try:
        for each in nodes:
            executor.add_node(each)
            assert each.trigger_configure() == each.trigger_activate()
        spinning.start()
        for name in ("left", "right"):
            with robot(name) as around:
                around.listen("label_mask")
                mask = around.labelled(image(picture(), 9))
                assert set(np.frombuffer(mask.data, np.uint8)) <= {0, 1, 255}
    finally:
        executor.shutdown()
        for each in nodes:
            each.destroy_node()


def test_two_cameras_share_an_engine_compressed_and_in_16_bits() -> None:
    settings = {
        "cameras": ["front", "rear"],
        "image_transport": "compressed",
        "mask_encoding": "mono16",
        "unlabelled": 0,
        "background": "threshold",
        "threshold": 0.5,
    }
    with node(settings, "-r", "__node:=pair") as running, robot("pair") as around:
        with Segmenter.load("demo", classes=CLASSES, threshold=0.5, threads=1) as alone:
            for seed, camera in enumerate(("front", "rear"), start=1):
                around.listen(f"{camera}/label_mask")
                around.listen(f"{camera}/label_info")
                bgr = picture(seed)
                message = CompressedImage(format="png", data=cv2.imencode(".png", bgr)[1].tobytes())
                message.header.stamp.nanosec = seed
                mask = around.labelled(
                    message, f"{camera}/label_mask", to=f"/{camera}/image/compressed"
                )
                assert (mask.encoding, mask.step) == ("mono16", 2 * mask.width)
                numbers = np.frombuffer(mask.data, "<u2").reshape(HW)
                result = alone.segment(bgr)
                expected = result.label_map.astype(int) + 1
                expected[result.label_map == result.none_id] = 0
                np.testing.assert_array_equal(numbers, expected)
                info = wait_for(lambda c=camera: around.by_topic[f"{c}/label_info"], "names")[-1]
                named = {each.class_id: each.class_name for each in info.class_map}
                assert named == dict(enumerate(CLASSES, start=1)) and info.threshold == 0.5
                around.complaint("labels images", camera)
        assert running.stop() == 0
