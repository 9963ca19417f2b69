"""What OpenVINO computes in on this machine: compared with ONNX Runtime, and timed beside it, once.

BF16 keeps 8 bits of a number's fraction. Where that moves more labels of a bundle than FP16 may, or
INT8 of an INT8 bundle, OpenVINO computes in FP32 and a warning says so; where FP32 moves them too, it
is refused.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dedos_deploy.errors import ParityError
from dedos_deploy.runtime.engines.contract import Engine, EngineOptions
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.engines.openvino_engine import (
    Arithmetic,
    OpenVinoEngine,
    arithmetics,
    load_openvino,
    processor,
)
from dedos_deploy.runtime.engines.tensors import Tensors
from dedos_deploy.runtime.gpu.device_check import DeviceCheck, check_on_device
from dedos_deploy.runtime.gpu.kept_verdict import (
    check_of,
    checking_rows,
    keep_verdict,
    kept_verdict,
)
from dedos_deploy.runtime.slots import Rows
from dedos_deploy.user_cache import cache_root, private_folder

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle, BundleGraph

_LOG = logging.getLogger(__name__)

WORTH = 1.05
"""Times as fast as ONNX Runtime below which a warning says that OpenVINO gains nothing."""

ROUNDS = 3
"""Runs of each whose best are compared."""


@dataclass(frozen=True)
class Verdict:
    """What was seen of one arithmetic on this machine."""

    check: DeviceCheck
    speedup: float | None
    """How many times as fast as ONNX Runtime, None where its labels differ."""


class OpenVinoChoice:
    """Opens the fastest OpenVINO engine of a bundle that labels as ONNX Runtime does."""

    def __init__(self, bundle: Bundle, graph: BundleGraph, options: EngineOptions) -> None:
        """Raises MissingExtraError, or EngineError for a version that is too old."""
        self._openvino = load_openvino()
        self._bundle = bundle
        self._options = options
        self._folder = cache_root() / "openvino"
        self._graph = graph
        self._precision = bundle.manifest.precision.get("image", "fp32")

    def open(self) -> OpenVinoEngine:
        """Return the engine. Raises EngineError, ParityError when it labels differently."""
        refused: list[str] = []
        for arithmetic in arithmetics(self._openvino):
            verdict = self._kept(arithmetic) or self._judged(arithmetic)
            if verdict.check.passed:
                _tell(arithmetic, verdict, refused)
                self._options.on_progress.note("loading the graph in OpenVINO")
                return self._engine(arithmetic)
            refused.append(f"in {arithmetic.upper()}, {verdict.check}")
        raise ParityError(
            f"the openvino engine is not used: {'; '.join(refused)}; update openvino, or use "
            f"--engine cpu (delete the files *.check.json in {str(self._folder)!r} to check again)"
        )

    def _engine(self, arithmetic: Arithmetic) -> OpenVinoEngine:
        return OpenVinoEngine(
            self._graph.path,
            self._graph.spec,
            arithmetic=arithmetic,
            threads=self._options.threads,
            cache=self._compiled,
        )

    @cached_property
    def _compiled(self) -> Path | None:
        """Folder of what OpenVINO compiled; None, with one warning, where it cannot be made."""
        folder = self._folder / "compiled"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            private_folder(folder)
        except OSError as error:
            _LOG.warning("what OpenVINO compiles is not kept, every start compiles: %s", error)
            return None
        return folder

    def _judged(self, arithmetic: Arithmetic) -> Verdict:
        self._options.on_progress.note("comparing OpenVINO with ONNX Runtime")
        rows = checking_rows(self._bundle)
        # BF16 is allowed what FP16 is.
        allowed = "fp16" if (arithmetic, self._precision) == ("bf16", "fp32") else self._precision
        threads = self._options.threads
        with (
            self._engine(arithmetic) as engine,
            OnnxEngine(self._graph.path, self._graph.spec, threads=threads) as reference,
        ):
            check = check_on_device(
                engine,
                reference.infer,
                rows,
                precision=allowed,
                frames=self._bundle.parity_frames(),
            )
            speedup = _speedup(engine, reference, rows) if check.passed else None
        values = {**check.to_dict(), "speedup": speedup}
        keep_verdict(self._file(arithmetic), self._graph.sha256, values)
        return Verdict(check, speedup)

    def _kept(self, arithmetic: Arithmetic) -> Verdict | None:
        values = kept_verdict(self._file(arithmetic), self._graph.sha256)
        check = check_of(values)
        return None if values is None or check is None else Verdict(check, values.get("speedup"))

    def _file(self, arithmetic: Arithmetic) -> Path:
        """Path of the verdict, another one for each version and processor."""
        parts = (arithmetic, str(self._openvino.__version__), processor(self._openvino))
        machine = re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()).strip("-")
        return self._folder / f"{self._graph.sha256[:8]}-{machine}.check.json"


def _tell(arithmetic: Arithmetic, verdict: Verdict, refused: list[str]) -> None:
    if refused:
        _LOG.warning("OpenVINO computes in %s here: %s", arithmetic.upper(), "; ".join(refused))
    if verdict.speedup is not None and verdict.speedup < WORTH:
        _LOG.warning(
            "OpenVINO gains nothing for this bundle on this machine (%.2f times as fast as ONNX "
            "Runtime); --engine cpu does the same without it",
            verdict.speedup,
        )


def _speedup(engine: Engine, reference: Engine, rows: Rows) -> float:
    spec = engine.spec
    shape: Any = spec.image.shape
    inputs: Tensors = {
        "image": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        "text": np.ascontiguousarray(rows),
        "valid": np.ones(len(rows), np.float32),
    }
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for index, one in enumerate((reference, engine)):
            started = time.perf_counter()
            one.infer(inputs)
            best[index] = min(best[index], time.perf_counter() - started)
    return best[0] / best[1]
