"""Evaluation end to end: folders of labelled images, a fake segmenter, a tiny real bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from dedos_deploy.bundle import BundleWriter, Manifest
from dedos_deploy.cli import eval as eval_cli
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation import LabelledFolder, evaluate_segmenter, match_classes
from dedos_deploy.presets import PRESETS, ModelConfig
from dedos_deploy.runtime import Segmentation
from dedos_deploy.spec import GraphSpec
from dedos_deploy.vocabulary import parse_vocabulary

BLUE, GREEN, RED = (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLOURS = np.array([BLUE, GREEN, RED], dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))


def write_item(root: Path, name: str, seen: np.ndarray, labels: np.ndarray) -> None:
    """Write an image whose pixels have the colours of the classes `seen`, and its labels."""
    for folder in ("images", "labels"):
        (root / folder / "val").mkdir(parents=True, exist_ok=True)
    image = COLOURS[seen]
    cv2.imwrite(str(root / "images" / "val" / f"{name}.png"), image)
    cv2.imwrite(str(root / "labels" / "val" / f"{name}.png"), labels.astype(np.uint8))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two images of 32x48: one seen as labelled, one seen as half wrong; one without labels."""
    root = tmp_path / "data"
    labels = np.repeat(np.repeat([[0, 1, 2]], 32, axis=0), 16, axis=1)
    write_item(root, "a", labels, labels)
    seen = labels.copy()
    seen[16:, :16] = 1  # half of blue is seen as green
    write_item(root, "b", seen, labels)
    write_item(root, "c", labels, np.full_like(labels, 255))
    (root / "classes.txt").write_text("blue\nGreen\nred\n")
    return root


EXPECTED = {"blue": 3 / 4, "green": 4 / 5, "red": 1.0}
"""Of 2 stripes each: blue has 1.5 right of 2, green 2 right of 2 labelled and 2.5 predicted."""


class FakeSegmenter:
    """The runtime's contract with perfect eyes: a pixel's class is its colour.

    The session has met a class before, so its ids are not those of the vocabulary.
    """

    classes = ("something older", "red", "green", "blue")

    def segment(self, frame_bgr: np.ndarray) -> Segmentation:
        label_map = (3 - frame_bgr.argmax(axis=2)).astype(np.uint8)
        counts = np.bincount(label_map.ravel(), minlength=len(self.classes)).astype(np.int64)
        return Segmentation(
            label_map=label_map,
            confidence=np.full_like(label_map, 255),
            classes=self.classes,
            class_ids=(1, 2, 3),
            counts=counts,
            none_id=255,
            vocabulary_version=2,
            timestamp_s=0.0,
            latency_ms={"pre": 0.0, "engine": 0.0, "post": 0.0},
        )


def test_with_a_fake_segmenter(data: Path) -> None:
    folder = LabelledFolder.open(data, "val")
    vocabulary, _ = match_classes(folder.classes, None)
    calls: list[tuple[int, int]] = []
    result = evaluate_segmenter(
        FakeSegmenter(), folder, vocabulary, progress=lambda *call: calls.append(call)
    )
    assert result.classes == ("blue", "green", "red")
    np.testing.assert_allclose(result.iou, list(EXPECTED.values()))
    assert result.miou_present == result.miou_union == pytest.approx(np.mean([*EXPECTED.values()]))
    assert result.accuracy == pytest.approx(5.5 / 6)
    assert (result.images, result.skipped, result.labelled) == (2, 1, (1024, 1024, 1024))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_classes_left_out_are_not_counted(data: Path) -> None:
    folder = LabelledFolder.open(data, "val")
    result = evaluate_segmenter(FakeSegmenter(), folder, parse_vocabulary("red,green"))
    assert result.iou == (1.0, 1.0) and sum(result.labelled) == 2048
    with pytest.raises(
        BadInputError, match="class 'gren' is not in the data, did you mean 'green'"
    ):
        evaluate_segmenter(FakeSegmenter(), folder, parse_vocabulary("gren"))


def test_an_entry_may_rename_and_join_classes() -> None:
    names = ("car", "bus", "traffic sign", "void")
    vocabulary, table = match_classes(names, parse_vocabulary("sign|Traffic_Sign,car|bus"))
    assert list(table[:5]) == [1, 1, 0, 255, 255]
    vocabulary, table = match_classes(names, None)
    assert vocabulary.names == names[:3] and list(table[:5]) == [0, 1, 2, 255, 255]


def test_an_unlabelled_split_is_refused(data: Path) -> None:
    for name in ("a", "b"):
        (data / "images" / "val" / f"{name}.png").unlink()
    with pytest.raises(BadInputError, match="no pixel of split 'val' .*labelled with one of blue"):
        evaluate_segmenter(
            FakeSegmenter(), LabelledFolder.open(data, "val"), parse_vocabulary("blue")
        )


