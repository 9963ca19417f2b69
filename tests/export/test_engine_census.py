"""benchmarks/engine_census.py: what TensorRT says of its kernels, counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from export_micro import copied

from dedos_deploy.errors import EngineError
from dedos_deploy.export.graph import save_graph
from dedos_deploy.runtime.gpu import build as build_module

pytest.importorskip("tensorrt_rtx", reason="needs pip install 'dedos-deploy[rtx]'")

TENSOR = "{{ Name: x, Dimensions: [{}], Strides: [1], StrideOrder: [0], Datatype: {}, Format: x }}"


@pytest.fixture(scope="module")
def script(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("engine_census")


def _line(name: str, outputs: str, metadata: str = "", kind: str = "kgen") -> str:
    inputs = TENSOR.format("1,1000", "Float")
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {inputs}], Constants: [ {inputs}], "
        f"Outputs: [ {outputs}], TacticName: , StreamId: 0, Metadata: {metadata}"
    )


def test_census_of_the_micro_model(
    script: ModuleType,
    half_graph: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in (script, build_module):
        monkeypatch.setattr(module, "SLOT_BUCKETS", (64,))  # A third of the build.
    path = save_graph(copied(half_graph), tmp_path / "model.onnx")[0]
    assert script.main(["--graph", str(path), "--slots", "64", "--list", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    listed = [line for line in lines if " MB  " in line]
    written = sum(float(line.split()[0]) for line in listed)
    assert len(listed) == found["kernels"] and found["slots"] == 64
    assert abs(written - found["intermediate_mb"]) < 0.1
    # Two of the trunk are fused; the mask decoder's two have heads of 8 channels, which TensorRT
    # does not fuse.
    assert (found["attention"], found["fused_attention"]) == (4, 2)
    assert 0 < found["softmax"] < found["pointwise"] < found["kernels"] and found["casts"] > 0
    # What the corners of the deformable layer see, 12 kB, stays inside a kernel, which writes 1 kB.
    inside = [line for line in listed if "Floo" in line]
    assert len(inside) == 1 and float(inside[0].split()[0]) < 0.002


def test_kernels_are_read_and_counted(script: ModuleType) -> None:
    half, two = TENSOR.format("2,3", "Half"), TENSOR.format("5", "Float")
    lines = [
        _line("__myl_CastAddCast_myl0_0", f"{half}, {two}"),
        _line("__myl_AddEtc_myl1_7", half, "[ONNX Layer: a/Cast][ONNX Layer: a/Cast_2]"),
        _line("_gemm_mha_v2_myl1_8", half, "[ONNX Layer: a/Softmax]"),
        _line("a/Exp_myl1_9", half, "[ONNX Layer: a/Softmax_2]", "library"),
    ]
    first, *others = script.kernels_of(["Layers:", *lines])
    assert (first.casts, first.profile, first.written) == (2, 0, 2 * 6 + 4 * 5)
    assert [one.casts for one in others] == [2, 0, 0]
    assert [(one.fused, one.softmax) for one in others] == [
        (False, False),
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize("lines", [[], ["Name: x, LayerType: y, in another form"]])
def test_another_form_of_the_list_is_told(script: ModuleType, lines: list[str]) -> None:
    with pytest.raises(EngineError, match="this reads the list of 1.7"):
        script.kernels_of(lines)


def test_a_graph_that_is_none_is_one_sentence(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--graph", str(tmp_path / "none.onnx")]) == 2
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    other = onnx.helper.make_graph([node], "g", [info], [])
    onnx.save(onnx.helper.make_model(other), tmp_path / "other.onnx")
    assert script.main(["--graph", str(tmp_path / "other.onnx")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "there is no graph" in first and "has the inputs x, not image" in second
