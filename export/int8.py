"""INT8 for a float graph: calibrate, find what may be quantized, and judge the result beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dedos_deploy.calib.collect import CalibrationInputs, Resume, channel_maxima, collect_histograms
from dedos_deploy.calib.options import Int8Options
from dedos_deploy.calib.placement import SiteTensors, quantize, site_tensors
from dedos_deploy.calib.plan import QuantizationPlan, give_back, plan, site_macs
from dedos_deploy.calib.ranges import RangeOptions
from dedos_deploy.calib.selection import CalibrationFrames, calibration_frames, describe_skipped
from dedos_deploy.calib.sensitivity import Sensitivity, measure_sensitivity
from dedos_deploy.calib.smoothing import find_smoothable, smooth
from dedos_deploy.calib.table import (
    CalibrationKey,
    CalibrationTable,
    calibration_key,
    reuse_or_none,
)
from dedos_deploy.calib.verdict import Verdict
from dedos_deploy.export.graph import save_graph
from dedos_deploy.export.int8_judge import Judge
from dedos_deploy.export.int8_labels import LabelMeasure
from dedos_deploy.model import FrozenDedos
from dedos_deploy.pictures import Picture
from dedos_deploy.progress import Progress
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.uri import published_name
from dedos_deploy.spec import GraphSpec, Target

CHECKED_OF = 8
"""Every so-many-th frame checks what the others calibrated."""

SENSITIVITY_FRAMES = 8

Rows = NDArray[np.float32]
Factors = dict[str, NDArray[np.float32]]
Ranges = dict[str, list[tuple[float, float]]]
"""Per site, for each of its runs: range of the activation, and of the result where it has one."""


@dataclass(frozen=True)
class Int8Report:
    """How INT8 came about."""

    frames: int
    """Number of frames that calibrated."""
    checked: int
    """Number of frames that checked what the others calibrated."""
    skipped: str
    """Frames that were looked at and not usable, in words."""
    source: str
    """What the place is called that the frames came from (`published_name`)."""
    table_sha256: str
    """Hash of the calibration table's key."""
    smoothed: int
    """Layers whose outliers were moved."""
    sensitivity: Sensitivity
    plan: QuantizationPlan
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "plan": self.plan.to_dict(), "verdict": self.verdict.to_dict()}


@dataclass(frozen=True, eq=False)
class Int8Graph:
    """An INT8 graph and what is known of it."""

    model: onnx.ModelProto
    """The graph for the target."""
    table: CalibrationTable
    """Ranges of the activations."""
    report: Int8Report
    """How the graph came about."""
    checking: list[Picture]
    """The frames that did not calibrate, uint8 [H0, W0, 3]."""


@dataclass(frozen=True, eq=False)
class FloatGraphs:
    """What is quantized."""

    frozen: FrozenDedos
    """The module, FP32, for gradients."""
    reference: onnx.ModelProto
    """The module's graph in FP32 for ONNX Runtime, which calibration and comparison run."""
    typed: onnx.ModelProto
    """The graph to quantize for the target, reference itself for the cpu."""
    spec: GraphSpec
    target: Target
    folder: Path
    """For files while this lasts."""


def calibration_of(options: Int8Options, spec: GraphSpec) -> CalibrationFrames:
    """Return the frames to calibrate and to check on, at the network size.

    Raises BadInputError for frames that cannot be used, SourceError for a source without frames.
    """
    size_hw = (spec.height, spec.width)
    return calibration_frames(
        options.calib, size_hw=size_hw, count=options.frames, seed=options.seed
    )


def int8_graph(
    graphs: FloatGraphs,
    frames: CalibrationFrames,
    text: Rows,
    options: Int8Options,
    *,
    miou: LabelMeasure | None = None,
    progress: Progress,
) -> Int8Graph:
    """Return the INT8 graph of a model and everything that was found out about it.

    frames: see `calibration_of`; text: float32 [K, D] of the vocabulary to calibrate with; miou:
    measures an engine on labels, None without labels.

    Raises BadInputError for a table of something else, SinkError when a file cannot be written.
    """
    return _Int8(graphs, text, options, frames, progress).run(miou)


