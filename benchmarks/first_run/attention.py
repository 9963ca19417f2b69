"""Toy attention as the exporter writes it: fused or not, and how far from float64."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from first_run.device import gpu, needed, some_flavour, spread
from first_run.plans import PlanRunner, build_plan, fused, fused_kernels
from first_run.steps import Failed, Record

MOST_ERROR = 0.02
"""Of the largest value: float16 stays below a hundredth, a wrong kernel does not."""

RUNS = 100
LAYERS = 20
"""Names that are kept of an engine's layers."""


@dataclass(frozen=True)
class Case:
    """Multi-head attention of a ViT."""

    tokens: int
    width: int
    heads: int
    islands: bool
    """Softmax in FP32 between two casts."""

    @property
    def name(self) -> str:
        return f"{self.tokens}{'_islands' if self.islands else ''}"


CASES = tuple(
    Case(tokens, width, heads, islands)
    for tokens, width, heads in ((785, 768, 12), (2117, 1024, 16))
    for islands in (False, True)
)
"""edge-b at 448 and paper-l at 644."""


def attention(record: Record) -> None:
    """Build every case by every flavour that is here, and note what came out."""
    cuda = gpu(record)
    found = some_flavour(record, cuda)
    needed("onnx")
    wrong = []
    for case in CASES:
        x, weights = operands(case)
        wanted = reference(case, x, weights)
        model = write_graph(case, weights, record.models / f"attention_{case.name}.onnx")
        for target, (flavour, trt) in found.items():
            plan, build_s = build_plan(trt, flavour, model, {"x": x.shape}, cuda.device.sm)
            with PlanRunner(trt, flavour, plan, cuda, {"x": x.shape}) as runner:
                error = relative_error(runner.run({"x": x})["y"], wanted)
                names = runner.layer_names()
                times = spread(runner.times_ms(RUNS, graph=False))
            result = {
                "error": error,
                "fused": fused(names),
                "fused_kernels": fused_kernels(plan),
                "ms": times,
                "build_s": round(build_s, 1),
                "layers": names[:LAYERS],
            }
            record.note(**{f"{target}_{case.name}": result})
            if not error < MOST_ERROR:
                wrong.append(f"{target} at {case.name}: {error:.3f}")
    if wrong:
        raise Failed(f"attention is wrong: {', '.join(wrong)} of the largest value")


def operands(case: Case) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Return x float16 [1, N, C] and the packed projection float16 [C, 3C]; logits have spread 2."""
    rng = np.random.default_rng(case.tokens)
    x = rng.standard_normal((1, case.tokens, case.width)).astype(np.float16)
    weights = rng.standard_normal((case.width, 3 * case.width)) * (2 / case.width) ** 0.5
    return x, weights.astype(np.float16)


def reference(
    case: Case, x: NDArray[np.float16], weights: NDArray[np.float16]
) -> NDArray[np.float64]:
    """Return attention in float64, [1, N, C]."""
    packed = x[0].astype(np.float64) @ weights.astype(np.float64)
    heads = packed.reshape(case.tokens, 3, case.heads, -1).transpose(1, 2, 0, 3)
    q, k, v = heads
    logits = q @ k.transpose(0, 2, 1) * q.shape[-1] ** -0.5
    parts = np.exp(logits - logits.max(-1, keepdims=True))
    mixed = parts / parts.sum(-1, keepdims=True) @ v
    return mixed.transpose(1, 0, 2).reshape(x.shape)


def relative_error(found: NDArray[Any], wanted: NDArray[np.float64]) -> float:
    """Return the largest difference, as part of the largest value; infinite for no numbers."""
    difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    return difference if np.isfinite(difference) else float("inf")


def write_graph(case: Case, weights: NDArray[np.float16], path: Path) -> Path:
    """Write `softmax(q kᵀ / √d) v` of one packed projection as a typed graph, x to y."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    depth = case.width // case.heads
    constants = {
        "weights": weights,
        "split": np.array([1, case.tokens, 3, case.heads, depth]),
        "one": np.array([1, 1, 1]),
        "heads": np.array([1, case.heads, case.tokens, depth]),
        "scale": np.array(depth**-0.5, np.float16),
        "merged": np.array([1, case.tokens, case.width]),
    }
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "weights"], ["packed"]),
        node("Reshape", ["packed", "split"], ["parts"]),
        node("Transpose", ["parts"], ["apart"], perm=[2, 0, 3, 1, 4]),
        node("Split", ["apart", "one"], ["q0", "k0", "v0"], axis=0),
        *(node("Reshape", [f"{part}0", "heads"], [part]) for part in "qkv"),
        node("Mul", ["q", "scale"], ["scaled"]),
        node("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["scaled", "turned"], ["logits"]),
        *_softmax(node, TensorProto, islands=case.islands),
        node("MatMul", ["share", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "merged"], ["y"]),
    ]
    shape = [1, case.tokens, case.width]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _softmax(node: Any, types: Any, *, islands: bool) -> list[Any]:
    if not islands:
        return [node("Softmax", ["logits"], ["share"], axis=-1)]
    return [
        node("Cast", ["logits"], ["wide"], to=types.FLOAT),
        node("Softmax", ["wide"], ["shares"], axis=-1),
        node("Cast", ["shares"], ["share"], to=types.FLOAT16),
    ]
