"""Graphs and checkpoints under attack: refused in one sentence, before anything is allocated."""

from __future__ import annotations

import copy
import json
import random
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from attack_micro import micro
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

sys.path += [str(Path(__file__).parents[1] / "runtime")]

from tiny_bundle import image_graph, stripes, text_graph, tiny_spec, write_tiny_bundle  # noqa: E402

from dedos_deploy.config_json import config_from_dict
from dedos_deploy.errors import BadInputError, DedosError, EngineError  # noqa: E402
from dedos_deploy.model import build_model, load_checkpoint, save_checkpoint  # noqa: E402
from dedos_deploy.model.checkpoint import least_numbers  # noqa: E402
from dedos_deploy.presets import (  # noqa: E402
    PRESETS,
)
from dedos_deploy.runtime import Segmenter  # noqa: E402
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine

Json = Any
VALUES: tuple[Json, ...] = (
    None,
    True,
    0,
    -1,
    2**31 - 1,
    2**31,
    2**63,
    1e308,
    0.5,
    "",
    "x" * 70_000,
    "\u202e",
    [],
    {},
    [[]],
    [1] * 1000,
    {"a": 1},
)


# Graphs


def inputs() -> dict[str, np.ndarray]:
    spec = tiny_spec()
    return {
        "image": np.zeros((1, spec.height, spec.width, 3), np.uint8),
        "text": np.zeros((2, spec.text_width), np.float32),
        "valid": np.ones(2, np.float32),
    }


def infer(path: Path, content: bytes) -> str:
    """Load and run a graph: "" or the sentence that it was refused with."""
    path.write_bytes(content)
    try:
        with OnnxEngine(path, tiny_spec(), threads=1) as engine:
            engine.infer(inputs())
    except EngineError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 600, message
        return message
    return ""


def damaged_graph(content: bytes, rng: random.Random) -> bytes:
    model = onnx.load_model_from_string(content)
    graph = model.graph
    values = [*graph.input, *graph.output]
    match rng.choice(["bytes", "operator", "wires", "dims", "type", "shape", "dtype"]):
        case "bytes":
            changed = bytearray(content)
            for _ in range(rng.choice([1, 4, 16])):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            return bytes(changed)
        case "operator":
            rng.choice(graph.node).op_type = rng.choice(["Add", "Loop", "Reshape", "TopK", "No"])
        case "wires":
            node = rng.choice(graph.node)
            node.input[0] = rng.choice([name for one in graph.node for name in one.output] + [""])
        case "dims" if graph.initializer:
            tensor = rng.choice(graph.initializer)
            tensor.dims[:] = [rng.choice([0, 2, -1, 2**31, 2**40]) for _ in tensor.dims]
        case "type" if graph.initializer:
            rng.choice(graph.initializer).data_type = rng.randrange(25)
        case "shape":
            dims = rng.choice(values).type.tensor_type.shape.dim
            rng.choice(list(dims)).dim_value = rng.choice([0, 2, -1, 2**31, 2**40])
        case _:
            rng.choice(values).type.tensor_type.elem_type = rng.randrange(25)
    return bytes(model.SerializeToString())


@pytest.mark.timeout(120)
def test_damaged_image_graphs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    results = [infer(tmp_path / "model.onnx", damaged_graph(image_graph(), rng)) for _ in range(80)]
    assert sum(map(bool, results)) > 30
    # ONNX Runtime reports some errors on stdout, where the results go, and tries the same again.
    assert "EP Error" not in capfd.readouterr().out


def test_a_name_that_is_no_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = image_graph().replace(b"scores", b"\xff\xfescor")
    assert "cannot load model.onnx" in infer(tmp_path / "model.onnx", content)
    assert capfd.readouterr().out == ""


def graph_of(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> bytes:
    """Return a graph with the tensors of the spec around a few nodes."""
    spec = tiny_spec()
    types = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}

    def value(tensor: Any) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(tensor.name, types[tensor.dtype], list(tensor.shape))

    graph = helper.make_graph(
        nodes, "g", [value(one) for one in spec.inputs], [value(spec.scores)], list(constants)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("size", [7, 2**40])
def test_a_graph_that_loads_and_fails_on_a_frame(size: int, tmp_path: Path) -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [4], [size, 2, 8, 1])
    kept = [
        helper.make_node("ReduceSum", ["valid"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mul", ["shape", "whole"], ["sizes"]),
        helper.make_node("ConstantOfShape", ["sizes"], ["scores"]),
    ]
    assert "failed on a frame" in infer(tmp_path / "model.onnx", graph_of(kept, shape))


@pytest.mark.timeout(120)
def test_damaged_text_towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))
    rng = random.Random(1)
    refused = 0
    for number in range(25):
        content = damaged_graph(text_graph(), rng)
        monkeypatch.setattr("tiny_bundle.text_graph", lambda content=content: content)
        folder = write_tiny_bundle(tmp_path / f"{number}")
        try:
            with Segmenter.load(folder, classes=["red"]) as segmenter:
                segmenter.set_classes(["red", f"word {number}"])
                segmenter.segment(stripes())
        except DedosError as error:
            refused += 1
            assert len(str(error)) < 600
    assert refused > 8


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "m.safetensors"
    save_checkpoint(path, build_model(micro()), extra={"step": 3})
    return path.read_bytes()


