"""What `vendor` says of TensorRT, and what the code calls of CUDA, is so in the oldest and newest versions
that are supported, and the stand-ins keep to it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_cuda
import fake_tensorrt
import pytest
import vendor_modules
from fake_cuda import FakeCuda
from fake_driver import DriverStatus, FakeDriver
from gpu_engines import SPEC
from module_api import Api, api_of, class_api, miscounts, misfits
from vendor_modules import WHEELS, Vendor
from vendor_uses import cuda_uses, tensorrt_uses

from dedos_deploy.errors import EngineError
from dedos_deploy.export.options import RTX_CAPABILITIES
from dedos_deploy.runtime.gpu import vendor
from dedos_deploy.runtime.gpu.build import BuildOptions, build_engine
from dedos_deploy.runtime.gpu.engine_check import DTYPES
from dedos_deploy.runtime.gpu.flavours import TENSORRT_RTX
from dedos_deploy.runtime.gpu.library import new_logger, reason

CLASSES = {
    vendor.RuntimeCache: "IRuntimeCache",
    vendor.RuntimeConfig: "IRuntimeConfig",
    vendor.ExecutionContext: "IExecutionContext",
    vendor.CudaEngine: "ICudaEngine",
    vendor.Runtime: "Runtime",
    vendor.OnnxParser: "OnnxParser",
    vendor.ParserError: "ParserError",
    vendor.TimingCache: "ITimingCache",
    vendor.OptimizationProfile: "IOptimizationProfile",
    vendor.BuilderConfig: "IBuilderConfig",
    vendor.Builder: "Builder",
    vendor.HostMemory: "IHostMemory",
    vendor.CapturableContext: "IExecutionContext",
    vendor.PortableConfig: "IBuilderConfig",
}

RTX_ONLY = {
    vendor.RuntimeCache,
    vendor.RuntimeConfig,
    vendor.CapturableContext,
    vendor.PortableConfig,
}
RTX_ONLY_METHODS = {"ICudaEngine.create_runtime_config"}

FAKES: dict[Any, type] = {
    vendor.RuntimeCache: fake_tensorrt.FakeCache,
    vendor.RuntimeConfig: fake_tensorrt.FakeConfig,
    vendor.ExecutionContext: fake_tensorrt.FakeContext,
    vendor.CudaEngine: fake_tensorrt.FakeEngine,
    vendor.Runtime: fake_tensorrt.FakeRuntime,
    vendor.OnnxParser: fake_tensorrt.FakeParser,
    vendor.ParserError: fake_tensorrt.FakeParserError,
    vendor.TimingCache: fake_tensorrt.FakeTimingCache,
    vendor.OptimizationProfile: fake_tensorrt.FakeProfile,
    vendor.BuilderConfig: fake_tensorrt.FakeBuilderConfig,
    vendor.PortableConfig: fake_tensorrt.FakeBuilderConfig,
    vendor.Builder: fake_tensorrt.FakeBuilder,
    vendor.CapturableContext: fake_tensorrt.FakeContext,
}


INSTALLED_RTX = "tensorrt_rtx, installed"
INSTALLED_CUDA = "cuda.bindings, installed"
LIBRARIES = [*(name for name in WHEELS if name.startswith("tensorrt")), INSTALLED_RTX]
BINDINGS = [*(name for name in WHEELS if name.startswith("cuda")), INSTALLED_CUDA]

NOTHING = "TypeError: pybind11::init(): factory function returned nullptr"
RAISED = {
    "Runtime": NOTHING,
    "Builder": NOTHING,
    "OnnxParser": NOTHING,
    "IExecutionContext.set_optimization_profile_async": (
        "RuntimeError: Error in set optimization profile async."
    ),
    # The number is the stand-in's.
    "IExecutionContext.infer_shapes": "RuntimeError: infer_shapes error code: -2147483648",
    "IOptimizationProfile.set_shape": (
        "RuntimeError: Shape provided for min is inconsistent with other shapes."
    ),
    "IBuilderConfig.num_compute_capabilities": (
        "ValueError: Provided number of compute capabilities is incorrect"
    ),
}
"""What is raised where a library refuses, or has no object to give; all other calls return False."""


@dataclass(frozen=True)
class Library:
    vendor: Vendor
    api: Api
    rtx: bool
    version: str


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    name = request.param
    if name == INSTALLED_RTX:
        pytest.importorskip("tensorrt_rtx", reason="needs pip install 'dedos-deploy[rtx]'")
        vendor = Vendor(("tensorrt_rtx",), folder=None)
    else:
        vendor = vendor_modules.tensorrt(name, tmp_path_factory.mktemp("tensorrt"))
    return Library(vendor, vendor.api(), "rtx" in name, name.partition("==")[2])


@pytest.fixture(scope="module", params=BINDINGS)
def cuda_api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Api:
    if request.param == INSTALLED_CUDA:
        pytest.importorskip("cuda.bindings", reason="needs pip install 'dedos-deploy[cuda13]'")
        return Vendor(vendor_modules.CUDA, folder=None).api()
    return vendor_modules.cuda(request.param, tmp_path_factory.mktemp("cuda") / "wheel").api()


def declared(*, rtx: bool) -> Api:
    """What `vendor` promises of a flavour, by the library's names."""
    api: Api = {}
    for protocol, name in CLASSES.items():
        if rtx or protocol not in RTX_ONLY:
            api |= {name: None, **protocol_api(protocol, name)}
    return {name: api[name] for name in api if rtx or name not in RTX_ONLY_METHODS}


