"""What the bindings of TensorRT do when the library behind them refuses, as a program.

`python vendor_refusals.py MODULE` prints it, for a library as `vendor_stub.cpp` makes them. Every call has
a process of its own, because some end it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def calls(trt: Any) -> dict[str, Callable[[], Any]]:
    """Return what to try, by class and method."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None: ...

    logger = Logger()
    engine = trt.Runtime(logger).deserialize_cuda_engine(b"anything")
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    shape = (1, 2)
    found = {
        "Runtime": told("GIVES_NOTHING", lambda: trt.Runtime(logger)),
        "Builder": told("GIVES_NOTHING", lambda: trt.Builder(logger)),
        "OnnxParser": told("GIVES_NOTHING", lambda: trt.OnnxParser(network, logger)),
        # It asks the context for its engine, that for the number of tensors, and then for shapes.
        "IExecutionContext.infer_shapes": told("NEGATIVE_FROM", context.infer_shapes, 3),
        "IExecutionContext.set_optimization_profile_async": (
            lambda: context.set_optimization_profile_async(0, 0)
        ),
        "IExecutionContext.set_input_shape": lambda: context.set_input_shape("x", shape),
        "IExecutionContext.set_tensor_address": lambda: context.set_tensor_address("x", 0),
        "IExecutionContext.execute_async_v3": lambda: context.execute_async_v3(0),
        "OnnxParser.parse_from_file": lambda: parser.parse_from_file("x"),
        "IOptimizationProfile.set_shape": lambda: profile.set_shape("x", shape, shape, shape),
        "IBuilderConfig.set_timing_cache": (
            lambda: config.set_timing_cache(config.create_timing_cache(b""), False)
        ),
    }
    if hasattr(trt, "IRuntimeCache"):
        runtime_config = engine.create_runtime_config()
        cache = runtime_config.create_runtime_cache()
        sm = trt.ComputeCapability.SM89
        found |= {
            "IRuntimeCache.deserialize": lambda: cache.deserialize(b"x"),
            "IRuntimeConfig.set_runtime_cache": lambda: runtime_config.set_runtime_cache(cache),
            "IBuilderConfig.num_compute_capabilities": (
                lambda: setattr(config, "num_compute_capabilities", 1)
            ),
            "IBuilderConfig.set_compute_capability": lambda: config.set_compute_capability(sm, 0),
        }
    return found


def told(word: str, call: Callable[[], Any], value: int = 1) -> Callable[[], Any]:
    """Return a call during which the library is told how to refuse; see `vendor_stub.cpp`."""

    def changed() -> Any:
        os.environ[f"STUB_{word}"] = str(value)
        return call()

    return changed


def outcome(call: Callable[[], Any]) -> str:
    """Return what a call returned or raised, or which signal ended its process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = repr(call())
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    text = os.read(reader, 1000).decode()
    os.close(reader)
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else text


def main(module: str) -> None:
    tried = calls(importlib.import_module(module))
    json.dump({name: outcome(call) for name, call in tried.items()}, sys.stdout)
    sys.stdout.flush()
    # The one object of the library belongs to nobody: nothing is to be freed.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
