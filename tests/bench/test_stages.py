"""dedos-bench stages: what is compared, what is counted, and what stays in its JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "runtime"))

from tiny_bundle import image_graph, write_tiny_bundle

from dedos_deploy.bench import ceilings as ceilings_module
from dedos_deploy.bench import energy
from dedos_deploy.bench.ceilings import cpu_ceilings, gpu_ceilings, product_graph
from dedos_deploy.bench.opening import open_segmenter
from dedos_deploy.bench.stages import BenchOptions, markdown, run_bench
from dedos_deploy.bundle import Bundle
from dedos_deploy.bundle.edit import set_confidence_curves
from dedos_deploy.cli.bench import main
from dedos_deploy.confidence_curves import ConfidenceCurves
from dedos_deploy.model.cost import model_cost
from dedos_deploy.presets import PRESETS
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.engines.contract import EngineOptions
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.engines.tensors import Tensors
from dedos_deploy.trust import Kind, fit_trust


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """A bundle, one that labels the same, and one that does not."""
    folder = tmp_path_factory.mktemp("bundles")
    same = write_tiny_bundle(folder / "same", model=image_graph(gain=0.5))
    other = write_tiny_bundle(folder / "other", model=image_graph(gain=0.0))
    return str(write_tiny_bundle(folder / "first")), str(same), str(other)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings_module, "LEAST_S", 0.01)
    monkeypatch.setattr(ceilings_module, "MATRIX", 128)


def test_rows_of_every_combination(bundles: tuple[str, str, str]) -> None:
    options = BenchOptions(
        bundles[:2], slots=(2, 7), sizes=((40, 60), (60, 80)), frames=4, threads=1
    )
    report = run_bench(options)
    assert [(row.bundle, row.slots, row.frame_hw) for row in report.rows] == [
        (name, slots, size)
        for size in ((40, 60), (60, 80))
        for slots in (2, 7)
        for name in bundles[:2]
    ]
    for row in report.rows:
        assert set(row.ms) == {"pre", "engine", "post", "total"} and row.frames == 4
        for values in row.ms.values():
            assert 0 <= values["p50"] <= values["p90"] <= values["p99"]
        parts = sum(row.ms[part]["p50"] for part in ("pre", "engine", "post"))
        assert row.ms["total"]["p99"] > 0.5 * parts
        assert row.jitter >= 1 and row.fps > 0 and row.device_mb is None
        assert row.of_matmul is not None and row.of_matmul > 0
    assert report.facts["threads"] == 1


def test_the_report_says_what_the_engine_says(
    bundles: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxEngine, "facts", lambda self: {"flavour": "one of its own"})
    monkeypatch.setattr(OnnxEngine, "device_memory", lambda self: 3_500_000)
    report = run_bench(BenchOptions(bundles[:1], slots=(2,), sizes=((40, 60),), frames=1))
    assert report.facts["flavour"] == "one of its own"
    assert [row.device_mb for row in report.rows] == [3.5]


def test_labels_are_compared_with_the_first(bundles: tuple[str, str, str]) -> None:
    report = run_bench(BenchOptions(bundles, slots=(2,), sizes=((40, 60),), frames=1))
    assert report.agreement[bundles[0]] == report.agreement[bundles[1]] == 1.0
    # All scores of the last are 0, so its first word wins everywhere.
    assert report.agreement[bundles[2]] < 0.9
    table = markdown(report).splitlines()
    assert len(table) == 2 + 3 and all(line.count("|") == 19 for line in table)


def test_the_time_of_a_bundle_with_tiles_is_that_of_all_its_windows(
    bundles: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiled = str(write_tiny_bundle(tmp_path / "tiled", tiles="2x2", batches=[4]))
    shown: list[int] = []
    infer = OnnxEngine.infer

    def noted(self: OnnxEngine, inputs: Tensors) -> Tensors:
        shown.append(len(inputs["image"]))
        return infer(self, inputs)

    monkeypatch.setattr(OnnxEngine, "infer", noted)
    options = BenchOptions([bundles[0], tiled], slots=(2,), sizes=((90, 120),), frames=2, threads=1)
    report = run_bench(options)
    assert shown[-6:] == [1, 4, 1, 4, 1, 1]  # whole, tiled, tiled, whole
    whole, row = report.rows
    assert (whole.windows, row.windows) == (1, 5)
    assert report.ceilings is not None and row.of_matmul is not None
    macs = model_cost(PRESETS["nano"], size_hw=(32, 48), slots=2).macs
    rate = 5 * macs / (row.ms["engine"]["p50"] / 1e3)
    assert row.of_matmul == pytest.approx(rate / report.ceilings.matmul)
    # Its labels are those of its windows, too, which see more than the whole does.
    assert 0.5 < report.agreement[tiled] < 1.0
    with Bundle.open(tiled) as bundle, Segmenter.load(bundle, classes="a") as segmenter:
        assert segmenter.segment(np.zeros((90, 120, 3), np.uint8)).windows == row.windows


def test_trust_and_curves_are_part_of_a_frame(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(100, 9, (20, 3)).astype(np.float32)
    trust = fit_trust([Kind("frames", "0" * 64, rows)], [3])
    path = write_tiny_bundle(tmp_path / "whole", trust=trust)
    with Bundle.open(path) as bundle:
        levels = np.arange(256, dtype=np.uint8)
        curves = ConfidenceCurves(bundle.manifest.files["model.onnx"], levels, {})
    set_confidence_curves(path, curves)
    with Bundle.open(path) as bundle:
        segmenter, _ = open_segmenter(bundle, "cpu", EngineOptions(1))
        with segmenter:
            found = segmenter.segment(np.zeros((40, 60, 3), np.uint8))
    assert found.trust is not None and found.calibrated


def test_bundles_take_turns(bundles: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from dedos_deploy.bench import stages

    order: list[str] = []
    run = stages._Subject.run

    def noted(self: stages._Subject, frame: np.ndarray) -> dict[str, float]:
        order.append(Path(self.name).name)
        return run(self, frame)

    monkeypatch.setattr(stages._Subject, "run", noted)
    run_bench(BenchOptions(bundles[:2], slots=(2,), sizes=((40, 60),), frames=3))
    assert order[-6:] == ["first", "same", "same", "first", "first", "same"]


def test_other_vocabularies_cannot_be_compared(
    bundles: tuple[str, str, str], tmp_path: Path
) -> None:
    bare = str(write_tiny_bundle(tmp_path / "bare", base=False))
    options = BenchOptions([bare, bundles[0]], slots=(2,), frames=1)
    with pytest.raises(Exception, match="ship other vocabularies.*same --vocabulary"):
        run_bench(options)


def test_command_line(bundles: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["stages", "--bundle", *bundles[:2], "--slots", "2", "--size", "40x60", "--frames", "2"]
    assert main([*argv, "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert {"rows", "agreement", "ceilings", "energy", "facts"} == set(report)
    assert {"bundle", "ms", "jitter", "fps", "joules", "of_matmul", "batch"} <= set(
        report["rows"][0]
    )
    assert "\n| bundle | size |" in captured.err and "[1/1] measuring" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slots", "0"], "slots is 0, but must be at least 1"),
        (["--frames", "0"], "frames is 0"),
        (["--engine", "rtxx"], "unknown engine 'rtxx', did you mean 'rtx'"),
        (["--bundle", "nowhere"], "'nowhere' does not exist"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("dedos-bench: error:") and message in error


# Ceilings and energy


def test_the_graph_of_the_ceiling_is_a_product() -> None:
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    content = product_graph(4)
    onnx.checker.check_model(onnx.load_from_string(content))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    a, b = np.random.default_rng(0).random((2, 4, 4), np.float32)
    np.testing.assert_allclose(session.run(None, {"a": a, "b": b})[0], a @ b, rtol=1e-5)


def test_ceilings_of_this_machine() -> None:
    found = cpu_ceilings(1)
    assert found.matmul > 1e7 and found.copy > 1e7
    torch = pytest.importorskip("torch")
    assert (gpu_ceilings() is None) == (not torch.cuda.is_available())


def test_rapl_counts_on_when_its_counter_turns(tmp_path: Path) -> None:
    (tmp_path / "max_energy_range_uj").write_text("1000000\n")
    counter = tmp_path / "energy_uj"
    counter.write_text("900000\n")
    meter = energy._rapl(tmp_path)
    assert meter is not None and meter.read() == pytest.approx(0.9)
    counter.write_text("100000\n")
    assert meter.read() == pytest.approx(1.1)
    assert energy._rapl(tmp_path / "nothing") is None


def test_jetson_s_input_rail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rail = tmp_path / "hwmon3"
    rail.mkdir()
    for name, text in {
        "in1_label": "VDD_IN",
        "in1_input": "5000",
        "curr1_input": "2000",
        "in2_label": "VDD_CPU",
    }.items():
        (rail / name).write_text(text + "\n")
    clock = iter([0.0, 0.5, 2.0])
    monkeypatch.setattr(energy.time, "monotonic", lambda: next(clock))
    meter = energy._jetson(tmp_path)
    assert meter is not None
    assert [meter.read(), meter.read()] == pytest.approx([5.0, 20.0])  # 10 W
    assert energy._jetson(tmp_path / "nothing") is None


def test_joules_per_frame(bundles: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from dedos_deploy.bench import stages

    spent = iter(range(1000))
    meter = energy.EnergyMeter("a test", lambda: float(next(spent)))
    monkeypatch.setattr(stages, "open_meter", lambda **options: meter)
    report = run_bench(BenchOptions(bundles[:1], slots=(2,), sizes=((40, 60),), frames=5))
    assert report.rows[0].joules == 1.0 and report.energy == "a test"
    bare = replace(report.rows[0], joules=None, of_matmul=None)
    assert " - | - |" in markdown(replace(report, rows=(bare,)))
