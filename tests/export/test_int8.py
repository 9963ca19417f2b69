"""INT8 export: calibration, plan, verdict, what lands in the bundle, and what goes wrong."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from export_micro import copied
from numpy.typing import NDArray
from onnx import numpy_helper

from dedos_deploy.bundle import Bundle
from dedos_deploy.calib.collect import channel_maxima
from dedos_deploy.calib.options import Int8Options
from dedos_deploy.calib.table import CalibrationTable
from dedos_deploy.calib.verdict import SideBySide
from dedos_deploy.cli.export import main
from dedos_deploy.errors import BadInputError, SinkError, SourceError
from dedos_deploy.evaluation.evaluate import evaluate_bundle
from dedos_deploy.export import ExportOptions, ExportReport, TrainedModel, export_bundle
from dedos_deploy.export import int8 as int8_module
from dedos_deploy.export import int8_judge as judge_module
from dedos_deploy.export import target_graph as target_module
from dedos_deploy.export.graph import image_graph
from dedos_deploy.export.storage import rounded_rows, store_small
from dedos_deploy.model import Dedos, freeze, save_checkpoint
from dedos_deploy.progress import Progress
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.scenes import KINDS, class_names, render_image
from dedos_deploy.spec import GraphSpec

FAST = SideBySide(1.0, 0.5, 2.0, 5)
SLOW = SideBySide(1.0, 0.9, 1.11, 5)
FRAMES = 24


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures to calibrate on."""
    folder = tmp_path_factory.mktemp("drive")
    for index in range(FRAMES):
        image, _ = render_image(KINDS[index % len(KINDS)], seed=index, size_hw=(48, 64))
        cv2.imwrite(str(folder / f"{index:02d}.png"), image)
    return folder


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label folder of five street scenes."""
    folder = tmp_path_factory.mktemp("street")
    for kind in ("images", "labels"):
        (folder / kind / "val").mkdir(parents=True)
    for index in range(5):
        image, labels = render_image("street", seed=90 + index, size_hw=(48, 64))
        cv2.imwrite(str(folder / "images" / "val" / f"{index}.png"), image)
        cv2.imwrite(str(folder / "labels" / "val" / f"{index}.png"), labels)
    (folder / "classes.txt").write_text("\n".join(class_names("street")) + "\n")
    return folder


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> Callable[[SideBySide], None]:
    """Return a function that sets what the comparison of speed finds: both still run once."""

    def found(result: SideBySide) -> None:
        def side_by_side(reference: Any, candidate: Any) -> SideBySide:
            reference(), candidate()
            return result

        monkeypatch.setattr(judge_module, "side_by_side", side_by_side)

    return found


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch, float_graph: onnx.ModelProto) -> None:
    monkeypatch.setattr(target_module, "image_graph", lambda *_: copied(float_graph))


def _export(trained: TrainedModel, dest: Path, calib: Path | str, **options: Any) -> ExportReport:
    names = Int8Options.__dataclass_fields__
    int8 = {"frames": 16, "budget": 1.0} | {k: v for k, v in options.items() if k in names}
    others = {k: v for k, v in options.items() if k not in names}
    return export_bundle(
        trained,
        dest,
        options=ExportOptions(
            precision="int8",
            int8=Int8Options(calib, **int8),
            frame_count=1,
            allow_drift=True,
            **others,
        ),
    )


def _kinds(path: Path) -> set[str]:
    with Bundle.open(path) as bundle:
        return {node.op_type for node in onnx.load(bundle.path("model.onnx")).graph.node}


def test_a_kept_bundle_is_int8_and_tells_how_it_came_about(
    trained: TrainedModel, drive: Path, tmp_path: Path, timing: Any
) -> None:
    timing(FAST)
    report = _export(trained, tmp_path / "int8.dedos", drive, budget=0.02, force=True)
    with Bundle.open(report.path) as bundle:
        manifest = bundle.manifest
        assert manifest.precision == {"image": "int8", "text": "int8"}
        table = CalibrationTable.load(bundle.path("calibration.json"))
        assert manifest.calibration_hash == table.key.sha256
        assert table.key.frames == 14 and table.channel_maxima
        stored = json.loads(bundle.path("report.json").read_text())["int8"]
        graph = onnx.load(bundle.path("model.onnx")).graph
        rows = bundle.path("sensitivity.md").read_text().splitlines()[2:]
        picture = cv2.imread(str(bundle.path("sensitivity.png")))
    assert len(rows) == len(stored["sensitivity"]["sites"]) and picture.shape[1] == 1000
    assert (stored["frames"], stored["checked"]) == (14, 2)
    assert report.int8 is not None
    assert stored == json.loads(json.dumps(report.int8.to_dict()))
    chosen, names = stored["plan"], {site["site"] for site in stored["sensitivity"]["sites"]}
    assert {site["site"] for site in (*chosen["quantized"], *chosen["given_back"])} == names
    assert chosen["loss_budget"] == 0.02 and chosen["rounds"]
    assert stored["verdict"]["kept"] and stored["verdict"]["timing"]["speedup"] == 2.0
    if chosen["quantized"]:
        assert any(t.data_type == onnx.TensorProto.INT8 for t in graph.initializer)
    with Segmenter.load(report.path, classes="road,car", threads=1) as segmenter:
        assert segmenter.segment(np.zeros((50, 70, 3), np.uint8)).label_map.shape == (50, 70)


def test_int8_is_smaller_and_close(
    trained: TrainedModel, drive: Path, tmp_path: Path, timing: Any
) -> None:
    timing(FAST)
    int8 = _export(trained, tmp_path / "int8.dedos", drive, force=True)
    full = export_bundle(trained, tmp_path / "fp32.dedos", options=ExportOptions(frame_count=1))
    assert {"QuantizeLinear", "DequantizeLinear"} <= _kinds(int8.path)
    with Bundle.open(int8.path) as one, Bundle.open(full.path) as other:
        sizes = [bundle.path("text_encoder.onnx").stat().st_size for bundle in (one, other)]
    assert sizes[0] < sizes[1]
    assert int8.parity.precision == "int8" and int8.parity.agreement > 0.5
    assert int8.parity.frames_from == "frames that did not calibrate"


@pytest.mark.parametrize("slow", [True, False])
def test_int8_that_does_not_win_is_not_written(
    trained: TrainedModel,
    drive: Path,
    tmp_path: Path,
    timing: Any,
    slow: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timing(SLOW if slow else FAST)
    if not slow:
        monkeypatch.setattr(judge_module.Judge, "_agreement", lambda *_: 0.98)
    report = _export(trained, tmp_path / "out.dedos", drive)
    said = "1.11x as fast, at least 1.15x" if slow else "loses 2.0 points"
    assert report.image_precision == "fp32" and said in report.warnings[0]
    assert report.warnings[0].endswith("the bundle is FP32")
    assert report.parity.precision == "fp32" and report.parity.agreement > 0.999
    assert "QuantizeLinear" not in _kinds(report.path)
    with Bundle.open(report.path) as bundle:
        assert bundle.manifest.precision == {"image": "fp32", "text": "fp16"}
        stored = json.loads(bundle.path("report.json").read_text())["int8"]
    assert not stored["verdict"]["kept"] and len(stored["verdict"]["failed"]) == 1
    forced = _export(trained, tmp_path / "forced.dedos", drive, force=True)
    assert forced.image_precision == "int8" and forced.int8 is not None
    assert forced.int8.verdict.forced


def test_labels_pass_the_verdict(
    trained: TrainedModel, drive: Path, street: Path, tmp_path: Path, timing: Any
) -> None:
    timing(FAST)
    report = _export(trained, tmp_path / "out", drive, labels=street, force=True)
    assert report.int8 is not None
    accuracy = report.int8.verdict.accuracy
    assert accuracy.miou_reference is not None and accuracy.miou_int8 is not None
    assert 0 < accuracy.miou_reference < 0.5 and abs(accuracy.loss) < 0.1
    # The same figure as dedos-eval has for the FP32 bundle.
    full = export_bundle(trained, tmp_path / "fp32", options=ExportOptions(frame_count=1))
    assert full.image_precision == "fp32"
    measured = evaluate_bundle(full.path, street, "val")
    assert measured.miou_present == pytest.approx(accuracy.miou_reference, abs=0.01)


def test_gpu_targets_keep_half_when_no_engine_can_be_timed(
    trained: TrainedModel,
    drive: Path,
    tmp_path: Path,
    half_graph: onnx.ModelProto,
    spec: GraphSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size_hw = (spec.height, spec.width)
    full = image_graph(freeze(trained.model, size_hw=size_hw, deformable="gather"), spec)
    graphs = {"fp32": full, "fp16": half_graph}
    kinds: list[str] = []

    def noted(model: Dedos, **options: Any) -> Any:
        kinds.append(options["precision"])
        return freeze(model, **options)

    monkeypatch.setattr(target_module, "freeze", noted)
    monkeypatch.setattr(target_module, "image_graph", lambda *_: copied(graphs[kinds[-1]]))
    report = _export(trained, tmp_path / "out", drive, target="trt")
    assert (
        report.image_precision == "fp16" and "no engine of this target runs" in report.warnings[0]
    )
    forced = _export(trained, tmp_path / "forced", drive, target="trt", force=True)
    assert forced.image_precision == "int8"
    with Bundle.open(forced.path) as bundle:
        graph = onnx.load(bundle.path("model.onnx")).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    zeros = [constants[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert zeros and all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_a_table_is_used_again_and_only_for_the_same(
    trained: TrainedModel,
    model: Dedos,
    drive: Path,
    tmp_path: Path,
    timing: Any,
    monkeypatch: pytest.MonkeyPatch,
    float_graph: onnx.ModelProto,
) -> None:
    timing(FAST)
    table = tmp_path / "table.json"
    first = _export(trained, tmp_path / "one.dedos", drive, table=table, force=True)
    written = table.read_bytes()

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("frames were run again")

    with monkeypatch.context() as patched:
        patched.setattr(int8_module, "channel_maxima", never)
        patched.setattr(int8_module, "collect_histograms", never)
        again = _export(trained, tmp_path / "two.dedos", drive, table=table, force=True)
    assert first.int8 is not None and again.int8 is not None
    assert first.int8.plan == again.int8.plan and first.int8.sensitivity == again.int8.sensitivity
    with Bundle.open(first.path) as one, Bundle.open(again.path) as two:
        assert one.path("model.onnx").read_bytes() == two.path("model.onnx").read_bytes()
    changed = copied(float_graph)
    tensor = next(t for t in changed.graph.initializer if t.name.endswith("qkv.weight"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    monkeypatch.setattr(target_module, "image_graph", lambda *_: copied(changed))
    with pytest.raises(BadInputError, match=r"table\.json.*model"):
        _export(trained, tmp_path / "three.dedos", drive, table=table)
    assert table.read_bytes() == written and not (tmp_path / "three.dedos").exists()


class Counts(Progress):
    """Keeps what is counted; stop_at: the frame at which Ctrl-C is pressed."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.done: list[int] = []
        self._stop_at = stop_at

    def count(self, done: int, total: int, unit: str = "image") -> None:
        self.done.append(done)
        if done == self._stop_at:
            raise KeyboardInterrupt


