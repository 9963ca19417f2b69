"""From a trained model to a bundle: every step checked, and nothing left behind when one fails."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dedos_deploy.bundle import EXAMPLES, MODEL, TRUST, BundleWriter, Manifest, batch_file
from dedos_deploy.calib.frames import sample_frames
from dedos_deploy.calib.options import Int8Options
from dedos_deploy.calib.selection import CalibrationFrames
from dedos_deploy.calib.sensitivity_plot import sensitivity_png, sensitivity_table
from dedos_deploy.errors import SinkError
from dedos_deploy.evaluation.data import EvaluationData
from dedos_deploy.export.bundle_text import BundleText, bundle_text, set_null_words
from dedos_deploy.export.examples_graph import check_examples, examples_graph, save_beside
from dedos_deploy.export.graph import check_ops, save_graph
from dedos_deploy.export.int8 import FloatGraphs, Int8Graph, calibration_of, int8_graph
from dedos_deploy.export.int8_labels import label_measure, open_labels
from dedos_deploy.export.manifest import BASE_VOCABULARY, manifest_of
from dedos_deploy.export.options import ExportOptions
from dedos_deploy.export.parity import ParityReport, check_parity, measure_parity, parity_cases
from dedos_deploy.export.parity_frames import packed_frames
from dedos_deploy.export.report import ExportReport
from dedos_deploy.export.rtx import EngineFile, build_rtx_engine, require_rtx
from dedos_deploy.export.shared_weights import SharedWeights
from dedos_deploy.export.storage import Matrices, store_small
from dedos_deploy.export.target_graph import TargetGraph, score_dtype, target_graph
from dedos_deploy.export.trust import TrustReport, measure_trust, trust_frames
from dedos_deploy.export.weights import TrainedModel, WeightsSource
from dedos_deploy.files import sha256_of_file
from dedos_deploy.model.dense_embedding import check_has_embedding
from dedos_deploy.model.freeze import AnyModel
from dedos_deploy.model.pooled import pooled_widths
from dedos_deploy.pictures import Picture
from dedos_deploy.progress import QUIET, Progress, Stages
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.scenes import KINDS, render_image
from dedos_deploy.spec import GraphSpec, Precision
from dedos_deploy.tiles import check_tiles
from dedos_deploy.trust import trust_to_bytes

CALIBRATION = "calibration.json"
"""The calibration table, inside a bundle for which INT8 was asked for."""

SCENE_FRAMES = "embedded scenes"
SCENE_HW = (480, 640)


@dataclass(frozen=True, eq=False)
class _Calibration:
    """What INT8 is made from."""

    options: Int8Options
    frames: CalibrationFrames
    labels: EvaluationData | None
    """Labelled images that the verdict measures on, None for agreement of labels."""


def export_bundle(
    weights: WeightsSource | TrainedModel,
    dest: str | os.PathLike[str],
    *,
    options: ExportOptions | None = None,
    progress: Progress = QUIET,
) -> ExportReport:
    """Write the bundle of a model to `dest` and return what was proved about it.

    dest: a folder, or a file ending in `.dedos`; it appears whole at the end, or not at all.

    Raises BadInputError for options that do not fit the model, MissingExtraError without the
    packages of the target, EngineError for a graph the target cannot run, ParityError when the
    graph disagrees with the model, SinkError when `dest` cannot be written.
    """
    options = options or ExportOptions()
    if options.target == "rtx":
        require_rtx(options.compute_capabilities)
    with BundleWriter(dest, overwrite=options.overwrite) as writer:
        try:
            # Beside the bundle: a small /tmp would not hold the graph of a large model.
            return _Export(writer, writer.scratch, options, progress).run(weights)
        except OSError as error:
            if isinstance(error, SinkError):
                raise
            raise SinkError(
                f"export to {str(writer.dest)!r} failed: {error.strerror or error}; nothing was "
                f"left behind, choose another place or make room"
            ) from error


class _Export:
    """One export: its stages in order."""

    def __init__(
        self, writer: BundleWriter, folder: Path, options: ExportOptions, progress: Progress
    ) -> None:
        self.writer, self.folder, self.options = writer, folder, options
        # One stage for every graph, and one for its engine.
        each = len(options.batches) * (1 + (options.target == "rtx"))
        asked = (options.int8 is not None) + options.examples + bool(options.trust)
        self.stages = Stages(progress, total=4 + asked + each)
        self.warnings: list[str] = []
        several = len(options.batches) > 1
        self.weights = SharedWeights(folder / f"{MODEL}.data") if several else None

    def run(self, weights: WeightsSource | TrainedModel) -> ExportReport:
        options = self.options
        with self.stages.stage("loading the model and the frames"):
            trained = weights.load() if isinstance(weights, WeightsSource) else weights
            if options.examples:
                check_has_embedding(trained.model)
            spec = self._spec(trained)
            frames = self._frames()
            calibration = self._calibration(spec)
            trust = self._trust_frames(spec)
            if trained.random:
                self._warn("the weights are random: the labels of this bundle mean nothing")
            for warning in trained.warnings:
                self._warn(warning)
        with self.stages.stage("exporting the text tower"):
            text = self._text(trained, "half" if options.int8 is None else "int8")
            set_null_words(trained.model, text.encode)
        with self.stages.stage(f"exporting the image graph, {spec.height}x{spec.width}"):
            graph = self._image_graph(trained, spec)
        int8: Int8Graph | None = None
        if calibration is not None:
            with self.stages.stage("calibrating INT8") as progress:
                graph, int8 = self._int8(trained, spec, graph, text, calibration, progress)
                if options.frames is None:
                    frames = int8.checking, "frames that did not calibrate"
                if graph.kind != "int8":
                    text = self._text(trained, "half")
        with self.stages.stage("comparing with the FP32 model") as progress:
            files, parity = self._compared(trained, spec, graph, text, frames, progress)
        trusted = self._trust(trained.model, files[0], spec, trust) if trust else None
        if options.examples:
            files += (self._examples(graph, spec, files[0], text, frames[0]),)
        others = [self._batch(trained, spec, size, text, frames) for size in options.batches[1:]]
        files += tuple(path for path, _ in others)
        built = self._engine(files[0], graph.kind, spec) if options.target == "rtx" else None
        with self.stages.stage("writing the bundle"):
            report = ExportReport(
                self.writer.dest,
                0,
                parity,
                graph.precision,
                text.parity,
                graph.fused,
                built,
                int8.report if int8 is not None else None,
                graph.kind,
                tuple(self.warnings),
                tuple(parity for _, parity in others),
                trusted,
            )
            calibrated = int8.table.key.sha256 if int8 is not None else None
            precision = {"image": graph.kind, "text": text.precision}
            manifest = manifest_of(trained, spec, options, precision, calibration_hash=calibrated)
            if options.keep_frames:
                for name, content in packed_frames(frames[0]).items():
                    self.writer.add_bytes(name, content)
            self._write(manifest, files, text, report, int8)
        return report.with_size()

    def _compared(
        self,
        trained: TrainedModel,
        spec: GraphSpec,
        graph: TargetGraph,
        text: BundleText,
        frames: tuple[list[Picture], str],
        progress: Progress,
    ) -> tuple[tuple[Path, ...], ParityReport]:
        """Return the files of the graph and what the parity gate saw; frames: and where from."""
        files = self._saved(graph, spec.batch)
        with OnnxEngine(files[0], spec) as engine:
            parity = measure_parity(
                engine.infer,
                trained.model,
                frames[0],
                parity_cases(text.embeddings),
                spec=spec,
                precision=graph.kind,
                frames_from=frames[1],
                allow_drift=self.options.allow_drift,
                note=progress.note,
            )
        check_parity(parity)
        if not parity.passed:
            which = "" if spec.batch == 1 else f", graph for {spec.batch} frames per run"
            self._warn(f"written with drift{which}: {parity.agreement:.2%} of pixels agree")
        return files, parity

    def _trust_frames(self, spec: GraphSpec) -> list[CalibrationFrames]:
        found = trust_frames(self.options, spec)
        for warning in (text for kind in found for text in kind.warnings):
            self._warn(warning)
        return found

    def _trust(
        self,
        model: AnyModel,
        image_graph: Path,
        spec: GraphSpec,
        kinds: Sequence[CalibrationFrames],
    ) -> TrustReport:
        """Put the statistics of the frames that the model can be trusted on into the bundle."""
        with self.stages.stage("statistics of the frames to be trusted on") as progress:
            with OnnxEngine(image_graph, spec) as engine:
                statistics, report = measure_trust(engine.infer, spec, pooled_widths(model), kinds)
            self.writer.add_bytes(TRUST, trust_to_bytes(statistics))
            progress.note(f"{sum(report.frames.values())} frames")
        return report

    def _examples(
        self,
        graph: TargetGraph,
        spec: GraphSpec,
        image_graph: Path,
        text: BundleText,
        frames: list[Picture],
    ) -> Path:
        """Return the file of the graph for words by example, whose constants lie in `image_graph`."""
        gc.collect()  # The graph before this one lies in reference cycles.
        with self.stages.stage("the graph for words by example") as progress:
            small, fused = self._stores_small(), graph.fused > 0
            model = examples_graph(graph.frozen, spec, text.embeddings, small=small, fused=fused)
            path = self.folder / EXAMPLES
            save_beside(model, image_graph, path)
            cosine = check_examples(path, graph.frozen, spec, text.embeddings, frames[:1])
            progress.note(f"embeddings at a cosine of {cosine:.4f} to the model's")
        return path

    def _batch(
        self,
        trained: TrainedModel,
        spec: GraphSpec,
        size: int,
        text: BundleText,
        frames: tuple[list[Picture], str],
    ) -> tuple[Path, ParityReport]:
        """Return the file of the graph for `size` frames per run and what the gate saw."""
        gc.collect()  # The graph before this one lies in reference cycles.
        with self.stages.stage(f"the graph for {size} frames per run") as progress:
            wide = replace(spec, batch=size)
            graph = self._image_graph(trained, wide)
            (path,), parity = self._compared(trained, wide, graph, text, frames, progress)
        if self.options.target == "rtx":
            self._engine(path, graph.kind, wide)
        return path, parity

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.stages.progress.warn(text)

    def _spec(self, trained: TrainedModel) -> GraphSpec:
        config = trained.model.config
        trained_hw: tuple[int, int] = tuple(trained.record.get("size_hw", config.size_hw))
        height, width = config.check_size(self.options.size_hw or trained_hw)
        check_tiles(self.options.tiles, (height, width))
        options = self.options
        kind = score_dtype(trained.model, options.precision, options.target)
        return GraphSpec(
            height,
            width,
            config.clip.text_width,
            score_dtype=kind,
            pooled_width=sum(pooled_widths(trained.model)) if options.trust else 0,
        )

    def _frames(self) -> tuple[list[Picture], str]:
        count, source = self.options.frame_count, self.options.frames
        if source is not None:
            return sample_frames(source, count=count), "frames given by the user"
        pairs = [(KINDS[index % len(KINDS)], index) for index in range(count)]
        frames = [render_image(kind, seed=seed, size_hw=SCENE_HW)[0] for kind, seed in pairs]
        return frames, SCENE_FRAMES

    def _calibration(self, spec: GraphSpec) -> _Calibration | None:
        """Return what INT8 needs, found or refused before anything takes long."""
        options = self.options.int8
        if options is None:
            return None
        labels = open_labels(options, self.options.vocabulary)
        frames = calibration_of(options, spec)
        for warning in frames.warnings:
            self._warn(warning)
        return _Calibration(options, frames, labels)

    def _image_graph(self, trained: TrainedModel, spec: GraphSpec) -> TargetGraph:
        """Return the graph as asked for, or the FP32 one that INT8 is made of."""
        precision, target = self.options.precision, self.options.target
        kind = "fp32" if precision == "int8" else precision
        return target_graph(trained.model, spec, kind, target)

    def _int8(
        self,
        trained: TrainedModel,
        spec: GraphSpec,
        graph: TargetGraph,
        text: BundleText,
        calibration: _Calibration,
        progress: Progress,
    ) -> tuple[TargetGraph, Int8Graph]:
        """Return the graph to deploy, INT8 or what the verdict leaves, and what was found out."""
        gc.collect()  # Sessions and traced programs hold the weights again, in reference cycles.
        target = self.options.target
        typed = graph
        if target != "cpu":
            typed = target_graph(trained.model, spec, "fp16", target)
        graphs = FloatGraphs(graph.frozen, graph.model, typed.model, spec, target, self.folder)
        labels = calibration.labels
        found = int8_graph(
            graphs,
            calibration.frames,
            text.embeddings,
            calibration.options,
            miou=None if labels is None else label_measure(labels, text.encode),
            progress=progress,
        )
        verdict = found.report.verdict
        if not verdict.kept:
            # A CPU computes half slower than float32, so there only the storage is half.
            self._warn(f"{verdict}; the bundle is {typed.kind.upper()}")
            return typed, found
        check_ops(found.model, target)
        return TargetGraph(typed.frozen, found.model, "int8", typed.precision, typed.fused), found

    def _saved(self, graph: TargetGraph, batch: int) -> tuple[Path, ...]:
        if self._stores_small():
            store_small(graph.model)
        if self.weights is None:
            return save_graph(graph.model, self.folder / MODEL)
        path = self.folder / (MODEL if batch == 1 else batch_file(batch))
        self.weights.save(graph.model, path)
        return (path,)

    def _stores_small(self) -> bool:
        judged = self.options.int8 is not None and self.options.target == "cpu"
        return self.options.storage == "half" or judged

    def _text(self, trained: TrainedModel, matrices: Matrices) -> BundleText:
        return bundle_text(trained, self.options, self.folder, matrices=matrices)

    def _engine(self, model: Path, kind: Precision, spec: GraphSpec) -> EngineFile:
        with self.stages.stage("building the TensorRT for RTX engine") as progress:
            engine = build_rtx_engine(
                model,
                self.folder,
                spec=spec,
                precision=kind,
                model_sha256=sha256_of_file(model),
                compute_capabilities=self.options.compute_capabilities,
                on_progress=progress,
            )
        for path in (engine.path, engine.path.with_suffix(".json")):
            self.writer.add_file(f"engines/{path.name}", path)
        return engine

    def _write(
        self,
        manifest: Manifest,
        files: Sequence[Path],
        text: BundleText,
        report: ExportReport,
        int8: Int8Graph | None,
    ) -> None:
        weights = () if self.weights is None else (self.weights.data,)
        for path in (*files, *weights, text.tower, text.tokenizer):
            self.writer.add_file(path.name, path)
        self.writer.add_vocabulary(BASE_VOCABULARY, text.words, text.embeddings)
        facts = json.dumps(report.facts(), indent=2) + "\n"
        self.writer.add_bytes("report.json", facts.encode())
        if int8 is not None:
            self._add_int8(int8)
        self.writer.commit(manifest)

    def _add_int8(self, int8: Int8Graph) -> None:
        found, chosen = int8.report.sensitivity, int8.report.plan
        self.writer.add_bytes(CALIBRATION, int8.table.to_json().encode())
        self.writer.add_bytes("sensitivity.md", sensitivity_table(found, chosen).encode())
        self.writer.add_bytes("sensitivity.png", sensitivity_png(found, chosen))
