"""Every call of TensorRT that can be refused, in every way its bindings have, is one error of ours."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import fake_module
from gpu_engines import SPEC, Opened
from test_vendor import _methods, _tiny_graph

from dedos_deploy.errors import EngineError
from dedos_deploy.progress import Progress
from dedos_deploy.runtime.gpu import vendor
from dedos_deploy.runtime.gpu.build import BuildOptions, build_engine
from dedos_deploy.runtime.gpu.flavours import TENSORRT, TENSORRT_RTX
from dedos_deploy.runtime.gpu.library import new_logger

NO_POINTER = TypeError("pybind11::init(): factory function returned nullptr")
"""What constructors of the bindings raise where the library gives none."""

RAISED = {
    "set_optimization_profile_async": "Error in set optimization profile async.",
    "infer_shapes": "infer_shapes error code: -3",
    "set_shape": "Shape provided for min is inconsistent with other shapes.",
}
"""The bindings' own words where they raise; other calls do for arguments of the wrong kind only."""

OPENING = [
    name
    for protocol in (vendor.Runtime, vendor.CudaEngine, vendor.RuntimeConfig)
    for name in _methods(protocol)
    if "runtime_cache" not in name
] + [*_methods(vendor.ExecutionContext)]

BUILDING = [
    name
    for protocol in (
        vendor.Builder,
        vendor.BuilderConfig,
        vendor.OptimizationProfile,
        vendor.OnnxParser,
    )
    for name in _methods(protocol)
    if name not in ("get_error", "get_timing_cache", "set_flag")
]


@pytest.fixture
def fake() -> FakeCuda:
    """Without the compiled functions, of which nothing runs here."""
    return FakeCuda()


def _refuses(opened: Opened, call: str, fault: Any, words: str) -> None:
    """Check that an engine is not opened, says why, and leaves nothing."""
    opened.faults = {call: fault}
    with pytest.raises(EngineError, match=words):
        opened(rtx=True)
    assert opened.module.faults == {} and opened.fake.live == {}


@pytest.mark.parametrize("call", OPENING)
def test_what_opening_an_engine_raises(opened: Opened, call: str) -> None:
    words = RAISED.get(call, f"{call}(): incompatible function arguments")
    for fault in (RuntimeError(words), MemoryError("std::bad_alloc")):
        _refuses(
            opened, call, fault, rf"TensorRT for RTX 1\.7\.1 .*{re.escape(str(fault).rstrip('.'))}"
        )


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("Runtime", NO_POINTER),
        ("deserialize_cuda_engine", None),
        ("create_execution_context", None),
        ("create_runtime_config", None),
        ("set_optimization_profile_async", False),
        ("set_input_shape", False),
        ("infer_shapes", ["text"]),
        ("set_tensor_address", False),
        ("execute_async_v3", False),
    ],
)
def test_what_opening_an_engine_is_answered(opened: Opened, call: str, answer: Any) -> None:
    _refuses(opened, call, answer, r"TensorRT for RTX 1\.7\.1 (refused|cannot load) .*the engine")


