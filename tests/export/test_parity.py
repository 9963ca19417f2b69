from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_micro import CONTEXT, copied
from numpy.typing import NDArray
from onnx import numpy_helper

from dedos_deploy.errors import BadInputError, ParityError
from dedos_deploy.export.parity import (
    ParityCase,
    ParityReport,
    check_parity,
    measure_parity,
    parity_cases,
)
from dedos_deploy.export.storage import int8_rows, store_small
from dedos_deploy.export.text_tower import check_text_tower
from dedos_deploy.model import Dedos
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.spec import GraphSpec
from dedos_deploy.text.tower import TextTower

Frames = list[NDArray[np.uint8]]


def _measure(
    engine: OnnxEngine, model: Dedos, frames: Frames, text: Any, spec: GraphSpec, **options: Any
) -> ParityReport:
    options = {"precision": "fp32", "frames_from": "a test"} | options
    return measure_parity(engine.infer, model, frames, parity_cases(text), spec=spec, **options)


def test_exact_graph_passes(
    model: Dedos, spec: GraphSpec, float_graph: Any, open_graph: Any, frames: Frames, base_text: Any
) -> None:
    with open_graph(float_graph, spec) as engine:
        report = _measure(engine, model, frames, base_text, spec)
    check_parity(report)
    assert report.passed and report.finite and report.agreement >= 0.999
    assert report.max_abs < 1e-4
    # Every frame with the base vocabulary, two of them with few words, and padded.
    assert [(row.case, row.slots, row.frame) for row in report.rows] == [
        *(("base vocabulary", 9, frame) for frame in range(3)),
        *(("few words", 3, frame) for frame in range(2)),
        *(("few words, padded", 3, frame) for frame in range(2)),
    ]


