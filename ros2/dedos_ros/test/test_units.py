"""What the package does without ROS: frames, masks and names, clouds, pairs, turns, parameters."""

from __future__ import annotations

import ast
import py_compile
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml
from dedos_ros.clouds import CloudMaker, Pinhole, depth_m
from dedos_ros.frames import frame_bgr, frame_of_image
from dedos_ros.health import Health
from dedos_ros.labels import Announcements, MaskFormat
from dedos_ros.newest import Newest
from dedos_ros.pairing import DEPTHS_KEPT, MASKS_KEPT, Pairing
from dedos_ros.settings import Settings

from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.runtime.label_maps import fitted
from dedos_deploy.trust import doubt_of

ROOT = Path(__file__).resolve().parents[1]


def message(pixels: np.ndarray, encoding: str, **fields: int) -> SimpleNamespace:
    given = dict(
        data=pixels.tobytes(),
        encoding=encoding,
        height=pixels.shape[0],
        width=pixels.shape[1],
        step=pixels.nbytes // len(pixels),
        is_bigendian=0,
    )
    return SimpleNamespace(**{**given, **fields})


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_give_the_colour_that_they_hold(pattern: str) -> None:
    levels = {"r": 200, "g": 100, "b": 50}
    cell = np.array([levels[each] for each in pattern], np.uint8).reshape(2, 2)
    bgr = frame_of_image(message(np.tile(cell, (4, 5)), f"bayer_{pattern}8"))
    np.testing.assert_array_equal(bgr[2:-2, 2:-2], np.broadcast_to([50, 100, 200], (4, 6, 3)))


def test_rows_of_nv12_may_be_padded() -> None:
    rows = np.random.default_rng(0).integers(0, 255, (6, 16), np.uint8)
    padded = np.pad(rows, ((0, 0), (0, 9)))
    whole = frame_of_image(message(rows, "nv12", height=4))
    cut = frame_of_image(message(padded, "nv12", height=4, width=16))
    np.testing.assert_array_equal(frame_bgr(whole), frame_bgr(cut))
    with pytest.raises(SourceError, match="needs 96 bytes and has 80 in rows of 16"):
        frame_of_image(message(rows[:5], "nv12", height=4))


def test_masks_have_255_or_0_where_nothing_was_named() -> None:
    narrow, wide = np.array([[0, 253, 255]], np.uint8), np.array([[0, 299, 65535]], np.uint16)
    for encoding, unlabelled, label_map, none_id, expected in (
        ("mono8", 255, narrow, 255, [0, 253, 255]),
        ("mono8", 0, narrow, 255, [1, 254, 0]),
        ("mono16", 255, narrow, 255, [0, 253, 65535]),
        ("mono16", 0, narrow, 255, [1, 254, 0]),
        ("mono16", 255, wide, 65535, [0, 299, 65535]),
        ("mono16", 0, wide, 65535, [1, 300, 0]),
    ):
        written = MaskFormat(encoding, unlabelled)
        mask = written.mask(label_map, none_id)
        assert mask.dtype == {"mono8": np.uint8, "mono16": np.uint16}[encoding]
        assert mask.tolist() == [expected]
        assert written.named([(7, "car"), (2, "road")])[0] == (2 + (unlabelled == 0), "road")
    with pytest.raises(
        BadInputError, match="254 classes, not 255; set the parameter mask_encoding"
    ):
        MaskFormat("mono8").check(255)
    MaskFormat("mono16").check(255)
    with pytest.raises(BadInputError, match="unlabelled must be 255"):
        MaskFormat("mono8", 7)


def test_names_are_said_once_a_version_and_since_when() -> None:
    said = Announcements()
    assert said.due(1, [(0, "road")]).after_ns == 0
    said.published(50)
    assert said.due(1, [(0, "road")]) is None
    later = said.due(2, [(1, "car")])
    assert (later.version, later.entries, later.after_ns) == (2, ((1, "car"),), 50)
    # A frame that began before the change comes too late to be told of.
    assert said.due(1, [(0, "road")]) is None


def test_clouds_have_a_point_per_pixel_of_the_mask() -> None:
    depth = np.array([[0, 1000], [2000, 65535]], np.uint16)
    metres = depth_m(message(depth, "16UC1"))
    swapped = depth_m(message(depth.byteswap(), "16UC1", is_bigendian=1))
    np.testing.assert_array_equal(metres, swapped)
    floats = depth_m(message(np.array([[np.inf, 1], [-2, np.nan]], np.float32), "32FC1"))
    assert np.isnan(floats).tolist() == [[True, False], [True, True]]
    mask, confidence = np.array([[1, 2], [3, 255]], np.uint8), np.full((2, 2), 9, np.uint8)
    camera = Pinhole(2.0, 4.0, 0.5, 0.0, 2, 2)
    points = CloudMaker().cloud(metres, camera, mask, confidence)
    assert points.tolist()[1][0] == (-0.5, 0.5, 2.0, 3, 9)
    assert np.isnan(points["z"][0, 0]) and np.isnan(points["x"][0, 0])
    np.testing.assert_array_equal(points["label"], mask)
    with pytest.raises(BadInputError, match="register depth to the image"):
        CloudMaker().cloud(metres[:1], camera, mask, confidence)
    with pytest.raises(BadInputError, match="is not a depth's"):
        depth_m(message(mask, "mono8"))
    with pytest.raises(BadInputError, match="needs 8 bytes and has 4"):
        depth_m(message(mask, "16UC1", width=2, step=4))
    with pytest.raises(BadInputError, match="focal lengths 0 and 0"):
        Pinhole.from_info(SimpleNamespace(p=[0.0] * 12, k=[0.0] * 9, width=2, height=2))


