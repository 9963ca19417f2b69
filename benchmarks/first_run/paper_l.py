"""paper-l at 644 in FP16 with one slot bucket, its random weights made here: time, graph, layers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import EngineError
from dedos_deploy.spec import GraphSpec
from first_run.device import flavours, gpu, has_onnx_cuda, needed, spread
from first_run.graphs import some_inputs, write_graph
from first_run.plans import PlanRunner, build_plan, fused, fused_kernels
from first_run.steps import Failed, Record, Skipped

PRESET = "paper-l"
SLOTS = 256
RUNS = 300
PROFILED = 20
MOST_ERROR = 0.02
"""Of scores in [0, 1]: random weights keep them close together, so that labels say nothing."""


def paper_l(record: Record) -> None:
    """Export, build and run it by every way that is here."""
    cuda = gpu(record)
    found = flavours(record, cuda)
    if not found and not has_onnx_cuda():
        missing = "; ".join(record.figures["missing"].values())
        raise Skipped(f"no TensorRT and no CUDA in ONNX Runtime: {missing}")
    needed("torch", "onnx", "onnxscript")
    began_s = time.monotonic()
    model, spec = write_graph(record.models, PRESET)
    record.note(export_s=round(time.monotonic() - began_s, 1), graph_mb=_megabytes(model))
    inputs = some_inputs(spec, SLOTS)
    shapes = {name: values.shape for name, values in inputs.items()}
    wanted = reference(model, spec, inputs)
    record.note(reference_s=round(time.monotonic() - began_s - record.figures["export_s"], 1))
    wrong = []
    for target, (flavour, trt) in found.items():
        plan, build_s = build_plan(trt, flavour, model, shapes, cuda.device.sm)
        built = {"s": round(build_s, 1), "plan_mb": round(len(plan) / 1e6, 1)}
        record.note(**{f"{target}_build": built | {"fused_kernels": fused_kernels(plan)}})
        with PlanRunner(trt, flavour, plan, cuda, shapes) as runner:
            scores = runner.run(inputs)["scores"]
            wrong += _unlike(record, target, scores, wanted)
            _measure(record, target, runner)
    if has_onnx_cuda():
        wrong += _by_onnx_runtime(record, model, spec, inputs, wanted)
    if wrong:
        raise Failed("; ".join(wrong))


def reference(model: Path, spec: GraphSpec, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the scores of ONNX Runtime on the CPU."""
    from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine

    with OnnxEngine(model, spec) as engine:
        return engine.infer(inputs)["scores"].astype(np.float32)


def _unlike(
    record: Record, target: str, scores: NDArray[Any], wanted: NDArray[np.float32]
) -> list[str]:
    """Note the largest difference; return a sentence if it is too large."""
    error = float(np.abs(scores.astype(np.float32) - wanted).max())
    labels = float(np.mean(scores.argmax(1) == wanted.argmax(1)))
    record.note(**{f"{target}_scores": {"max_abs": error, "same_leaders": labels}})
    return [] if error < MOST_ERROR else [f"{target}: scores differ by {error:.3f}"]


def _measure(record: Record, target: str, runner: PlanRunner) -> None:
    for graph in (False, True):
        name = f"{target}_{'graph' if graph else 'launched'}_ms"
        try:
            record.note(**{name: spread(runner.times_ms(RUNS, graph=graph))})
        except EngineError as error:
            record.note(**{name: str(error)})
    names = runner.layer_names()
    record.note(**{f"{target}_layers": len(names), f"{target}_fused": fused(names)})
    # Last: a profiler is not taken off again, and slows every run.
    record.note(**{f"{target}_top_ms": runner.layers_ms(PROFILED)})


def _by_onnx_runtime(
    record: Record,
    model: Path,
    spec: GraphSpec,
    inputs: dict[str, NDArray[Any]],
    wanted: NDArray[np.float32],
) -> list[str]:
    from dedos_deploy.runtime.gpu.onnx_cuda_engine import OnnxCudaEngine

    times = []
    with OnnxCudaEngine(model, spec) as engine:
        wrong = _unlike(record, "cuda", engine.infer(inputs)["scores"], wanted)
        for _ in range(RUNS // 3):
            began_s = time.perf_counter()
            engine.infer(inputs)
            times.append(1e3 * (time.perf_counter() - began_s))
    record.note(cuda_wall_ms=spread(times))
    return wrong


def _megabytes(model: Path) -> float:
    files = model.parent.glob(f"{model.name}*")
    return round(sum(path.stat().st_size for path in files) / 1e6, 1)