def test_an_interrupted_calibration_goes_on(
    trained: TrainedModel,
    drive: Path,
    tmp_path: Path,
    timing: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timing(FAST)
    table = tmp_path / "table.json"

    def interrupted(inputs: Any, tensors: Any, *, resume: Any, progress: Any) -> Any:
        return channel_maxima(inputs, tensors, resume=resume, progress=Counts(stop_at=9))

    with monkeypatch.context() as patched:
        patched.setattr(int8_module, "channel_maxima", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _export(trained, tmp_path / "out.dedos", drive, table=table)
    assert not (tmp_path / "out.dedos").exists() and not table.exists()
    counts = Counts()

    def counted(inputs: Any, tensors: Any, *, resume: Any, progress: Any) -> Any:
        return channel_maxima(inputs, tensors, resume=resume, progress=counts)

    monkeypatch.setattr(int8_module, "channel_maxima", counted)
    _export(trained, tmp_path / "out.dedos", drive, table=table, force=True)
    assert counts.done[0] == 9 and counts.done[-1] == 14  # From the state saved at 8.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.dedos", "table.json"]
    alone = _export(trained, tmp_path / "alone.dedos", drive, force=True)
    with Bundle.open(alone.path) as one, Bundle.open(tmp_path / "out.dedos") as other:
        assert one.path("model.onnx").read_bytes() == other.path("model.onnx").read_bytes()


@pytest.mark.parametrize("step", ["collect_histograms", "measure_sensitivity", "save_graph"])
def test_a_full_disk_leaves_nothing(
    trained: TrainedModel, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(int8_module, step, fail)
    with pytest.raises(SinkError, match="No space left"):
        _export(trained, tmp_path / "out.dedos", drive)
    assert not os.listdir(tmp_path)


def test_user_errors_come_before_the_work(
    trained: TrainedModel,
    drive: Path,
    street: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dedos_deploy.vocabulary import parse_vocabulary

    def never(*_: Any) -> Any:
        raise AssertionError("the graph was exported")

    monkeypatch.setattr(target_module, "image_graph", never)
    few = tmp_path / "few"
    few.mkdir()
    for index in range(5):
        image, _ = render_image("street", seed=index, size_hw=(48, 64))
        cv2.imwrite(str(few / f"{index}.png"), image)
    writer = cv2.VideoWriter(
        str(tmp_path / "empty.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48)
    )
    writer.release()
    out = tmp_path / "out.dedos"
    with pytest.raises(BadInputError, match="16"):
        _export(trained, out, few)
    with pytest.raises((BadInputError, SourceError), match=r"empty\.avi"):
        _export(trained, out, tmp_path / "empty.avi")
    with pytest.raises(BadInputError, match=r"classes\.txt"):
        _export(trained, out, drive, labels=drive)
    with pytest.raises(BadInputError, match="unicorn"):
        _export(trained, out, drive, labels=street, vocabulary=parse_vocabulary("road,unicorn"))
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--precision int8", "needs frames to calibrate on; give --calib"),
        ("--calib drive", "precision 'fp32' needs none; choose --precision int8"),
        ("--precision int8 --calib drive --batches 1,2", "one frame per run, not for batches 1,2"),
        ("--precision int8 --calib drive --int8-budget 2", r"must lie in \[0, 1\], not 2\.0"),
        ("--precision int8 --calib drive --calib-frames 3", "16"),
        ("--precision int8 --calib nowhere", "'nowhere' does not exist"),
        ("--labels street", "--labels goes with --calib; give both"),
        ("--calib-table t.json", "--calib-table goes with --calib; give both"),
    ],
)
def test_typos_are_one_sentence(
    model: Dedos,
    drive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    said: str,
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    os.symlink(drive, "drive")
    save_checkpoint(tmp_path / "good.safetensors", model)
    assert main(["--checkpoint", "good.safetensors", *line.split()]) == 2
    err = capsys.readouterr().err
    assert re.search(said, err) and "Traceback" not in err
    assert sorted(os.listdir()) == ["drive", "good.safetensors"]


def test_the_command_line_says_the_verdict(
    model: Dedos, drive: Path, tmp_path: Path, timing: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    timing(FAST)
    save_checkpoint(tmp_path / "good.safetensors", model)
    line = ["--checkpoint", str(tmp_path / "good.safetensors"), "--precision", "int8"]
    line += ["--calib", str(drive), "--calib-frames", "16", "--force-int8", "--allow-drift"]
    assert main([*line, "--output", str(tmp_path / "out.dedos")]) == 0
    out = capsys.readouterr().out
    assert "INT8 kept: 2.00x as fast" in out or "INT8 forced: 2.00x as fast" in out
    assert "layers in INT8" in out and "14 frames, 2 to check" in out


def test_storage_leaves_what_quantization_reads_alone() -> None:
    """A scale of 2000 channels is large enough to be stored small, but must stay a constant."""
    rng = np.random.default_rng(0)
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    weight = rng.normal(size=(8, 2000)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [
            node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], "dq", axis=1),
            node("MatMul", ["x", "w"], ["a"], "one"),
            node("MatMul", ["x", "other"], ["b"], "two"),
            node("Add", ["a", "b"], ["y"], "sum"),
        ],
        "g",
        [value("x", 1, [2, 8])],
        [value("y", 1, [2, 2000])],
        [
            numpy_helper.from_array(np.ones((8, 2000), np.int8), "codes"),
            numpy_helper.from_array(rng.uniform(size=2000).astype(np.float32), "scale"),
            numpy_helper.from_array(np.zeros(2000, np.int8), "zero"),
            numpy_helper.from_array(weight, "other"),
        ],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    for matrices, kind in (("half", 10), ("int8", 3)):
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
        store_small(model, matrices=matrices)
        onnx.checker.check_model(model, full_check=True)
        types = {t.name: t.data_type for t in model.graph.initializer}
        assert types["scale"] == 1 and types[f"other.{'half' if kind == 10 else 'int8'}"] == kind
    codes, scale = rounded_rows(weight)
    assert codes.dtype == np.int8 and np.abs(codes).max() == 127
    assert (np.abs(codes * scale - weight) <= scale / 2 * 1.0001).all()


def test_plans_that_the_parity_gate_would_refuse_cost_everything(
    trained: TrainedModel,
    drive: Path,
    street: Path,
    tmp_path: Path,
    timing: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Labels may not mind what the gate minds: all layers go back, nothing is refused."""
    timing(FAST)
    monkeypatch.setattr(judge_module.Judge, "_agreement", lambda *_: 0.9)
    report = _export(trained, tmp_path / "out", drive, labels=street, budget=0.5, force=True)
    assert report.int8 is not None and not report.int8.plan.sites


@pytest.mark.parametrize("agreements", [(0.9, 1.0), (1.0, 0.9), (0.9, 0.9)])
def test_every_candidate_has_one_engine_and_the_float_graph_one(
    trained: TrainedModel,
    drive: Path,
    street: Path,
    tmp_path: Path,
    timing: Any,
    monkeypatch: pytest.MonkeyPatch,
    agreements: tuple[float, float],
) -> None:
    """Whichever plan is chosen: the first, one in the middle of the search, the last, or none."""
    timing(FAST)
    opened: list[str] = []
    still_open: list[OnnxEngine] = []

    class Counted(OnnxEngine):
        def __init__(self, model: Path, spec: GraphSpec) -> None:
            super().__init__(model, spec, threads=1)
            opened.append(model.name)
            still_open.append(self)

        def close(self) -> None:
            super().close()
            still_open.remove(self)

    for module in (int8_module, judge_module):
        monkeypatch.setattr(module, "OnnxEngine", Counted)
    found = itertools.cycle(agreements)
    monkeypatch.setattr(judge_module.Judge, "_agreement", lambda *_: next(found))
    report = _export(trained, tmp_path / "out", drive, labels=street, budget=0.5, force=True)
    assert report.int8 is not None
    plan = report.int8.plan
    sites = len(plan.sites) + len(plan.given_back)
    measured = [sites - each.given_back for each in plan.rounds]
    expected = dict.fromkeys([*measured, len(plan.sites)])  # none at all is never measured
    assert opened == ["float.onnx", *(f"int8_{number}.onnx" for number in expected)]
    assert not still_open


def test_scores_of_a_picture(
    trained: TrainedModel,
    drive: Path,
    tmp_path: Path,
    timing: Any,
    frames: list[NDArray[np.uint8]],
    base_text: NDArray[np.float32],
) -> None:
    """Smoothing on and off give nearly the same INT8 scores, and neither is the float ones."""
    timing(FAST)
    scores = []
    for smoothing in (True, False):
        path = tmp_path / f"{smoothing}.dedos"
        _export(trained, path, drive, smoothing=smoothing, force=True)
        with (
            Bundle.open(path) as bundle,
            OnnxEngine(bundle.path("model.onnx"), bundle.spec, threads=1) as engine,
        ):
            image = cv2.resize(frames[0], (bundle.spec.width, bundle.spec.height))
            inputs = {"image": image[None], "text": base_text, "valid": np.ones(9, np.float32)}
            scores.append(engine.infer(inputs)["scores"].copy())
    assert not np.array_equal(*scores)
    assert np.abs(scores[0] - scores[1]).max() < 0.2


def test_options_need_each_other() -> None:
    with pytest.raises(BadInputError, match="estimator 'mean' is unknown"):
        Int8Options("x", estimator="mean")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="needs frames to calibrate on"):
        ExportOptions(precision="int8")
    with pytest.raises(BadInputError, match="not for batches 1,3"):
        replace(ExportOptions(precision="int8", int8=Int8Options("x")), batches=(1, 3))