def test_pairs_are_of_equal_stamps_or_of_the_nearest_within_the_slop() -> None:
    pairs: Pairing[str, str] = Pairing(100)
    assert pairs.add_depth(1000, "a") == []
    assert pairs.add_mask(1000, "exact") == [("exact", "a")]
    assert pairs.add_mask(1060, "nearest") == []
    assert pairs.add_depth(1100, "b") == [("nearest", "b")]
    assert pairs.add_mask(1201, "far") == []
    assert pairs.add_depth(1302, "c") == []
    for number in range(MASKS_KEPT):
        pairs.add_mask(10**6 + number, "waits")
    assert pairs.unpaired == 1
    for number in range(2 * DEPTHS_KEPT):
        pairs.add_depth(2000 + number, "d")
    assert len(pairs._depths) == DEPTHS_KEPT


def test_the_newest_frame_of_each_camera_in_turn() -> None:
    newest: Newest[int] = Newest()
    assert not newest.put("front", 1) and newest.put("front", 2)
    assert not newest.put("rear", 3)
    assert newest.take() == ("front", 2)
    newest.put("front", 4)
    assert [newest.take(), newest.take()] == [("rear", 3), ("front", 4)]
    taken: list[object] = []
    waiting = threading.Thread(target=lambda: taken.append(newest.take()))
    waiting.start()
    newest.close()
    waiting.join(10)
    assert taken == [None] and not newest.put("front", 5)


def test_what_is_wrong_is_news_once() -> None:
    health = Health()
    assert health.summary() == ("warning", "no image has come yet")
    health.count(received=3, labelled=2)
    assert health.wrong("image", "is bad") and not health.wrong("image", "is bad")
    assert health.summary() == ("error", "image: is bad")
    assert health.wrong("image", None) and not health.wrong("image", None)
    assert health.summary()[0] == "ok" and health.numbers()["labelled"] == "2"


def test_frames_that_are_not_to_be_trusted_are_a_warning() -> None:
    health = Health()
    health.count(received=1, labelled=1)
    assert "trust" not in health.numbers()
    health.trust, health.doubt = 0.125, doubt_of(0.125)
    level, sentence = health.summary()
    assert level == "warning" and "doubt its labels" in sentence
    assert health.numbers()["trust"] == "0.12"
    health.wrong("image", "is bad")
    assert health.summary()[0] == "error"


def test_a_smaller_mask_keeps_the_proportions() -> None:
    assert fitted((480, 640), (400, 200)) == (200, 267)
    assert fitted((100, 1000), (400, 200)) == (40, 400)
    assert fitted((50, 60), (400, 200)) == (50, 60)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"classes": []}, "class"),
        ({"classes": None}, "classes must not be empty; give it a value or leave it out"),
        ({"image_transport": "theora"}, "image_transport must be one of raw, compressed"),
        ({"resized_wh": [400]}, "resized_wh must be a width and a height above 0"),
        ({"cameras": ["front", "front"]}, "names of their own"),
        ({"cameras": ["left arm"]}, "a camera's name is one for topics"),
        ({"mask_encoding": "bgr8"}, "mask_encoding must be one of mono8, mono16"),
        ({"classes": [f"thing {number}" for number in range(255)]}, "mono16"),
        ({"classes": ["/no/such.words"]}, "class file '/no/such.words' does not exist"),
        ({"classes": ["road", "my.words"]}, "the words file 'my.words' beside others; give the"),
    ],
)
def test_parameters_that_cannot_be(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadInputError, match=sentence):
        Settings.from_values(values)


def test_files_of_parameters_hold_what_the_node_knows() -> None:
    for name in ("segmentation.yaml", "cameras.yaml"):
        content = yaml.safe_load((ROOT / "config" / name).read_text())
        Settings.from_values(content["/**"]["ros__parameters"])
    names = yaml.safe_load((ROOT / "config/nav2_costmap.yaml").read_text())
    layer = names["local_costmap"]["local_costmap"]["ros__parameters"][
        "semantic_segmentation_layer"
    ]
    camera = layer["camera"]
    configured = {word for kind in camera["class_types"] for word in camera[kind]["classes"]}
    own = yaml.safe_load((ROOT / "config/segmentation.yaml").read_text())
    assert configured == set(Settings.from_values(own["/**"]["ros__parameters"]).vocabulary.names)


def test_what_is_imported_is_in_the_manifest() -> None:
    modules = [*ROOT.glob("dedos_ros/*.py"), *ROOT.glob("launch/*.py")]
    imported = {
        name.split(".")[0]
        for path in modules
        for found in ast.walk(ast.parse(path.read_text()))
        for name in (
            [each.name for each in found.names]
            if isinstance(found, ast.Import)
            else [str(found.module)]
            if isinstance(found, ast.ImportFrom)
            else []
        )
    }
    # From pip: rosdep knows no key for it.
    foreign = imported - set(sys.stdlib_module_names) - {"dedos_ros", "dedos_deploy"}
    manifest = ET.parse(ROOT / "package.xml")
    named = {str(each.text).removeprefix("python3-") for each in manifest.iter("exec_depend")}
    assert foreign == named


def test_launch_files_compile(tmp_path: Path) -> None:
    for path in ROOT.glob("launch/*.launch.py"):
        py_compile.compile(str(path), str(tmp_path / "compiled"), doraise=True)
