"""The openvino engine beside ONNX Runtime: scores, words, refusals, and what is kept of the gate."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import (
    HEIGHT,
    TEXT_WIDTH,
    WIDTH,
    at,
    graph_of,
    image_graph,
    stripes,
    tiny_spec,
    write_tiny_bundle,
)

from dedos_deploy import Segmenter
from dedos_deploy.bundle import Bundle
from dedos_deploy.cli.run import main
from dedos_deploy.errors import BadInputError, EngineError, MissingExtraError, ParityError
from dedos_deploy.installation import pip_install
from dedos_deploy.runtime.engines import openvino_choice as choice
from dedos_deploy.runtime.engines import openvino_engine as module
from dedos_deploy.runtime.engines.agreement import label_agreement
from dedos_deploy.runtime.engines.contract import EngineOptions
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.engines.opening import open_engine
from dedos_deploy.runtime.engines.openvino_engine import OpenVinoEngine, arithmetics
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.scenes import render_image
from dedos_deploy.spec import MIN_AGREEMENT, GraphSpec
from dedos_deploy.threads import usable_cores

pytest.importorskip("openvino", reason="needs pip install 'dedos-deploy[openvino]'")

SLOTS = (3, 17, 64, 1, 17)


def weighted_graph(kind: str) -> bytes:
    """scores[k] = clip(text[k] · W · W · cell), W stored as int8 and read twice, or INT8 products."""
    rng = np.random.default_rng(0)
    rows, columns = HEIGHT // 4, WIDTH // 4
    codes = rng.integers(-127, 128, (TEXT_WIDTH, TEXT_WIDTH)).astype(np.int8)
    constants = {
        "codes": codes,
        "scale": np.full((TEXT_WIDTH, 1) if kind == "stored" else (), 4e-4, np.float32),
        "step": np.float32(0.02),
        "zero": np.int8(0),
        "grey": np.float32(1 / 765),
        "axes": np.array([3]),
        "flat": np.array([1, 1, rows * columns]),
        "first": np.array([0]),
        "map": np.array([1, -1, rows, columns]),
        "column": np.array([-1, 1]),
        "low": np.float32(0),
        "high": np.float32(1),
    }
    node = helper.make_node
    weights = {
        "stored": [
            node("Cast", ["codes"], ["whole"], to=TensorProto.FLOAT),
            node("Mul", ["whole", "scale"], ["weights"]),
        ],
        "int8": [node("DequantizeLinear", ["codes", "scale", "zero"], ["weights"])],
    }[kind]
    products: list[Any] = []
    for index, (source, result) in enumerate((("text", "once"), ("once", "twice"))):
        taken = source
        if kind == "int8":
            taken = f"back{index}"
            products.append(node("QuantizeLinear", [source, "step", "zero"], [f"q{index}"]))
            products.append(node("DequantizeLinear", [f"q{index}", "step", "zero"], [taken]))
        products.append(node("Transpose", ["weights"], [f"turned{index}"], perm=[1, 0]))
        products.append(node("MatMul", [taken, f"turned{index}"], [result]))
    nodes = [
        node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        node("ReduceSum", ["cast", "axes"], ["sum"], keepdims=0),
        node("Unsqueeze", ["sum", "first"], ["plane"]),
        node("AveragePool", ["plane"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Mul", ["cells", "grey"], ["brightness"]),
        node("Reshape", ["brightness", "flat"], ["line"]),
        *weights,
        *products,
        node("ReduceMax", ["twice", "last"], ["best"], keepdims=1),
        node("Reshape", ["valid", "column"], ["used"]),
        node("Mul", ["best", "used"], ["asked"]),
        node("MatMul", ["asked", "line"], ["product"]),
        node("Clip", ["product", "low", "high"], ["clipped"]),
        node("Reshape", ["clipped", "map"], ["scores"]),
    ]
    constants["last"] = np.array([1])
    return graph_of(nodes, constants, tiny_spec())


def spec_of(kind: str) -> GraphSpec:
    return replace(tiny_spec(), score_dtype="float16" if kind == "fp16" else "float32")


@pytest.fixture(params=["fp32", "fp16", "stored", "int8"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(image_graph())
    return path


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bundle]:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))
    with Bundle.open(write_tiny_bundle(tmp_path / "bundle")) as opened:
        yield opened


def inputs_of(slots: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8),
        "text": rng.uniform(0, 0.5, (slots, TEXT_WIDTH)).astype(np.float32),
        "valid": (np.arange(slots) % 3 < 2).astype(np.float32),
    }


def test_scores_are_those_of_onnx_runtime_for_any_number_of_words(
    kind: str, tmp_path: Path
) -> None:
    path, spec = tmp_path / "model.onnx", spec_of(kind)
    path.write_bytes(
        image_graph(half=kind == "fp16") if kind.startswith("fp") else weighted_graph(kind)
    )
    with (
        OpenVinoEngine(path, spec, arithmetic="fp32") as engine,
        OnnxEngine(path, spec) as reference,
    ):
        for seed, slots in enumerate(SLOTS):
            inputs = inputs_of(slots, seed)
            wanted = reference.infer(inputs)["scores"]
            given = engine.infer(inputs)["scores"]
            assert given.dtype == wanted.dtype and wanted.max() > 0.1
            np.testing.assert_allclose(given, wanted, atol=2e-3 if kind != "fp32" else 1e-5)


def with_an_int8_product(graph: Path, width: int, dest: Path) -> Path:
    """Write a graph whose words go through a product in INT8, which hardly changes them."""
    model = onnx.load(graph)
    constants = {
        "int8.step": np.float32(1 / 127),
        "int8.zero": np.int8(0),
        "int8.codes": 127 * np.eye(width, dtype=np.int8),
    }
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = "int8.words" if name == "text" else name
    scaled = ["int8.step", "int8.zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["text", *scaled], ["int8.text"]),
        helper.make_node("DequantizeLinear", ["int8.text", *scaled], ["int8.back"]),
        helper.make_node("DequantizeLinear", ["int8.codes", *scaled], ["int8.weights"]),
        helper.make_node("MatMul", ["int8.back", "int8.weights"], ["int8.words"]),
    ]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    onnx.save(model, dest)
    return dest


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_embedded_bundle_labels_as_in_onnx_runtime(precision: str, tmp_path: Path) -> None:
    """Its int8 matrices have several readers, of which OpenVINO alone makes no graph."""
    picture, _ = render_image("street", seed=7, size_hw=(240, 320))
    with Bundle.open("demo") as demo:
        spec, rows = demo.spec, demo.vocabulary("base")[1]
        model = demo.path("model.onnx")
        if precision == "int8":
            model = with_an_int8_product(model, spec.text_width, tmp_path / "model.onnx")
        image = np.empty((1, spec.height, spec.width, 3), np.uint8)
        resize_frame(picture, image[0])
        inputs = {"image": image, "text": rows, "valid": np.ones(len(rows), np.float32)}
        scores = []
        for engine in (OnnxEngine(model, spec), OpenVinoEngine(model, spec, arithmetic="fp32")):
            with engine:
                scores.append(engine.infer(inputs)["scores"][0].copy())
    assert label_agreement(scores[0], scores[1], (240, 320)) >= MIN_AGREEMENT["fp32"]


def test_a_part_of_a_split_tensor_is_added_to_a_resized_one_rightly(tmp_path: Path) -> None:
    """As in the pixel decoder of paper-b, which came out wrong where chains were fused."""
    node = helper.make_node
    rows, columns, depth = HEIGHT // 4, WIDTH // 4, 16
    cells, fine = rows * columns, 4 * rows * columns
    rng = np.random.default_rng(0)
    constants = {
        "maps": rng.normal(size=(1, cells + fine, depth)).astype(np.float32),
        "fine": rng.normal(size=(1, fine, depth)).astype(np.float32),
        "parts": np.array([cells, fine]),
        "coarse_shape": np.array([1, depth, rows, columns]),
        "fine_shape": np.array([1, depth, 2 * rows, 2 * columns]),
        "colours": rng.normal(size=(TEXT_WIDTH, depth)).astype(np.float32),
        "flat": np.array([0, depth, cells]),
        "map": np.array([1, -1, rows, columns]),
        "column": np.array([-1, 1]),
        "pixel": np.array([0, 0, 0, 0]),
        "ends": np.array([1, 1, 1, 1]),
    }
    nodes = [
        node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        node("Slice", ["cast", "pixel", "ends"], ["corner"]),
        node("Reshape", ["corner", "one"], ["light"]),
        node("Mul", ["maps", "light"], ["lit"]),
        node("Mul", ["fine", "light"], ["fine_lit"]),
        node("Split", ["lit", "parts"], ["first", "second"], axis=1),
        node("Transpose", ["first"], ["turned"], perm=[0, 2, 1]),
        node("Reshape", ["turned", "coarse_shape"], ["coarse"]),
        node("Transpose", ["fine_lit"], ["fine_turned"], perm=[0, 2, 1]),
        node("Reshape", ["fine_turned", "fine_shape"], ["fine_map"]),
        node("Resize", ["fine_map", "", "", "coarse_shape"], ["small"], mode="linear"),
        node("Add", ["coarse", "small"], ["sum"]),
        node("Reshape", ["sum", "flat"], ["line"]),
        node("MatMul", ["text", "colours"], ["words"]),
        node("MatMul", ["words", "line"], ["product"]),
        node("Reshape", ["product", "map"], ["full"]),
        node("Reshape", ["valid", "four"], ["used"]),
        node("Sigmoid", ["full"], ["soft"]),
        node("Mul", ["soft", "used"], ["scores"]),
    ]
    constants |= {"one": np.array([1, 1, 1]), "four": np.array([1, -1, 1, 1])}
    path = tmp_path / "model.onnx"
    path.write_bytes(graph_of(nodes, constants, tiny_spec()))
    inputs = inputs_of(5)
    inputs["image"][0, 0, 0, 0] = 1
    with (
        OpenVinoEngine(path, tiny_spec(), arithmetic="fp32") as engine,
        OnnxEngine(path, tiny_spec()) as reference,
    ):
        wanted = reference.infer(inputs)["scores"]
        np.testing.assert_allclose(engine.infer(inputs)["scores"], wanted, atol=1e-4)


def test_bf16_is_near_where_the_processor_has_it(model: Path) -> None:
    import openvino

    if "bf16" not in arithmetics(openvino):
        pytest.skip("this processor has no BF16")
    with (
        OpenVinoEngine(model, tiny_spec(), arithmetic="bf16") as engine,
        OnnxEngine(model, tiny_spec()) as reference,
    ):
        inputs = inputs_of(17)
        wanted = reference.infer(inputs)["scores"]
        np.testing.assert_allclose(engine.infer(inputs)["scores"], wanted, atol=1e-2)
        assert engine.facts()["arithmetic"] == "bf16"


def test_padding_changes_nothing(model: Path) -> None:
    inputs = inputs_of(5)
    padded = {
        "image": inputs["image"],
        "text": np.concatenate([inputs["text"], np.ones((11, TEXT_WIDTH), np.float32)]),
        "valid": np.concatenate([inputs["valid"], np.zeros(11, np.float32)]),
    }
    with OpenVinoEngine(model, tiny_spec(), arithmetic="fp32") as engine:
        alone = engine.infer(inputs)["scores"].copy()
        scores = engine.infer(padded)["scores"]
        np.testing.assert_array_equal(scores[:, :5], alone)
        assert not scores[:, 5:].any()


def test_one_array_of_scores_per_number_of_words(model: Path) -> None:
    with OpenVinoEngine(model, tiny_spec(), arithmetic="fp32") as engine:
        first = engine.infer(inputs_of(3, 0))["scores"]
        before = first.copy()
        assert engine.infer(inputs_of(3, 1))["scores"] is first and (first != before).any()


def test_what_may_not_be_written_is_read(model: Path) -> None:
    inputs = inputs_of(3)
    with OpenVinoEngine(model, tiny_spec(), arithmetic="fp32") as engine:
        wanted = engine.infer(inputs)["scores"].copy()
        for array in inputs.values():
            array.setflags(write=False)
        np.testing.assert_array_equal(engine.infer(inputs)["scores"], wanted)
        with pytest.raises(BadInputError, match="'text' must be float32"):
            engine.infer({**inputs, "text": inputs["text"].astype(np.float64)})


def test_unusable_models_are_one_sentence(tmp_path: Path, model: Path) -> None:
    spec = tiny_spec()
    with pytest.raises(EngineError, match="gone.onnx is missing; export the bundle again"):
        OpenVinoEngine(tmp_path / "gone.onnx", spec, arithmetic="fp32")
    with pytest.raises(EngineError, match="the bundle promises float32"):
        OpenVinoEngine(model, replace(spec, text_width=7), arithmetic="fp32")
    model.write_bytes(image_graph()[:300])
    with pytest.raises(EngineError, match="OpenVINO cannot load model.onnx: ") as caught:
        OpenVinoEngine(model, spec, arithmetic="fp32")
    assert "\n" not in str(caught.value) and ".cpp" not in str(caught.value)


def test_reasons_are_those_of_openvino_and_not_where_they_were_found() -> None:
    place = "Exception from src/inference/src/cpp/core.cpp:117:\n"
    check = "Check 'm_element_type.is_static()' failed at src/inference/make_tensor.cpp:58"
    assert module.openvino_reason(RuntimeError(f"{place}{check}:\nno such layer\n")) == (
        "no such layer"
    )
    assert module.openvino_reason(RuntimeError(f"{place}{check}\n\n")) == "it does not say why"


def test_a_closed_engine_says_so(model: Path) -> None:
    engine = OpenVinoEngine(model, tiny_spec(), arithmetic="fp32")
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="this engine is closed"):
        engine.infer(inputs_of(3))


@pytest.mark.parametrize(("asked", "started"), [(1, 1), (10_000, usable_cores())])
def test_threads_are_bounded(model: Path, asked: int, started: int) -> None:
    with OpenVinoEngine(model, tiny_spec(), arithmetic="fp32", threads=asked) as engine:
        compiled = engine._request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == started
        assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_the_extra_and_the_version_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        __import__("sys").modules, "openvino", SimpleNamespace(__version__="2024.6.0-x")
    )
    with pytest.raises(EngineError, match="openvino 2024.6.0-x is installed and 2026.3 or newer"):
        module.load_openvino()
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=re.escape(pip_install("openvino"))):
        module.load_openvino()


def test_an_openvino_that_cannot_be_imported_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks = "libopenvino.so.2640: cannot open shared object file"
    (tmp_path / "openvino.py").write_text(f"raise ImportError({lacks!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "openvino")
    with pytest.raises(EngineError, match=rf"cannot be imported \({lacks}\); .*--engine cpu"):
        module.load_openvino()


def test_bf16_comes_first_where_it_is() -> None:
    def having(*able: str) -> Any:
        openvino = ModuleType("openvino")
        core = SimpleNamespace(get_property=lambda device, name: list(able))
        openvino.Core = lambda: core  # type: ignore[attr-defined]
        return openvino

    assert arithmetics(having("FP32", "BF16", "INT8")) == ("bf16", "fp32")
    assert arithmetics(having("FP32", "FP16")) == ("fp32",)


# The gate


def test_a_segmenter_labels_on_it(bundle: Bundle) -> None:
    frame = stripes()
    with Segmenter.load(bundle, classes="red,blue", engine="openvino") as segmenter:
        result = segmenter.segment(frame)
        assert (at(result, "red", frame), at(result, "blue", frame)) == (0, 1)
        segmenter.set_classes("green,blue,red")
        result = segmenter.segment(frame)
        assert result.classes[at(result, "green", frame)] == "green"


def test_a_run_tells_that_it_compares_and_runs_a_graph_for_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first start of a large bundle takes a minute and more, of which nothing else is seen."""
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))
    bundle = write_tiny_bundle(tmp_path / "rtx", target="rtx")
    cv2.imwrite(str(tmp_path / "stripes.png"), stripes())
    asked = {"bundle": bundle, "source": tmp_path / "stripes.png", "output": tmp_path / "out.jsonl"}
    words = [word for name, path in asked.items() for word in (f"--{name}", str(path))]
    assert main([*words, "--classes", "red,blue", "--engine", "openvino"]) == 0
    assert "preparing the openvino engine" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 1


