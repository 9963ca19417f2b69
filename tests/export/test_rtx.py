from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from export_micro import copied

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import BadInputError, EngineError, MissingExtraError
from dedos_deploy.export.graph import save_graph, weight_bytes
from dedos_deploy.export.rtx import build_rtx_engine
from dedos_deploy.installation import pip_install
from dedos_deploy.progress import Progress
from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec

trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install 'dedos-deploy[rtx]'")

SHA = "0123456789abcdef" * 4


@pytest.fixture
def half_file(half_graph: onnx.ModelProto, tmp_path: Path) -> Path:
    return save_graph(copied(half_graph), tmp_path / "model.onnx")[0]


def _build(path: Path, spec: GraphSpec, **options: Any) -> Any:
    return build_rtx_engine(
        path, path.parent, spec=spec, precision="fp16", model_sha256=SHA, **options
    )


class Notes(Progress):
    """Keeps what is noted; stop_at: the note at which Ctrl-C is pressed."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.texts: list[str] = []
        self._stop_at = stop_at

    def note(self, text: str) -> None:
        self.texts.append(text)
        if text == self._stop_at:
            raise KeyboardInterrupt


def test_engine_of_the_micro_model(half_file: Path, half_graph: Any, spec: GraphSpec) -> None:
    notes = Notes()
    engine = _build(half_file, spec, on_progress=notes)
    content = engine.path.read_bytes()
    assert engine.size == len(content) > weight_bytes(half_graph) / 2
    # A TensorRT plan: its mark, and its own length.
    assert content[:4] == b"vtrt" and int.from_bytes(content[16:24], "little") == len(content)
    assert engine.path.name == f"rtx-01234567-fp16-{trt.__version__}-sm86-89-120.engine"
    key = json.loads(engine.path.with_suffix(".json").read_text())
    assert key == {
        "model_sha256": SHA,
        "precision": "fp16",
        "flavour": "tensorrt-rtx",
        "version": trt.__version__,
        "profiles": list(SLOT_BUCKETS),
        "compute_capabilities": ["8.6", "8.9", "12.0"],
        "platform": "any",
    }
    profiles = [note for note in dict.fromkeys(notes.texts) if note.startswith("profile")]
    assert profiles == ["profile K=16", "profile K=64", "profile K=256"]


def test_turing_has_no_float32_products(half_file: Path, spec: GraphSpec) -> None:
    """The reason why 7.5 is not among the default capabilities: when this fails, add it."""
    with pytest.raises(EngineError, match="Turing .SM75.: FP32 GEMM is not supported"):
        _build(half_file, spec, compute_capabilities=("7.5", "8.9"))


def test_interrupt_reaches_the_build(half_file: Path, spec: GraphSpec) -> None:
    """An exception in TensorRT's callbacks must neither end the process nor be lost."""
    with pytest.raises(KeyboardInterrupt):
        _build(half_file, spec, on_progress=Notes("profile K=64"))
    assert [path.name for path in half_file.parent.iterdir()] == ["model.onnx"]


def test_reasons_of_tensorrt_are_told(
    half_file: Path, half_graph: onnx.ModelProto, spec: GraphSpec
) -> None:
    half_file.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="cannot read the graph: .+"):
        _build(half_file, spec)
    broken = copied(half_graph)
    node = next(node for node in broken.graph.node if node.op_type == "Softmax")
    node.op_type = "Hardmaxxed"
    node.name = "model/odd"
    onnx.save(broken, half_file)
    with pytest.raises(EngineError, match="cannot read the graph: .*node 'model/odd', Hardmaxxed"):
        _build(half_file, spec)


def test_profiles_that_do_not_fit_are_told(half_file: Path, spec: GraphSpec) -> None:
    wrong = GraphSpec(spec.height, spec.width, spec.text_width + 1)
    with pytest.raises(EngineError, match="cannot build the graph: .+"):
        _build(half_file, wrong)


def test_unknown_compute_capability(half_file: Path, spec: GraphSpec) -> None:
    with pytest.raises(BadInputError, match="capability '6.1' is unknown .* 8.6, 8.9, .*12.0"):
        _build(half_file, spec, compute_capabilities=("6.1",))


def test_missing_package(half_file: Path, spec: GraphSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=re.escape(pip_install("rtx"))):
        _build(half_file, spec)


@pytest.mark.slow
def test_nano_for_rtx_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dedos_deploy.cli.export import main

    dest = tmp_path / "nano.dedos"
    argv = [
        "--preset",
        "nano",
        "--random-weights",
        "--target",
        "rtx",
        "--precision",
        "fp16",
        "--frame-count",
        "1",
        "--output",
        str(dest),
        "--json",
    ]
    assert main(argv) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    assert report["engine"]["profiles"] == [16, 64, 256] and report["engine"]["size"] > 10_000_000
    assert report["parity"]["passed"] and report["parity"]["min_agreement"] == 0.99
    assert "[5/6] building the TensorRT for RTX engine" in captured.err
    assert "weights are random" in captured.err
    with Bundle.open(dest) as bundle:
        assert bundle.manifest.target == "rtx"
        engines = [name for name in bundle.manifest.files if name.startswith("engines/")]
        assert sorted(Path(name).suffix for name in engines) == [".engine", ".json"]
        assert bundle.manifest.tools["tensorrt-rtx"] == trt.__version__
        key = json.loads(bundle.path(next(n for n in engines if n.endswith("json"))).read_text())
        assert key["model_sha256"] == bundle.manifest.files["model.onnx"]