def with_record(checkpoint: bytes, edit: Callable[[Json], None]) -> bytes:
    """Return a checkpoint whose record (configuration and training) was edited."""
    length = int.from_bytes(checkpoint[:8], "little")
    header = json.loads(checkpoint[8 : 8 + length])
    record = json.loads(header["__metadata__"]["dedos"])
    edit(record)
    header["__metadata__"]["dedos"] = json.dumps(record)
    content = json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + checkpoint[8 + length :]


def places(value: Json, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        found += [place for key, item in value.items() for place in places(item, (*path, key))]
    if isinstance(value, list):
        found += [place for i, item in enumerate(value) for place in places(item, (*path, i))]
    return found


def refusal(path: Path) -> str:
    try:
        load_checkpoint(path)
    except BadInputError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 900, message
        return message
    return ""


@pytest.mark.timeout(300)
def test_damaged_records_of_checkpoints(checkpoint: bytes, tmp_path: Path) -> None:
    rng, path, refused = random.Random(0), tmp_path / "m.safetensors", 0
    for _ in range(120):

        def edit(record: Json) -> None:
            place = rng.choice(places(record))
            holder = record
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = copy.deepcopy(rng.choice(VALUES))

        path.write_bytes(with_record(checkpoint, edit))
        refused += bool(refusal(path))
    assert refused > 80


@pytest.mark.timeout(120)
def test_damaged_bytes_of_checkpoints(checkpoint: bytes, tmp_path: Path) -> None:
    rng, path, refused = random.Random(1), tmp_path / "m.safetensors", 0
    length = int.from_bytes(checkpoint[:8], "little")
    for _ in range(80):
        changed = bytearray(checkpoint)
        for _ in range(rng.choice([1, 4])):
            changed[rng.randrange(8 + length)] = rng.randrange(256)
        path.write_bytes(changed)
        refused += bool(refusal(path))
    assert refused > 30


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("clip.width", 2**31, "'config.clip.width' must be a whole number up to 2147483647"),
        ("clip.width", 2**31 - 1, "clip.width must be at most 8192, not 2147483647"),
        ("clip.width", "768", "field 'config.clip.width' must be a whole number, not '768'"),
        ("clip.width", True, "must be a whole number, not True"),
        ("clip.width", 33, "clip.width 33 must be a multiple of clip.heads, 2"),
        ("clip.width", 8192, "it needs 1612227648 numbers at least, the file holds"),
        ("clip.text.tokens", 2**20, "numbers at least, the file holds"),
        ("decoder_ffn", 65536, "numbers at least, the file holds"),
        ("clip.text.layers", 10**6, "clip.text.layers must be at most 128"),
        ("decoder_layers", -1, "decoder_layers must be at least 1"),
        ("clip.std", [0, 0, 0], r"clip.std must lie in \(0, 10\)"),
        ("detail_width", 16, "is .*, not .*; train it again"),
    ],
)
def test_sizes_are_checked_before_anything_is_allocated(
    place: str, value: Json, message: str, checkpoint: bytes, tmp_path: Path
) -> None:
    def edit(record: Json) -> None:
        *way, last = place.split(".")
        holder = record["config"]
        for key in way:
            holder = holder[key]
        holder[last] = value

    path = tmp_path / "m.safetensors"
    path.write_bytes(with_record(checkpoint, edit))
    tracemalloc.start()
    try:
        with pytest.raises(BadInputError, match=message):
            load_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_scales_that_would_make_much_of_little(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "m.safetensors"
    save_checkpoint(
        plain,
        build_model(replace(micro(), clip=PRESETS["miniature"].clip, refine_blocks=(1, 3, 5))),
        compact=True,
    )
    from safetensors import safe_open

    with safe_open(plain, framework="pt") as file:
        metadata = file.metadata()
    for scale in (torch.ones(1, 100_000), torch.ones(()), torch.ones(3, 3)):
        tensors = load_file(plain)
        name = next(name for name in tensors if name.endswith(".scale"))
        save_file({**tensors, name: scale}, path, metadata=metadata)
        assert "is not one scale per row" in refusal(path)
        save_file({**tensors, "nothing.weight.scale": scale}, path, metadata=metadata)
        assert "'nothing.weight.scale' is not one scale per row" in refusal(path)


@pytest.mark.parametrize("preset", ["nano", "miniature", "edge-b"])
def test_the_least_number_is_a_close_bound(preset: str) -> None:
    with torch.device("meta"):
        model = build_model(PRESETS[preset])
    held = sum(value.numel() for value in model.state_dict().values())
    assert 0.7 * held < least_numbers(PRESETS[preset]) <= held


def test_configurations_of_earlier_releases_have_their_defaults() -> None:
    values = json.loads(json.dumps(PRESETS["edge-b"].to_dict()))
    del values["detail"], values["clip"]["text"]["context_length"]
    assert config_from_dict(values) == PRESETS["edge-b"]
    del values["clip"]["width"]
    with pytest.raises(BadInputError, match="key 'config.clip.width' is missing"):
        config_from_dict(values)


@pytest.mark.timeout(120)
def test_damaged_training_states(tmp_path: Path) -> None:
    from dedos_deploy.training.state import saved_settings

    path = tmp_path / "state.safetensors"
    for metadata in ({}, {"format": "dedos-training-state-1"}, {"format": "other"}):
        save_file({"a": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(BadInputError, match=r"state\.safetensors"):
            saved_settings(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(BadInputError, match="is damaged"):
        saved_settings(path)
