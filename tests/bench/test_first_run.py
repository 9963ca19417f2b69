"""benchmarks/first_run_on_gpu.py: every step ends in time and leaves its result, whatever it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
BENCHMARKS = TESTS.parent / "benchmarks"
SCRIPT = BENCHMARKS / "first_run_on_gpu.py"
PLANTED = Path(__file__).with_name("planted_steps.py")
sys.path += [str(BENCHMARKS), *(str(TESTS / name) for name in ("gpu", "native", "runtime"))]

from fake_cuda import FakeCuda  # noqa: E402
from first_run import attention, batches, graphs, kernels, plans, tiny_engines  # noqa: E402
from first_run.device import clocks_in, spread  # noqa: E402
from label_map import scene_scores  # noqa: E402
from pixel_host import compile_host  # noqa: E402
from tiny_bundle import image_graph, stripes, write_tiny_bundle  # noqa: E402

from dedos_deploy.errors import EngineError  # noqa: E402
from dedos_deploy.runtime import Segmenter  # noqa: E402
from dedos_deploy.runtime.engines.onnx_runtime import session_options  # noqa: E402
from dedos_deploy.runtime.gpu.cuda import Cuda  # noqa: E402
from dedos_deploy.runtime.gpu.flavours import TENSORRT, TENSORRT_RTX  # noqa: E402
from dedos_deploy.spec import GraphSpec  # noqa: E402

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="forks, and reads /proc"
)

KEYS = {"outcome", "reason", "seconds", "limit_s", "figures"}


def run(script: Path, output: Path, *arguments: str, **more: Any) -> dict[str, Any]:
    """Run to the end and return the results with the exit code."""
    done = subprocess.run(
        [sys.executable, str(script), "--output", str(output), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        **more,
    )
    results: dict[str, Any] = json.loads(output.read_text())
    return {**results, "code": done.returncode, "said": done.stdout + done.stderr}


def test_without_a_gpu_it_runs_to_its_end_and_says_why(tmp_path: Path) -> None:
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    results = run(SCRIPT, tmp_path / "results.json", env=hidden)
    steps = results["steps"]
    names = (
        "doctor kernels scores attention engines class_changes first_use paper_l batches".split()
    )
    assert list(steps) == names
    assert all(step.keys() == KEYS for step in steps.values())
    assert steps.pop("doctor")["figures"]["findings"], results["said"]
    assert {step["outcome"] for step in steps.values()} == {"skipped"}
    assert all("NVIDIA GPU" in step["reason"] for step in steps.values())
    assert results["code"] == (0 if results["said"].startswith("doctor: ok") else 1)


def test_every_end_of_a_step_is_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "test_planted.py").write_text(
        "import pytest\npytestmark = pytest.mark.gpu\ndef test_good(): pass\n"
        "def test_bad(): assert 1 == 2\ndef test_none(): pytest.skip('not here')\n"
    )
    names = "works,hangs,dies,leaves,misses,disagrees,refuses,raises,tests"
    environment = os.environ | {"PLANTED_TESTS": str(folder)}
    results = run(PLANTED, tmp_path / "r.json", "--steps", names, env=environment, cwd=tmp_path)
    steps = results["steps"]
    found = {name: (step["outcome"], step["reason"]) for name, step in steps.items()}
    assert found["works"] == ("ok", "")
    assert steps["works"]["figures"] == {"first": 1, "second": [2.5, "text"]}
    assert found["misses"] == ("skipped", "no such thing here")
    assert found["disagrees"] == ("failed", "scores differ by 0.5")
    assert found["refuses"] == ("failed", "the GPU has no room")
    assert found["dies"] == ("failed", "the process died: SIGABRT")
    assert found["leaves"] == ("failed", "the process died: exit code 3")
    assert found["raises"][0] == "failed"
    assert found["raises"][1].startswith("ZeroDivisionError: by hand; Traceback")
    assert found["hangs"] == ("timed out", "not done after 0 s; it said: about to hang")
    assert steps["hangs"]["figures"] == {"got_so_far": 7}
    assert found["tests"][0] == "failed" and "test_planted.py::test_bad" in found["tests"][1]
    counts = steps["tests"]["figures"]
    assert (counts["passed"], len(counts["failed"])) == (1, 1)
    assert counts["skipped"] == {"Skipped: not here": 1}
    assert results["code"] == 1


def test_what_is_killed_leaves_what_it_found_and_nothing_running(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    command = [sys.executable, str(PLANTED), "--steps", "works,hangs_long", "--output", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until(lambda: "works" in output.read_text() and len(_descendants(process.pid)) > 1)
        below = _descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
        until(lambda: not any(Path(f"/proc/{child}/cmdline").exists() for child in below))
    finally:
        process.kill()
    steps = json.loads(output.read_text())["steps"]
    assert list(steps) == ["works"] and steps["works"]["outcome"] == "ok"


def test_what_has_no_time_left_is_skipped(tmp_path: Path) -> None:
    arguments = ["--steps", "hangs_long,tests", "--minutes", "0.03"]
    steps = run(PLANTED, tmp_path / "results.json", *arguments)["steps"]
    assert steps["hangs_long"]["outcome"] == "timed out"
    assert 1.0 < steps["hangs_long"]["limit_s"] <= 1.8
    assert steps["tests"]["reason"] == "no time left of 0.03 minutes; run it with --steps"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "kernel"], "unknown step 'kernel', did you mean 'kernels'?"),
        (["--output", "missing/r.json"], "the folder of --output missing/r.json does not exist"),
    ],
)
def test_bad_arguments_get_a_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from first_run_on_gpu import main

    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("islands", [False, True])
def test_toy_attention_is_what_float64_says(islands: bool, tmp_path: Path) -> None:
    import onnxruntime

    case = attention.Case(33, 64, 2, islands)
    x, weights = attention.operands(case)
    path = attention.write_graph(case, weights, tmp_path / "attention.onnx")
    session = onnxruntime.InferenceSession(str(path), session_options(1))
    found = session.run(None, {"x": x})[0]
    wanted = attention.reference(case, x, weights)
    assert attention.relative_error(found, wanted) < attention.MOST_ERROR / 2
    assert attention.relative_error(found[:, ::-1], wanted) > 10 * attention.MOST_ERROR
    assert attention.relative_error(found * np.nan, wanted) == np.inf


def test_an_engine_of_one_shape_carries_fused_attention(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    case = attention.Case(33, 64, 2, islands=True)
    x, weights = attention.operands(case)
    path = attention.write_graph(case, weights, tmp_path / "attention.onnx")
    plan, _ = plans.build_plan(trt, TENSORRT_RTX, path, {"x": x.shape}, "8.9")
    assert plans.fused_kernels(plan) == 1
    path.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"TensorRT for RTX [\d.]+ cannot read the graph"):
        plans.build_plan(trt, TENSORRT_RTX, path, {"x": x.shape}, "8.9")
    assert plans.fused(["_gemm_mha_v2_0x12", "Conv_1", "sm80_fmha"]) == 2
    for owner, name in (
        ("ICudaEngine", "create_engine_inspector"),
        ("EngineInspector", "execution_context"),
        ("EngineInspector", "get_engine_information"),
        ("LayerInformationFormat", "JSON"),
        ("IExecutionContext", "profiler"),
        ("IExecutionContext", "get_tensor_shape"),
        ("IProfiler", "report_layer_time"),
    ):
        assert hasattr(getattr(trt, owner), name), (owner, name)


class DoublingContext:
    """An execution context whose engine doubles four numbers, y = 2 x."""

    def __init__(self, fake: FakeCuda) -> None:
        self._fake = fake
        self._at: dict[str, int] = {}
        self.profiler: Any = None

    def set_device_memory(self, address: int, size: int) -> None:
        assert self._fake.must_view(address, size).size == size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return (name, shape) == ("x", (1, 4))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, 4)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._at[name] = address
        return True

    def execute_async_v3(self, handle: int) -> bool:
        def work() -> None:
            x, y = (self._fake.must_view(self._at[name], 16).view(np.float32) for name in "xy")
            y[:] = 2 * x

        if self.profiler is not None:
            self.profiler.report_layer_time("small", 0.25)
            self.profiler.report_layer_time("large", 1.0)
        return self._fake.queue(handle, work)


def doubling(fake: FakeCuda) -> Any:
    """Return a module that has one engine."""
    context = DoublingContext(fake)
    told = {"Layers": ["plain", {"Name": "attention", "TacticName": "_gemm_mha_v2_0x1"}]}
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name="xy".__getitem__,
        get_tensor_dtype=lambda name: SimpleNamespace(name="FLOAT"),
        get_device_memory_size_for_profile_v2=lambda profile: 64,
        create_execution_context=lambda strategy: context,
        create_engine_inspector=lambda: SimpleNamespace(
            get_engine_information=lambda format: json.dumps(told)
        ),
    )
    loads = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if plan else None)
    return SimpleNamespace(
        __version__="10.9",
        ILogger=type("ILogger", (), {"ERROR": 1}),
        IProfiler=object,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=2),
        LayerInformationFormat=SimpleNamespace(JSON=1),
        Runtime=lambda logger: loads,
    )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return compile_host(tmp_path_factory.mktemp("pixel_host"))


def test_a_plan_is_run_timed_and_looked_into(host: Any) -> None:
    fake = FakeCuda(host)
    module, cuda = doubling(fake), Cuda(fake.runtime, fake.driver)
    with plans.PlanRunner(module, TENSORRT, b"plan", cuda, {"x": (1, 4)}) as runner:
        x = np.array([[1, 2, 3, 4]], np.float32)
        np.testing.assert_array_equal(runner.run({"x": x})["y"], 2 * x)
        for graph in (False, True):
            assert len(runner.times_ms(5, graph=graph)) == 5
        names = runner.layer_names()
        assert (len(names), plans.fused(names)) == (2, 1)
        assert runner.layers_ms(4) == [("large", 1.0), ("small", 0.25)]
    assert not any(fake.live.values())
    with pytest.raises(EngineError, match="TensorRT 10.9 cannot load the plan"):
        plans.PlanRunner(module, TENSORRT, b"", cuda, {"x": (1, 4)})


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_label_times_come_with_the_cpus_labels(host: Any, dtype: Any, tmp_path: Path) -> None:
    fake = FakeCuda(host)
    cuda = Cuda(fake.runtime, fake.driver)
    fatbin = tmp_path / "kernels.fatbin"
    fatbin.write_bytes(b"fat")
    scores = scene_scores(7, (9, 12)).astype(dtype)
    times = kernels.label_times(cuda, fatbin, scores, (40, 60), runs=3)
    assert times.keys() == {"pre", "post"} and times["post"].keys() == spread([1.0]).keys()
    assert not any(fake.live.values())


def test_engines_are_compared_and_words_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))
    bundle = write_tiny_bundle(tmp_path / "tiny", target="trt")
    facts = tiny_engines.engine_facts(bundle, "cpu")
    assert set(facts["max_abs_by_slots"].values()) == {0.0}
    assert facts["frame_ms"]["p50"] <= facts["frame_ms"]["max"]
    frame = stripes(*tiny_engines.FRAME_HW)
    with Segmenter.load(bundle, classes="red", background="none", threads=1) as segmenter:
        assert len(tiny_engines.change_words(segmenter, frame, 5)) == 5
        assert segmenter.vocabulary_version == 6
        stalls = tiny_engines.stalls_ms(segmenter, frame, (16, 17, 65))
        assert [stall["words"] for stall in stalls] == [16, 17, 65]
        assert len(segmenter.classes) == 65


def test_clocks_are_those_of_every_gpu_and_need_none() -> None:
    told = ", ".join(["NVIDIA H100", "580.65", "81559 MiB", *["1980 MHz"] * 3, "700.00 W", "31"])
    first, second = clocks_in(f"{told}\n{told}\n")
    assert first == second and (first["name"], first["temperature.gpu"]) == ("NVIDIA H100", "31")
    assert clocks_in("No devices were found\n") == []


def test_graphs_of_true_size_are_those_that_an_export_deploys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half scores included, which are most of what comes back from the device."""
    onnx = pytest.importorskip("onnx")
    made = pytest.importorskip("dedos_deploy.export.target_graph")
    asked = []

    def traced(model: object, *how: Any) -> SimpleNamespace:
        asked.append(how)
        return SimpleNamespace(model=onnx.load_from_string(image_graph(half=True)))

    monkeypatch.setattr(made, "target_graph", traced)
    path, spec = graphs.write_graph(tmp_path, "nano", 2)
    assert path.is_file() and asked == [(spec, "fp16", "trt")]
    assert (spec.batch, spec.score_dtype) == (2, "float16")


