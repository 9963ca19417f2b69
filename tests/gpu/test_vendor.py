"""What `vendor` says of TensorRT holds for the installed library, and the stand-ins keep to it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import fake_tensorrt
import pytest
from fake_cuda import FakeCuda
from gpu_engines import SPEC

from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.gpu import vendor
from dedos_deploy.runtime.gpu.build import BuildOptions, build_engine
from dedos_deploy.runtime.gpu.flavours import TENSORRT_RTX, network_flags
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
}

FAKES: dict[Any, type] = {
    vendor.RuntimeCache: fake_tensorrt.FakeCache,
    vendor.RuntimeConfig: fake_tensorrt.FakeConfig,
    vendor.ExecutionContext: fake_tensorrt.FakeContext,
    vendor.CudaEngine: fake_tensorrt.FakeEngine,
    vendor.Runtime: fake_tensorrt.FakeRuntime,
    vendor.OnnxParser: fake_tensorrt.FakeParser,
    vendor.TimingCache: fake_tensorrt.FakeTimingCache,
    vendor.Builder: fake_tensorrt.FakeBuilder,
}


def _methods(protocol: type) -> dict[str, list[str]]:
    """Names of a protocol's methods and of their parameters."""
    return {
        name: list(inspect.signature(method).parameters)[1:]
        for name, method in vars(protocol).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


def _attributes(protocol: type) -> list[str]:
    return [name for name in inspect.get_annotations(protocol) if not name.startswith("_")]


def _overloads(doc: str, name: str) -> list[list[str]]:
    """Parameter names of every signature that a binding's docstring lists, without self."""
    found = []
    for arguments in re.findall(rf"^(?:\d+\. )?{name}\((.*)\) ->", doc, re.MULTILINE):
        depth, parts, start = 0, [], 0
        for index, letter in enumerate(arguments):
            depth += (letter in "[(<") - (letter in "])>")
            if letter == "," and depth == 0:
                parts.append(arguments[start:index])
                start = index + 1
        parts.append(arguments[start:])
        found.append([part.split(":")[0].strip() for part in parts][1:])
    return found


@pytest.mark.parametrize("protocol", CLASSES, ids=lambda protocol: protocol.__name__)
def test_the_installed_library_keeps_its_promises(protocol: type) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install 'dedos-deploy[rtx]'")
    real = getattr(trt, CLASSES[protocol])
    for name in _attributes(protocol):
        assert hasattr(real, name), f"{real.__name__}.{name}"
    for name, wanted in _methods(protocol).items():
        overloads = _overloads(getattr(real, name).__doc__, name)
        # What comes after the arguments that are given has defaults.
        fits = [given for given in overloads if len(given) >= len(wanted)]
        assert fits, f"{real.__name__}.{name}{wanted} is none of {overloads}"


@pytest.mark.parametrize("protocol", FAKES, ids=lambda protocol: protocol.__name__)
def test_the_stand_ins_have_the_same_methods(protocol: type) -> None:
    for name, wanted in _methods(protocol).items():
        method = getattr(FAKES[protocol], name, None)
        if method is None:
            assert (protocol, name) in {
                (vendor.OnnxParser, "get_error"),
                (vendor.BuilderConfig, "set_flag"),
            }, name
            continue
        assert len(inspect.signature(method).parameters) - 1 == len(wanted), name


def test_constants_that_the_code_names() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install 'dedos-deploy[rtx]'")
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED is not None
    assert trt.MemoryPoolType.WORKSPACE is not None
    assert trt.BuilderFlag.REQUIRE_USER_ALLOCATION is not None
    assert network_flags(trt) == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert {"UINT8", "FLOAT", "HALF"} <= set(trt.DataType.__members__)
    assert hasattr(trt.IExecutionContext, "is_stream_capturable")


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


def _trt() -> Any:
    from dedos_deploy.runtime.gpu.flavours import TENSORRT

    return TENSORRT


def _tiny_graph(folder: Path) -> Path:
    from tiny_bundle import image_graph

    path = folder / "model.onnx"
    path.write_bytes(image_graph(height=SPEC.height, width=SPEC.width, text_width=SPEC.text_width))
    return path