@pytest.mark.parametrize(
    "fault",
    [
        {"create_runtime_cache": None},
        {"create_runtime_cache": RuntimeError("no")},
        {"set_runtime_cache": False},
        {"deserialize": RuntimeError("no")},
        {"serialize": None},
        {"serialize": RuntimeError("no")},
    ],
    ids=str,
)
def test_a_runtime_cache_costs_no_more_than_time(
    opened: Opened, fault: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "engine.rtxcache"
    path.write_bytes(b"[]")
    opened.faults = dict(fault)
    engine = opened(rtx=True, runtime_cache=path)
    engine.close()
    assert opened.module.faults == {} and "no use for its runtime cache" in caplog.text


def test_the_real_bindings_raise_these_words() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install 'dedos-deploy[rtx]'")
    profile = trt.Builder(new_logger(trt, [])).create_optimization_profile()
    with pytest.raises(RuntimeError, match=re.escape(RAISED["set_shape"])):
        profile.set_shape("text", (-3,), (2,), (1,))
    # What takes an engine, and so a driver, is looked up in the code itself.
    code = Path(sys.modules[trt.Builder.__module__].__file__ or "").read_bytes()
    for words in RAISED.values():
        assert words.removesuffix("-3").encode() in code


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "raise ImportError('libnvinfer.so.10: cannot open shared object file')",
            "libnvinfer.so.10",
        ),
        ("raise FileNotFoundError('Could not find: nvinfer.dll')", "Could not find: nvinfer.dll"),
        ("raise RuntimeError('no libraries')", "no libraries"),
        ("import tensorrt_bindings_that_are_gone", "No module named 'tensorrt_bindings_that"),
        ("", "has no attribute '__version__'"),
    ],
)
def test_a_library_that_cannot_be_imported_is_an_error_of_ours(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match=rf"tensorrt is there and cannot be .*{words}.*again"):
        TENSORRT.load("testing")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


# Building


def _build(module: Any, folder: Path, *, timings: bytes = b"", rtx: bool = False) -> Any:
    options = BuildOptions(("8.9",) if rtx else (), 2**20, timing_cache=timings)
    return build_engine(
        module, TENSORRT_RTX if rtx else TENSORRT, _tiny_graph(folder), SPEC, options
    )


@pytest.mark.parametrize("call", BUILDING)
def test_what_a_build_raises(fake: FakeCuda, call: str, tmp_path: Path) -> None:
    module = fake_module(fake)
    words = RAISED.get(call, f"{call}(): incompatible function arguments")
    for fault in (RuntimeError(words), MemoryError("std::bad_alloc")):
        module.faults = {call: fault}
        with pytest.raises(
            EngineError, match=rf"TensorRT 10\.9.* cannot .*{re.escape(str(fault)[:-1])}"
        ):
            _build(module, tmp_path)
        assert module.faults == {}


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("Builder", NO_POINTER),
        ("OnnxParser", NO_POINTER),
        ("create_network", None),
        ("create_builder_config", None),
        ("create_optimization_profile", None),
        ("set_compute_capability", False),
        ("add_optimization_profile", -1),
        ("parse_from_file", False),
        ("build_serialized_network", None),
    ],
)
def test_what_a_build_is_answered(fake: FakeCuda, call: str, answer: Any, tmp_path: Path) -> None:
    module = fake_module(fake, rtx=True)
    module.faults = {call: answer}
    with pytest.raises(EngineError, match=r"TensorRT for RTX 1\.7\.1 cannot \w+"):
        _build(module, tmp_path, rtx=True)
    assert module.faults == {}


@pytest.mark.parametrize(
    "fault", [{"create_timing_cache": None}, {"set_timing_cache": False}], ids=str
)
def test_timings_of_no_use_are_measured_anew(
    fake: FakeCuda, fault: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = fake_module(fake)
    module.faults = dict(fault)
    built = _build(module, tmp_path, timings=b"of another version")
    assert built.timing_cache == b"measured" and "is made anew" in caplog.text


@pytest.mark.parametrize("call", ["get_timing_cache", "serialize"])
def test_timings_that_cannot_be_had_cost_the_next_build(
    fake: FakeCuda, call: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = fake_module(fake)
    module.faults = {call: RuntimeError("no")}
    built = _build(module, tmp_path)
    assert built.engine and built.timing_cache == b"" and "measures again" in caplog.text


def test_an_interrupt_passes_what_the_build_raises(fake: FakeCuda, tmp_path: Path) -> None:
    """The user asked for the end, whatever the library makes of it."""
    module = fake_module(fake)

    def interrupt() -> None:
        raise RuntimeError("the build was stopped")

    module.interrupt = interrupt

    class Stopping(Progress):
        def note(self, text: str) -> None:
            if text.startswith("profile"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(module, TENSORRT, _tiny_graph(tmp_path), SPEC, on_progress=Stopping())
