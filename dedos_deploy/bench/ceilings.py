"""What the machine can do at most: products of large matrices, and copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MATRIX = 1024
COPY_BYTES = 2**26
LEAST_S = 0.2


@dataclass(frozen=True)
class Ceilings:
    """What this machine can do at most."""

    matmul: float
    """Multiply-accumulates per second of a large product, float32 on a CPU and float16 on a GPU."""

    copy: float
    """Bytes per second, reading and writing counted once."""

    source: str
    """What measured `matmul` and `copy`."""


def cpu_ceilings(threads: int) -> Ceilings:
    """Measure with ONNX Runtime's own matrix product, on as many threads as the engine has."""
    import onnxruntime

    from dedos_deploy.runtime.engines.onnx_runtime import session_options

    session = onnxruntime.InferenceSession(
        product_graph(MATRIX), session_options(threads), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    inputs = {name: rng.random((MATRIX, MATRIX), np.float32) for name in ("a", "b")}
    per_run = best_seconds(lambda: session.run(None, inputs))
    source, target = np.zeros(COPY_BYTES, np.uint8), np.empty(COPY_BYTES, np.uint8)
    copying = best_seconds(lambda: np.copyto(target, source))
    return Ceilings(MATRIX**3 / per_run, COPY_BYTES / copying, "ONNX Runtime float32, numpy copy")


def gpu_ceilings(index: int = 0) -> Ceilings | None:
    """Measure with torch where it has CUDA, None without it."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    device, side = torch.device("cuda", index), 8 * MATRIX
    a, b = (torch.rand(side, side, device=device, dtype=torch.float16) for _ in range(2))
    source = torch.empty(16 * COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def timed(work: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            work()
            torch.cuda.synchronize(device)

        return run

    per_run = best_seconds(timed(lambda: torch.matmul(a, b)))
    copying = best_seconds(timed(lambda: target.copy_(source)))
    return Ceilings(side**3 / per_run, source.numel() / copying, "torch float16, device copy")


def best_seconds(work: Callable[[], Any]) -> float:
    """Return the fastest of several runs after a warm-up: what the machine can, undisturbed."""
    work()
    best, spent = float("inf"), 0.0
    while spent < LEAST_S:
        started = time.perf_counter()
        work()
        took = time.perf_counter() - started
        best, spent = min(best, took), spent + took
    return best


def product_graph(side: int) -> bytes:
    """Return an ONNX graph c = a @ b of float32 squares, written without the package onnx.

    ModelProto: ir_version 9, opset 17, one MatMul; see onnx.proto for the field numbers.
    """
    node = _text(1, "a") + _text(1, "b") + _text(2, "c") + _text(4, "MatMul")
    graph = _bytes(1, node) + _text(2, "product")
    graph += b"".join(_bytes(11, _value(name, side)) for name in ("a", "b"))
    graph += _bytes(12, _value("c", side))
    return _number(1, 9) + _bytes(7, graph) + _bytes(8, _number(2, 17))


def _value(name: str, side: int) -> bytes:
    dims = _bytes(1, _number(1, side)) * 2
    tensor = _number(1, 1) + _bytes(2, dims)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _bytes(field, content.encode())


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