def wrong_in(monkeypatch: pytest.MonkeyPatch, *arithmetic: str) -> list[str]:
    """Let OpenVINO give the scores of other words, in some arithmetics; say what was compared."""
    compared: list[str] = []
    infer, check = OpenVinoEngine.infer, choice.check_on_device

    def other(self: OpenVinoEngine, inputs: Any) -> Any:
        given = infer(self, inputs)
        wrong = self.arithmetic in arithmetic
        return {"scores": np.ascontiguousarray(given["scores"][:, ::-1])} if wrong else given

    def noted(engine: OpenVinoEngine, *rest: Any, **named: Any) -> Any:
        compared.append(engine.arithmetic)
        return check(engine, *rest, **named)

    monkeypatch.setattr(choice, "arithmetics", lambda openvino: ("bf16", "fp32"))
    monkeypatch.setattr(OpenVinoEngine, "infer", other)
    monkeypatch.setattr(choice, "check_on_device", noted)
    return compared


def test_an_engine_that_labels_differently_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = wrong_in(monkeypatch, "bf16", "fp32")
    for _ in range(2):
        with pytest.raises(
            ParityError, match=r"in BF16, .*99% are needed.* in FP32, .*--engine cpu"
        ):
            open_engine(bundle, "openvino")
    assert compared == ["bf16", "fp32"]