def test_batches_are_compared_row_by_row(
    model: Dedos,
    wide_spec: GraphSpec,
    wide_graph: Any,
    open_graph: Any,
    frames: Frames,
    base_text: Any,
) -> None:
    with open_graph(wide_graph, wide_spec) as engine:
        # Three frames, two per run: the last run is half filler.
        report = _measure(engine, model, frames, base_text, wide_spec)
        assert report.passed and len(report.rows) == 7

        def swapped(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return {"scores": engine.infer(inputs)["scores"][::-1]}

        cases = parity_cases(base_text)[:1]
        broken = measure_parity(
            swapped, model, frames, cases, spec=wide_spec, precision="fp32", frames_from="a test"
        )
    assert broken.max_abs > 10 * report.max_abs


def test_rows_that_are_mixed_up_are_seen_with_a_single_frame(
    model: Dedos,
    wide_spec: GraphSpec,
    wide_graph: Any,
    open_graph: Any,
    frames: Frames,
    base_text: Any,
) -> None:
    with open_graph(wide_graph, wide_spec) as engine:
        report = _measure(engine, model, frames[:1], base_text, wide_spec)

        def mixed(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            scores = engine.infer(inputs)["scores"]
            return {"scores": np.repeat(scores[:1], len(scores), axis=0)}

        cases = parity_cases(base_text)[:1]
        broken = measure_parity(
            mixed, model, frames[:1], cases, spec=wide_spec, precision="fp32", frames_from="a test"
        )
    assert report.passed and broken.max_abs > 10 * report.max_abs


def test_broken_weight_is_refused(
    model: Dedos, spec: GraphSpec, float_graph: Any, open_graph: Any, frames: Frames, base_text: Any
) -> None:
    broken = copied(float_graph)
    _change(broken, "model.text_aggregation.class_embedding.weight", lambda value: -value)
    with open_graph(broken, spec) as engine:
        report = _measure(engine, model, frames, base_text, spec)
    with pytest.raises(
        ParityError, match=r"fp32 graph agrees .* 99\.9% are needed .*--allow-drift"
    ):
        check_parity(report)
    # What the message offers.
    check_parity(replace(report, drift_allowed=True))


def test_nan_is_refused_and_named(
    model: Dedos, spec: GraphSpec, float_graph: Any, open_graph: Any, frames: Frames, base_text: Any
) -> None:
    broken = copied(float_graph)
    _change(broken, "model.text_aggregation.bias", lambda value: value * np.float32(np.nan))
    with open_graph(broken, spec) as engine:
        report = _measure(engine, model, frames, base_text, spec, precision="fp16")
    assert not report.finite and report.agreement == 0.0
    with pytest.raises(ParityError, match="NaN or infinite scores .base vocabulary, frame 0"):
        check_parity(report)


def test_padding_that_leaks_is_seen(
    model: Dedos, spec: GraphSpec, float_graph: Any, open_graph: Any, frames: Frames, base_text: Any
) -> None:
    with open_graph(float_graph, spec) as engine:

        def ignores_valid(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return engine.infer({**inputs, "valid": np.ones_like(inputs["valid"])})

        exact = _measure(engine, model, frames, base_text, spec)
        leaking = measure_parity(
            ignores_valid,
            model,
            frames,
            parity_cases(base_text),
            spec=spec,
            precision="fp32",
            frames_from="a test",
        )
    differences = {row.case: row.max_abs for row in leaking.rows}
    assert differences["few words"] < 1e-4
    assert differences["few words, padded"] > 100 * exact.max_abs


@pytest.mark.parametrize(("precision", "passes"), [("fp32", False), ("fp16", True), ("int8", True)])
def test_thresholds_follow_precision(
    model: Dedos, spec: GraphSpec, frames: Frames, base_text: Any, precision: str, passes: bool
) -> None:
    """One cell of the score map has its two slots swapped: too much for fp32 only."""
    case = ParityCase("one", base_text[:2])

    def infer(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        tensors = (torch.from_numpy(np.ascontiguousarray(inputs[n])) for n in inputs)
        with torch.no_grad():
            scores = model(*tensors).numpy()
        scores[0, :, 0, 0] = scores[0, ::-1, 0, 0].copy()
        return {"scores": scores}

    frame = frames[0][:32, :48]
    report = measure_parity(
        infer,
        model,
        [np.ascontiguousarray(frame)],
        [case],
        spec=spec,
        precision=precision,
        frames_from="a test",
    )
    assert 0.985 < report.agreement < 0.999
    assert report.passed == passes


def test_no_frame_is_an_error(model: Dedos, spec: GraphSpec, base_text: Any) -> None:
    with pytest.raises(BadInputError, match="at least one picture"):
        measure_parity(
            lambda inputs: {},
            model,
            [],
            parity_cases(base_text),
            spec=spec,
            precision="fp32",
            frames_from="a test",
        )


def test_half_storage_keeps_labels(
    model: Dedos, spec: GraphSpec, float_graph: Any, open_graph: Any, frames: Frames, base_text: Any
) -> None:
    stored = copied(float_graph)
    store_small(stored)
    with open_graph(stored, spec) as engine:
        report = _measure(engine, model, frames, base_text, spec, precision="fp16")
    assert report.passed and 0 < report.max_abs < 1e-2
    assert len(stored.SerializeToString()) < 0.75 * len(float_graph.SerializeToString())


def test_storage_beyond_half_is_refused(float_graph: onnx.ModelProto) -> None:
    broken = copied(float_graph)
    _change(broken, "model.trunk.blocks.0.fc.weight", lambda value: value * np.float32(1e7))
    with pytest.raises(ParityError, match=r"blocks\.0\.fc\.weight' reaches .* float16"):
        store_small(broken)


def test_stored_text_tower_follows_the_model(model: Dedos, text_file: Path) -> None:
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 49407, (7, CONTEXT))
    tokens[:, 5:] = 0
    tokens[:, 4] = 49407
    for count in (1, 7):
        report = check_text_tower(model.text_tower, text_file, tokens[:count])
        assert report.texts == count and report.min_cosine > 0.9995
    stored = {tensor.name: tensor for tensor in onnx.load(text_file).graph.initializer}
    table = stored["token_embedding.weight.int8"]
    assert table.data_type == onnx.TensorProto.INT8 and list(table.dims) == [49408, 32]
    assert text_file.stat().st_size < 49408 * (32 + 4) + 100_000


def test_a_prompt_costs_as_many_tokens_as_it_has(text_file: Path) -> None:
    """Rows are cut after the longest prompt's end, and embeddings are those of whole rows."""
    tokens = np.zeros((3, CONTEXT), np.int64)
    tokens[0, :2] = [49406, 49407]
    tokens[1, :6] = [49406, 320, 1125, 539, 320, 49407]
    tokens[2, :4] = [49406, 1125, 320, 49407]
    session = onnxruntime.InferenceSession(text_file, providers=["CPUExecutionProvider"])
    recorded = Recorded(session)
    found = TextTower(recorded, 16).run(tokens)  # type: ignore[arg-type]
    assert [rows.shape for rows in recorded.fed] == [(3, 6)]
    (expected,) = session.run(["embedding"], {"tokens": tokens})
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_tower_of_an_earlier_export_gets_whole_rows(text_file: Path) -> None:
    model = onnx.load(text_file)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = CONTEXT
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    recorded = Recorded(session)
    tokens = np.zeros((2, CONTEXT), np.int64)
    tokens[:, :2] = [49406, 49407]
    TextTower(recorded, 16).run(tokens)  # type: ignore[arg-type]
    assert [rows.shape for rows in recorded.fed] == [(2, CONTEXT)]


class Recorded:
    """A session that notes the rows it is fed."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.fed: list[NDArray[np.int64]] = []

    def get_inputs(self) -> Any:
        return self.session.get_inputs()

    def run(self, outputs: list[str], inputs: dict[str, NDArray[np.int64]]) -> Any:
        self.fed.append(inputs["tokens"])
        return self.session.run(outputs, inputs)


def test_another_text_tower_is_refused(model: Dedos, text_file: Path) -> None:
    from dedos_deploy.model import build_model

    other = build_model(model.config, seed=9).text_tower
    tokens = np.zeros((2, CONTEXT), np.int64)
    tokens[:, :3] = [[49406, 320, 49407], [49406, 1125, 49407]]
    with pytest.raises(ParityError, match="cosine .* at least 0.999"):
        check_text_tower(other, text_file, tokens)


def _change(graph: onnx.ModelProto, name: str, change: Any) -> None:
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


@pytest.mark.parametrize("axis", [0, 1])
def test_whole_numbers_times_a_scale_are_stored_as_int8_bit_for_bit(axis: int) -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(-126, 127, (40, 30)).astype(np.int8)
    codes[5, :], codes[:, 7] = 127, -127
    scale = np.float32([1 + i / 64 for i in range(codes.shape[axis])]) * np.float32(2**-9)
    if axis == 0:
        codes[9, :] = 0
    values = codes * np.expand_dims(scale, 1 - axis)
    found = int8_rows(values)
    assert found is not None and np.array_equal(found[0] * found[1], values)
    assert found[0].dtype == np.int8 and found[1].size == codes.shape[axis]
    values[20, 20] += np.float32(1e-6)
    assert int8_rows(values) is None


def test_rounded_weights_lose_nothing_in_half_storage(float_graph: Any, open_graph: Any) -> None:
    weight = "model.trunk.blocks.0.fc.weight"
    exact = copied(float_graph)

    def whole(value: Any) -> Any:
        codes = np.rint(value / np.abs(value).max() * 127)
        codes[np.abs(codes).argmax(0), np.arange(codes.shape[1])] = 127
        return (codes * np.float32(2**-10)).astype(np.float32)

    _change(exact, weight, whole)
    stored = copied(exact)
    store_small(stored)
    found = {tensor.name: tensor for tensor in stored.graph.initializer}
    assert found[f"{weight}.int8"].data_type == onnx.TensorProto.INT8
    before = {t.name: onnx.numpy_helper.to_array(t) for t in exact.graph.initializer}[weight]
    codes, scale = (onnx.numpy_helper.to_array(found[weight + s]) for s in (".int8", ".scale"))
    assert np.array_equal(codes * scale, before)
