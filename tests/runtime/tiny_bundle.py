"""A bundle whose graph is a colour detector: the words red, green and blue score their channel."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from dedos_deploy.bundle import TRUST, BundleWriter, Manifest, batch_file
from dedos_deploy.presets import PRESETS
from dedos_deploy.runtime import Segmentation
from dedos_deploy.spec import GraphSpec
from dedos_deploy.text.tokenizer import END, START
from dedos_deploy.trust import TrustStatistics, trust_to_bytes

HEIGHT, WIDTH = 32, 48
TEXT_WIDTH = PRESETS["nano"].clip.text_width
CONTEXT = PRESETS["nano"].clip.text.context_length
COLOURS_BGR = {"blue": (255, 0, 0), "green": (0, 255, 0), "red": (0, 0, 255)}
BASE_WORDS = ("blue", "green", "red", "table", "chair", "lamp", "shelf", "door", "window", "floor")
DEFAULT_THRESHOLD = 0.5


def embeddings() -> NDArray[np.float32]:
    """Return unit rows [10, D]: colours are axes 0 to 2, the rest lie in other dimensions."""
    rows = np.zeros((len(BASE_WORDS), TEXT_WIDTH), dtype=np.float32)
    rows[:3, :3] = np.eye(3)
    rows[3:, 3:] = np.random.default_rng(0).normal(size=(len(BASE_WORDS) - 3, TEXT_WIDTH - 3))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def image_graph(
    *,
    height: int = HEIGHT,
    width: int = WIDTH,
    text_width: int = TEXT_WIDTH,
    gain: float = 1.0,
    half: bool = False,
    batch: int = 1,
    pooled: bool = False,
) -> bytes:
    """Return scores[k] = clip(gain * text[k, :3] . mean BGR of a cell / 255) * valid[k] as ONNX.

    pooled: it also gives the mean BGR of the image, [B, 3].
    """
    rows, columns = height // 4, width // 4
    constants = {
        "scale": np.float32(gain / 255.0),
        "starts": np.array([0]),
        "ends": np.array([3]),
        "axes": np.array([1]),
        "flat": np.array([batch, 3, rows * columns]),
        "map": np.array([batch, -1, rows, columns]),
        "column": np.array([-1, 1]),
        "zero": np.float32(0.0),
        "one": np.float32(1.0),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Mul", ["cells", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["columns"]),
        helper.make_node("Slice", ["text", "starts", "ends", "axes"], ["colour"]),
        helper.make_node("MatMul", ["colour", "columns"], ["product"]),
        helper.make_node("Reshape", ["valid", "column"], ["used"]),
        helper.make_node("Mul", ["product", "used"], ["masked"]),
        helper.make_node("Clip", ["masked", "zero", "one"], ["clipped"]),
        helper.make_node("Reshape", ["clipped", "map"], ["full"]),
        helper.make_node("Cast", ["full"], ["scores"], to=_float_type(half)),
    ]
    if pooled:
        constants["sides"] = np.array([1, 2])
        nodes.append(helper.make_node("ReduceMean", ["cast", "sides"], ["pooled"], keepdims=0))
    spec = GraphSpec(
        height,
        width,
        text_width,
        batch=batch,
        score_dtype="float16" if half else "float32",
        pooled_width=3 if pooled else 0,
    )
    return graph_of(nodes, constants, spec)


def graph_of(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, ArrayLike], spec: GraphSpec
) -> bytes:
    """Return the ONNX file of an image graph with the tensors of `spec`."""
    image, text, valid = spec.inputs
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "scores",
        [
            value("image", TensorProto.UINT8, image.shape),
            value("text", TensorProto.FLOAT, text.shape),
            value("valid", TensorProto.FLOAT, valid.shape),
        ],
        [
            value(tensor.name, _float_type(tensor.dtype == "float16"), tensor.shape)
            for tensor in spec.outputs
        ],
        [numpy_helper.from_array(np.asarray(item), name) for name, item in constants.items()],
    )
    return _serialised(graph)


def examples_graph() -> bytes:
    """Return embedding [1, D, h, w]: the mean BGR of a cell of 4x4 pixels / 255, and D - 3 zeros."""
    rows, columns = HEIGHT // 4, WIDTH // 4
    zeros = np.zeros((1, TEXT_WIDTH - 3, rows, columns), dtype=np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Div", ["cells", "most"], ["scaled"]),
        helper.make_node("Concat", ["scaled", "zeros"], ["embedding"], axis=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "embedding",
        [value("image", TensorProto.UINT8, (1, HEIGHT, WIDTH, 3))],
        [value("embedding", TensorProto.FLOAT, (1, TEXT_WIDTH, rows, columns))],
        [
            numpy_helper.from_array(zeros, "zeros"),
            numpy_helper.from_array(np.float32(255), "most"),
        ],
    )
    return _serialised(graph)


def _float_type(half: bool) -> int:
    return int(TensorProto.FLOAT16 if half else TensorProto.FLOAT)


def text_graph() -> bytes:
    """Return a text tower that maps tokens to a fixed random projection."""
    weights = np.random.default_rng(1).normal(size=(CONTEXT, TEXT_WIDTH)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["tokens"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["cast", "weights"], ["embedding"]),
        ],
        "text",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", CONTEXT])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", TEXT_WIDTH])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return _serialised(graph)


def _serialised(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@functools.cache
def _tokenizer_json() -> bytes:
    """Return a tokenizer of the bundle's format with one token per letter, which needs no CLIP."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, START, END])}
    pairs = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pairs.to_str().encode()