def protocol_api(protocol: type, name: str) -> Api:
    """Attributes and methods of a protocol, without those that it inherits."""
    attributes = [n for n in inspect.get_annotations(protocol) if not n.startswith("_")]
    return {
        **{f"{name}.{attribute}": None for attribute in attributes},
        **{f"{name}.{method}": [given] for method, given in _methods(protocol).items()},
    }


def _methods(protocol: type) -> dict[str, list[str]]:
    """Names of a protocol's methods and of their parameters."""
    return {
        name: list(inspect.signature(method).parameters)[1:]
        for name, method in vars(protocol).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


def test_a_comparison_finds_what_differs() -> None:
    offered: Api = {"A": None, "A.f": [["x"], ["x", "y", "z="]], "A.size": None}
    assert misfits({"A": None, "A.f": [["x"]], "A.size": None}, offered) == []
    assert misfits({"A.f": [["x", "y"]]}, offered) == []
    assert misfits({"A.f": [["y"]]}, offered)[0].startswith("A.f['y'] is none of")
    assert misfits({"A.g": [[]], "A.size": [[]]}, offered) == [
        "A.g is missing",
        "A.size[] is none of []",
    ]
    assert miscounts({"A.f": {1, 2, 3}, "A": set()}, offered) == []
    assert miscounts({"A.f": {0}}, offered)[0].startswith("A.f with 0 arguments")


def test_the_library_keeps_its_promises(library: Library) -> None:
    wanted = declared(rtx=library.rtx)
    assert len(wanted) > 40
    assert misfits(wanted, library.api) == []


def test_the_library_has_what_the_code_names(library: Library) -> None:
    uses = tensorrt_uses()
    portable = {"ComputeCapability"}
    calls = {name: uses.calls[name] for name in uses.calls if library.rtx or name not in portable}
    assert {"OnnxParser.__init__", "MemoryPoolType"} <= calls.keys()
    named = {f"DataType.{name}" for name in DTYPES}
    if library.rtx:
        named |= uses.optional
        named |= {f"ComputeCapability.SM{text.replace('.', '')}" for text in RTX_CAPABILITIES}
    assert miscounts(calls | {name: set() for name in named}, library.api) == []


def test_the_library_has_the_methods_that_are_overridden(library: Library) -> None:
    overridden = tensorrt_uses().overridden
    assert {"ILogger.log", "IProgressMonitor.step_complete"} <= overridden.keys()
    assert miscounts({name: {count} for name, count in overridden.items()}, library.api) == []


@pytest.mark.parametrize("library", LIBRARIES[:-1], indirect=True, scope="module")
def test_what_the_bindings_do_when_the_library_refuses(library: Library) -> None:
    refusals = library.vendor.refusals()
    assert len(refusals) == (15 if library.rtx else 11)
    expected = {name: RAISED.get(name, "False") for name in refusals}
    if library.version == "10.3.0":
        # JetPack 6's sets these errors without holding the interpreter's lock, which ends the process.
        for call in ("set_optimization_profile_async", "infer_shapes"):
            expected[f"IExecutionContext.{call}"] = "SIGSEGV"
    assert refusals == expected


def test_cuda_has_what_the_code_names(cuda_api: Api) -> None:
    calls = cuda_uses().calls
    assert {"cudaMemcpyAsync", "cuModuleLoadData", "cudaDeviceProp.integrated"} <= calls.keys()
    # The code may give an enumeration another name before it asks it for a member.
    members = {name.partition(".")[2] for name in cuda_api}
    named = {name: counts for name, counts in calls.items() if counts or name not in members}
    assert miscounts(named, cuda_api) == []


@pytest.mark.parametrize("cuda_api", BINDINGS[-1:], indirect=True, scope="module")
def test_errors_that_are_compared_by_name_exist(cuda_api: Api) -> None:
    """In the newest version: older ones may lack an error that their drivers do not know either."""
    spoken = cuda_uses().spoken
    assert spoken
    assert sorted(spoken - cuda_api.keys()) == []


@pytest.mark.parametrize("protocol", FAKES, ids=lambda protocol: protocol.__name__)
def test_the_stand_ins_have_the_same_methods(protocol: type) -> None:
    wanted = {n: call for n, call in protocol_api(protocol, "It").items() if call is not None}
    assert misfits(wanted, class_api("It", FAKES[protocol])) == []


def test_the_stand_in_for_cuda_offers_what_cuda_does(cuda_api: Api) -> None:
    stand_in = api_of(fake_cuda._Runtime) | api_of(FakeDriver)
    functions = {name: calls[0] for name, calls in stand_in.items() if calls and "." not in name}
    assert {name for name, counts in cuda_uses().calls.items() if counts} <= functions.keys()
    for name, parameters in functions.items():
        (real,) = cuda_api[name] or [[]]
        assert len(parameters) == len(real), f"{name}{parameters}, but CUDA has {real}"
    runtime = FakeCuda().runtime
    runtime.cudaSetDevice(0)
    _, properties = runtime.cudaGetDeviceProperties(0)
    members = {
        "cudaError_t": fake_cuda.Status.__members__,
        "CUresult": DriverStatus.__members__,
        "cudaMemcpyKind": fake_cuda.Kind.__members__,
        "cudaDeviceProp": vars(properties),
    }
    named = {f"{kind}.{name}" for kind, names in members.items() for name in names}
    assert sorted(named - cuda_api.keys()) == []


def test_the_real_library_refuses_what_is_truncated(tmp_path: Path) -> None:
    """Without a GPU it gets as far as the header, and a whole engine further than that."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install 'dedos-deploy[rtx]'")
    onnx_text = _tiny_graph(tmp_path)
    options = BuildOptions(capabilities=("8.9",))
    built = build_engine(trt, TENSORRT_RTX, onnx_text, SPEC, options)
    messages: list[str] = []
    runtime = trt.Runtime(new_logger(trt, messages))
    assert runtime.deserialize_cuda_engine(built.engine[:-100]) is None
    assert "header.size" in reason(messages)
    messages.clear()
    engine = runtime.deserialize_cuda_engine(built.engine)
    assert engine is not None or "header.size" not in reason(messages)


def test_a_library_that_hands_back_nothing_is_an_error(fake: FakeCuda, tmp_path: Path) -> None:
    module = fake_tensorrt.fake_module(fake)
    module.lies = False
    model = _tiny_graph(tmp_path)
    build_engine(module, _trt(), model, SPEC)

    class Refusing(fake_tensorrt.FakeBuilder):
        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            self.logger.log(fake_tensorrt.Severity.ERROR, "Error Code 4: too odd")
            return None

        def __init__(self, module: Any, logger: Any) -> None:
            super().__init__(module, logger)
            self.logger = logger

    module.Builder = lambda logger: Refusing(module, logger)
    with pytest.raises(EngineError, match="cannot build the graph: Error Code 4: too odd"):
        build_engine(module, _trt(), model, SPEC)


def test_a_graph_that_cannot_be_read_names_the_node(fake: FakeCuda, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(_tiny_graph(tmp_path))
    model.graph.input[0].name = "picture"
    node = model.graph.node[0]
    node.name = "first"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    words = rf"cannot read the graph: this node cannot be read \(node 'first', {node.op_type}\)"
    with pytest.raises(EngineError, match=words):
        build_engine(fake_tensorrt.fake_module(fake), _trt(), tmp_path / "model.onnx", SPEC)


def _trt() -> Any:
    from dedos_deploy.runtime.gpu.flavours import TENSORRT

    return TENSORRT


def _tiny_graph(folder: Path) -> Path:
    from tiny_bundle import image_graph

    path = folder / "model.onnx"
    path.write_bytes(image_graph(height=SPEC.height, width=SPEC.width, text_width=SPEC.text_width))
    return path