def spoil(data: Path, what: str) -> None:
    label = data / "labels" / "val" / "b.png"
    match what:
        case "no split":
            (data / "images" / "val").rename(data / "images" / "train")
        case "no label":
            label.unlink()
        case "no images":
            for path in (data / "images" / "val").iterdir():
                path.unlink()
        case "no classes":
            (data / "classes.txt").unlink()
        case "class twice":
            (data / "classes.txt").write_text("blue\nroad\nBlue\n")
        case "empty line":
            (data / "classes.txt").write_text("blue\n\nred\n")
        case "too few classes":
            (data / "classes.txt").write_text("blue\ngreen\n")
        case "label size":
            cv2.imwrite(str(label), np.zeros((32, 47), np.uint8))
        case "colour label":
            cv2.imwrite(str(label), np.zeros((32, 48, 3), np.uint8))
        case "broken image":
            (data / "images" / "val" / "b.png").write_bytes(b"\x89PNG")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no split", "images/val' does not exist; splits there: train"),
        ("no label", "b.png' has no labels '.*labels/val/b.png'"),
        ("no images", "images/val' has no .jpg or .* file"),
        ("no classes", "classes.txt' cannot be read .*one class per line"),
        ("class twice", "names 'blue' on lines 1 and 3"),
        ("empty line", "line 2 is empty"),
        ("too few classes", "a.png' hold the value 2, but classes.txt names 2 classes"),
        ("label size", "b.png' are 47x32, but their image is 48x32"),
        ("colour label", "b.png' are not an 8-bit grey PNG"),
        ("broken image", "b.png' cannot be read"),
    ],
)
def test_unusable_data_is_named(data: Path, what: str, message: str) -> None:
    spoil(data, what)
    with pytest.raises(BadInputError, match=message):
        for _ in LabelledFolder.open(data, "val"):
            pass


def colour_graph() -> bytes:
    """Return scores[k] = text[k] . BGR of a cell / 255, as ONNX, for 32x48 and D = 3."""
    constants = {
        "scale": np.float32(1 / 255),
        "flat": np.array([3, 96]),
        "map": np.array([1, -1, 8, 12]),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Mul", ["cells", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["columns"]),
        helper.make_node("MatMul", ["text", "columns"], ["product"]),
        helper.make_node("Reshape", ["valid", "column"], ["used"]),
        helper.make_node("Mul", ["product", "used"], ["masked"]),
        helper.make_node("Reshape", ["masked", "map"], ["scores"]),
    ]
    constants["column"] = np.array([-1, 1])
    graph = helper.make_graph(
        nodes,
        "colours",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 32, 48, 3]),
            helper.make_tensor_value_info("text", TensorProto.FLOAT, ["K", 3]),
            helper.make_tensor_value_info("valid", TensorProto.FLOAT, ["K"]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "K", 8, 12])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())


def colour_config() -> ModelConfig:
    nano = PRESETS["nano"]
    return replace(nano, size_hw=(32, 48), clip=replace(nano.clip, text_width=3))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    config = colour_config()
    manifest = Manifest(
        preset="nano",
        config=config.to_dict(),
        spec=GraphSpec(height=32, width=48, text_width=3),
        target="cpu",
        precision={},
        activation="gelu",
        template_name="plain",
        templates=["{}"],
        context_length=config.clip.text.context_length,
        thresholds={},
        default_threshold=0.5,
        checkpoint_sha256=None,
        tools={},
        sources=[],
        licence="Apache-2.0",
        created="2026-01-02T03:04:05+00:00",
    )
    with BundleWriter(tmp_path / "colours.dedos") as writer:
        writer.add_bytes("model.onnx", colour_graph())
        # Never read: every word of the tests is shipped with its embedding.
        writer.add_bytes("text_encoder.onnx", b"")
        writer.add_bytes("tokenizer.json", b"{}")
        writer.add_vocabulary("colours", ("blue", "green", "red"), np.eye(3, dtype=np.float32))
        return writer.commit(manifest)


@pytest.fixture
def command(bundle: Path, data: Path) -> Callable[..., int]:
    def call(*more: str) -> int:
        given = ["--bundle", str(bundle), "--data", str(data), "--threads", "1", *more]
        return eval_cli.main(given)

    return call


def test_command_line_on_a_bundle(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--json") == 0
    lines = capsys.readouterr().out.splitlines()
    values = json.loads(lines[-1])
    assert set(values) == {
        "miou_present", "miou_union", "accuracy", "iou", "images", "skipped",
        "seconds_inference", "seconds_total",
    }  # fmt: skip
    # Scores have a quarter of the resolution, so borders of stripes may move by a pixel or two.
    assert values["iou"] == pytest.approx(EXPECTED, abs=0.02)
    assert (values["images"], values["skipped"]) == (2, 1)
    table = next(line for line in lines if line.startswith("red"))
    assert table.split() == ["red", f"{values['iou']['red']:.3f}", "33.3%"]


def test_command_line_with_classes(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--classes", "red,blue", "--json") == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(values["iou"]) == ["red", "blue"]


def test_command_line_says_what_is_wrong(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--split", "test") == 2
    error = capsys.readouterr().err
    assert error.startswith("dedos-eval: error: data folder") and "splits there: val" in error
    assert error.count("\n") == 1
    assert command("--classes", "purple") == 2
    assert "class 'purple' is not in the data" in capsys.readouterr().err


def test_help_and_evaluation_stay_light() -> None:
    script = (
        "import sys\nfrom dedos_deploy.cli.eval import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'numpy', 'cv2', 'torch'} & set(sys.modules)\n"
        "import dedos_deploy.evaluation\n"
        "assert not {'torch', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