def tiny_spec() -> GraphSpec:
    return GraphSpec(height=HEIGHT, width=WIDTH, text_width=TEXT_WIDTH)


def write_tiny_bundle(
    dest: Path,
    *,
    model: bytes | None = None,
    base: bool = True,
    half: bool = False,
    thresholds: dict[str, float] | None = None,
    target: str = "cpu",
    batch: int = 1,
    batches: Sequence[int] = (),
    files: dict[str, bytes] | None = None,
    checkpoint_sha256: str | None = None,
    trust: TrustStatistics | None = None,
    tiles: str = "off",
) -> Path:
    """Write the bundle to `dest` and return it; batches: frames per run of graphs besides the first;
    trust: statistics of the mean BGR of frames, which its graphs then give."""
    config, pooled = PRESETS["nano"], trust is not None
    manifest = Manifest(
        preset="nano",
        config=config.to_dict(),
        spec=replace(
            tiny_spec(),
            batch=batch,
            score_dtype="float16" if half else "float32",
            pooled_width=3 if pooled else 0,
        ),
        target=target,
        precision={"image": "fp32", "text": "fp32"},
        activation=config.clip.activation,
        template_name="single",
        templates=["{}"],
        context_length=CONTEXT,
        thresholds=thresholds or {},
        default_threshold=DEFAULT_THRESHOLD,
        checkpoint_sha256=checkpoint_sha256,
        tools={},
        sources=[],
        licence="Apache-2.0",
        created="2026-01-02T03:04:05+00:00",
        base_vocabulary="base" if base else None,
        tiles=tiles,
    )
    with BundleWriter(dest) as writer:
        writer.add_bytes("model.onnx", model or image_graph(half=half, batch=batch, pooled=pooled))
        writer.add_bytes("text_encoder.onnx", text_graph())
        writer.add_bytes("tokenizer.json", _tokenizer_json())
        for size in batches:
            content = image_graph(half=half, batch=size, pooled=pooled)
            writer.add_bytes(batch_file(size), content)
        if trust is not None:
            writer.add_bytes(TRUST, trust_to_bytes(trust))
        for name, content in (files or {}).items():
            writer.add_bytes(name, content)
        if base:
            writer.add_vocabulary("base", BASE_WORDS, embeddings())
        return writer.commit(manifest)


def stripes(height: int = 60, width: int = 90) -> NDArray[np.uint8]:
    """Return a frame of three vertical stripes, blue, green and red."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    for index, colour in enumerate(COLOURS_BGR.values()):
        frame[:, index * width // 3 : (index + 1) * width // 3] = colour
    return frame


def at(result: Segmentation, name: str, frame: NDArray[np.uint8]) -> int:
    """Return the id in the middle of the stripe of colour `name`."""
    column = {"blue": 1, "green": 3, "red": 5}[name] * frame.shape[1] // 6
    return int(result.label_map[frame.shape[0] // 2, column])
