"""A data set whose classes are colours, and a graph that tells colours: labels known exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from dedos_deploy.bundle import BundleWriter, Manifest
from dedos_deploy.config_json import AnyConfig
from dedos_deploy.presets import PRESETS, ModelConfig
from dedos_deploy.spec import GraphSpec

BLUE, GREEN, RED = (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLOURS = np.array([BLUE, GREEN, RED], dtype=np.uint8)

EXPECTED = {"blue": 3 / 4, "green": 4 / 5, "red": 1.0}
"""Of 2 stripes each: blue has 1.5 right of 2, green 2 right of 2 labelled and 2.5 predicted."""


def write_item(root: Path, name: str, seen: np.ndarray, labels: np.ndarray) -> None:
    """Write an image whose pixels have the colours of the classes `seen`, and its labels."""
    for folder in ("images", "labels"):
        (root / folder / "val").mkdir(parents=True, exist_ok=True)
    image = COLOURS[seen]
    cv2.imwrite(str(root / "images" / "val" / f"{name}.png"), image)
    cv2.imwrite(str(root / "labels" / "val" / f"{name}.png"), labels.astype(np.uint8))


def write_colours(root: Path) -> Path:
    """Write two images of 32x48: one seen as labelled, one seen as half wrong; one without labels."""
    labels = np.repeat(np.repeat([[0, 1, 2]], 32, axis=0), 16, axis=1)
    write_item(root, "a", labels, labels)
    seen = labels.copy()
    seen[16:, :16] = 1  # half of blue is seen as green
    write_item(root, "b", seen, labels)
    write_item(root, "c", labels, np.full_like(labels, 255))
    (root / "classes.txt").write_text("blue\nGreen\nred\n")
    return root


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


def write_bundle(
    dest: Path,
    *,
    graph: bytes | None = None,
    config: AnyConfig | None = None,
    words: Mapping[str, Sequence[float]] | None = None,
    **manifest_fields: Any,
) -> Path:
    """Write a bundle of `colour_graph`, or another graph of its shape, that knows three colours.

    config: what the manifest says of the model; words: others, with the BGR direction of each;
    manifest_fields: what else the manifest says.
    """
    config = config or colour_config()
    words = words or dict(zip(("blue", "green", "red"), np.eye(3).tolist(), strict=True))
    manifest = Manifest(
        preset=config.preset,
        config=config.to_dict(),
        spec=GraphSpec(height=32, width=48, text_width=3),
        target="cpu",
        precision={},
        activation=config.clip.activation,
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
    manifest = replace(manifest, **manifest_fields)
    with BundleWriter(dest) as writer:
        writer.add_bytes("model.onnx", graph or colour_graph())
        # Never read: every word of the tests is shipped with its embedding.
        writer.add_bytes("text_encoder.onnx", b"")
        writer.add_bytes("tokenizer.json", b"{}")
        writer.add_vocabulary("colours", tuple(words), np.array([*words.values()], np.float32))
        return writer.commit(manifest)