class _Int8:
    """One quantization: its steps in order."""

    def __init__(
        self,
        graphs: FloatGraphs,
        text: Rows,
        options: Int8Options,
        frames: CalibrationFrames,
        progress: Progress,
    ) -> None:
        self.graphs, self.text, self.options = graphs, text, options
        self.frames, self.progress = frames, progress
        self.calibrating = [f for i, f in enumerate(frames.frames) if i % CHECKED_OF]
        self.checking = list(frames.frames[::CHECKED_OF])
        self.float_path = self._saved(_copied(graphs.reference), "float")

    def run(self, miou: LabelMeasure | None) -> Int8Graph:
        table = self._table()
        factors = self._smoothed(self.graphs.typed, table)
        ranges = self._ranges(table)
        sensitivity = self._sensitivity(ranges, factors)
        chosen, verdict = self._judged(self._first(sensitivity, ranges), table, ranges, miou)
        model = self._quantized(self.graphs.typed, table, ranges, chosen, self.graphs.target)
        report = Int8Report(
            frames=len(self.calibrating),
            checked=len(self.checking),
            skipped=describe_skipped(
                [replace(one, name=published_name(one.name)) for one in self.frames.skipped]
            ),
            source=published_name(self.frames.source),
            table_sha256=table.key.sha256,
            smoothed=len(table.channel_maxima),
            sensitivity=sensitivity,
            plan=chosen,
            verdict=verdict,
        )
        return Int8Graph(model, table, report, self.checking)

    def _table(self) -> CalibrationTable:
        options = RangeOptions(self.options.estimator)
        smoothing = {"smoothing": float(self.options.smoothing)}
        key = calibration_key(
            self.float_path, self.calibrating, self.text, options, smoothing=smoothing
        )
        path = Path(self.options.table) if self.options.table is not None else None
        table = reuse_or_none(path, key) if path is not None else None
        if table is not None:
            self.progress.note(f"ranges of {path}")
            return table
        table = self._collected(key, options, path)
        if path is not None:
            table.save(path)
        return table

    def _collected(
        self, key: CalibrationKey, options: RangeOptions, path: Path | None
    ) -> CalibrationTable:
        graphs = self.graphs
        resume = Resume(path, key.sha256) if path is not None else None

        def inputs(model: Path) -> CalibrationInputs:
            return CalibrationInputs(model, graphs.spec, self.calibrating, self.text)

        maxima: dict[str, Rows] = {}
        if self.options.smoothing:
            outputs = {item.tensor: item.norm for item in find_smoothable(graphs.reference)}
            self.progress.note("outliers")
            found = channel_maxima(
                inputs(self.float_path), list(outputs), resume=resume, progress=self.progress
            )
            maxima = {outputs[tensor]: row for tensor, row in found.items()}
        model = _copied(graphs.reference)
        smooth(model, maxima)
        tensors = _ranged(site_tensors(model))
        graph = inputs(self._saved(model, "smoothed"))
        self.progress.note("ranges")
        histograms = collect_histograms(graph, tensors, resume=resume, progress=self.progress)
        return CalibrationTable.of(
            key,
            histograms,
            options,
            source=published_name(self.frames.source),
            channel_maxima=maxima,
        )

    def _smoothed(self, model: onnx.ModelProto, table: CalibrationTable) -> Factors:
        """Return the factors that smoothing gives; `model` itself stays as it is."""
        return smooth(_copied(model), _maxima(table))

    def _ranges(self, table: CalibrationTable) -> Ranges:
        """Return the ranges of every site that has them: a tensor that is always zero has none."""
        found: Ranges = defaultdict(list)
        for run in site_tensors(self.graphs.reference):
            activation = table.ranges[run.activation]
            result = activation if run.result is None else table.ranges[run.result]
            found[run.site].append((activation, result))
        return {site: runs for site, runs in found.items() if min(map(min, runs)) > 0}

    def _sensitivity(self, ranges: Ranges, factors: Factors) -> Sensitivity:
        step = max(1, len(self.calibrating) // SENSITIVITY_FRAMES)
        return measure_sensitivity(
            self.graphs.frozen,
            self.calibrating[::step][:SENSITIVITY_FRAMES],
            self.text,
            np.ones(len(self.text), np.float32),
            sites=list(ranges),
            amax={name: max(runs)[0] for name, runs in ranges.items()},
            smoothing=factors,
            progress=self.progress,
        )

    def _first(self, sensitivity: Sensitivity, ranges: Ranges) -> QuantizationPlan:
        """Return the plan to begin with: every site that is worth it."""
        image = torch.from_numpy(self.checking[0])[None]
        inputs = (image, torch.from_numpy(self.text), torch.ones(len(self.text)))
        return plan(sensitivity, site_macs(self.graphs.frozen, list(ranges), inputs), budget=None)

    def _judged(
        self,
        first: QuantizationPlan,
        table: CalibrationTable,
        ranges: Ranges,
        miou: LabelMeasure | None,
    ) -> tuple[QuantizationPlan, Verdict]:
        """Return the plan that holds the budget, and the verdict on it."""
        graphs, options = self.graphs, self.options

        def quantized(candidate: QuantizationPlan) -> onnx.ModelProto:
            return self._quantized(graphs.reference, table, ranges, candidate, "cpu")

        with (
            OnnxEngine(self.float_path, graphs.spec) as reference,
            Judge(
                reference,
                quantized,
                graphs.folder,
                self.checking,
                self.text,
                miou=miou,
                note=self.progress.note,
            ) as judge,
        ):
            budget = options.budget
            chosen = give_back(first, lambda each: judge.loss(each, budget=budget), budget=budget)
            return chosen, judge.verdict(chosen, timed=graphs.target == "cpu", force=options.force)

    def _saved(self, model: onnx.ModelProto, name: str) -> Path:
        """Write a graph that is not needed in memory any more."""
        return save_graph(model, self.graphs.folder / f"{name}.onnx", external=True)[0]

    def _quantized(
        self,
        source: onnx.ModelProto,
        table: CalibrationTable,
        ranges: Ranges,
        chosen: QuantizationPlan,
        target: Target,
    ) -> onnx.ModelProto:
        model = _copied(source)
        smooth(model, _maxima(table))
        wanted = frozenset(chosen.sites)
        quantize(model, _by_tensor(site_tensors(model), ranges), wanted, target=target)
        return model


def _ranged(runs: Sequence[SiteTensors]) -> list[str]:
    """Return the tensors of all runs, each once."""
    names = (name for run in runs for name in (run.activation, run.result) if name is not None)
    return list(dict.fromkeys(names))


def _by_tensor(runs: Sequence[SiteTensors], ranges: Ranges) -> dict[str, float]:
    """Return the range per tensor of a graph whose sites run in the same order.

    A graph in half precision names its tensors otherwise, but has the same layers.
    """
    remaining = {site: iter(pairs) for site, pairs in ranges.items()}
    found: dict[str, float] = {}
    for run in runs:
        if run.site not in remaining:
            continue
        for name, amax in zip((run.activation, run.result), next(remaining[run.site]), strict=True):
            if name is not None:
                found[name] = max(amax, found.get(name, 0.0))
    return found


def _maxima(table: CalibrationTable) -> dict[str, Rows]:
    return {name: np.array(row, np.float32) for name, row in table.channel_maxima.items()}


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