def test_fp32_and_a_warning_where_bf16_moves_labels(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compared = wrong_in(monkeypatch, "bf16")
    monkeypatch.setattr(choice, "_speedup", lambda *_: 2.0)
    for _ in range(2):
        caplog.clear()
        with open_engine(bundle, "openvino") as engine:
            assert engine.facts()["arithmetic"] == "fp32"
        [record] = caplog.records
        assert "computes in FP32 here: in BF16, " in record.message
    assert compared == ["bf16", "fp32"]


@pytest.mark.parametrize("speedup", [1.0, 1.5])
def test_what_gains_nothing_says_so_and_runs(
    bundle: Bundle,
    speedup: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(choice, "_speedup", lambda *_: speedup)
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        caplog.clear()
        with open_engine(bundle, "openvino", EngineOptions(threads=1)) as engine:
            assert isinstance(engine, OpenVinoEngine)
        said = [r.message for r in caplog.records if "gains nothing" in r.message]
        assert len(said) == (speedup < 1.05)
        # Measured once, on this machine.
        monkeypatch.setattr(choice, "_speedup", lambda *_: 9.0)


def test_the_gain_is_measured_beside_onnx_runtime(bundle: Bundle) -> None:
    open_engine(bundle, "openvino").close()
    path = next(
        choice.OpenVinoChoice(bundle, bundle.graph(), EngineOptions())._folder.glob("*.check.json")
    )
    values = choice.kept_verdict(path, bundle.manifest.files["model.onnx"])
    assert values is not None and values["passed"] and values["speedup"] > 0


def test_what_was_compiled_is_kept_and_may_be_damaged(bundle: Bundle, tmp_path: Path) -> None:
    inputs = inputs_of(3)
    with open_engine(bundle, "openvino") as engine:
        wanted = engine.infer(inputs)["scores"].copy()
    compiled = [
        path for path in (tmp_path / "cache/openvino/compiled").rglob("*") if path.is_file()
    ]
    assert compiled
    for path in compiled:
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-50] + b"x" * 40)
    with open_engine(bundle, "openvino") as engine:
        np.testing.assert_array_equal(engine.infer(inputs)["scores"], wanted)


def test_a_cache_that_cannot_be_written_costs_a_warning(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "file"))
    with open_engine(bundle, "openvino") as engine:
        assert engine.infer(inputs_of(3))["scores"].any()
    assert sum("every start compiles" in record.message for record in caplog.records) == 1