def test_inputs_are_those_of_the_graph_and_rows_come_back_in_order() -> None:
    spec = GraphSpec(64, 96, text_width=8, batch=4)
    inputs = graphs.some_inputs(spec, 17)
    for tensor in spec.inputs:
        values = inputs[tensor.name]
        wanted = tuple(17 if dim == "K" else dim for dim in tensor.shape)
        assert (values.shape, values.dtype.name) == (wanted, tensor.dtype)
    np.testing.assert_allclose(np.linalg.norm(inputs["text"], axis=1), 1, rtol=1e-6)
    shown: list[int] = []

    def run(some: dict[str, Any]) -> dict[str, Any]:
        shown.append(len(some["image"]))
        return {"scores": some["image"].mean((1, 2, 3))}

    alone, pairs = (batches.all_scores(SimpleNamespace(run=run), inputs, size) for size in (1, 2))
    np.testing.assert_array_equal(alone, pairs)
    assert shown == [1, 1, 1, 1, 2, 2] and len(set(alone)) == 4


def until(done: Any, seconds: float = 20.0) -> None:
    """Wait until something holds."""
    deadline_s = time.monotonic() + seconds
    while True:
        try:
            if done():
                return
        except FileNotFoundError:
            pass
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def _descendants(process: int) -> set[int]:
    """Return the processes below one."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process:
            found |= {int(path.parent.name), *_descendants(int(path.parent.name))}
    return found
