"""Segmenter: frames in, label maps out, for a class list that may change between frames."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.engines.contract import Engine, EngineOptions
from dedos_deploy.runtime.labelling import Labeller
from dedos_deploy.runtime.learning import Open, no_examples
from dedos_deploy.runtime.opencv import require_opencv
from dedos_deploy.runtime.segmenter_core import BaseVocabulary, CoreParts, SegmenterCore
from dedos_deploy.runtime.segmenter_view import Classes, SegmenterView, vocabulary_of
from dedos_deploy.runtime.slots import Encode, SlotTable, Thresholds
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.runtime.together import Together
from dedos_deploy.spec import Background
from dedos_deploy.trust import TrustStatistics

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.confidence_curves import ConfidenceCurves
    from dedos_deploy.runtime.loading import BundleParts


class Segmenter(SegmenterView, Closing):
    """Labels frames by class names.

    with Segmenter.load("demo", classes="road,car|automobile") as segmenter:
        result = segmenter.segment(frame_bgr)
        segmenter.set_classes("road,person")

    Everything between frame and label map lives in buffers that are reused; per frame only the
    returned arrays are allocated.
    """

    def __init__(
        self,
        engine: Engine,
        encode: Encode,
        *,
        classes: Classes,
        thresholds: Thresholds,
        base: BaseVocabulary | None = None,
        threads: int | None = None,
        text_threads: int = 1,
        stable: bool = False,
        tiling: Tiling | None = None,
        model_sha256: str | None = None,
        explain: bool = False,
        nulls: bool = False,
        curves: ConfidenceCurves | None = None,
        open_embedding: Open = no_examples,
        trust: TrustStatistics | None = None,
    ) -> None:
        """Build from parts; `load` does so from a bundle.

        encode: words to unit rows float32 [N, D]; base: words and rows of the vocabulary whose
        members serve as negatives, None for no negatives; threads: for the label map, at most one
        per usable core, None for as many; text_threads: for words that are new after the first; stable:
        see `load`; tiling: how frames are looked at, None for whole; model_sha256: of the checkpoint behind
        the engine, by which words files are told to belong to it; explain: see `load`; nulls: whether the
        graph's scores are parts of one that words of its own share; curves: what scores are worth, None for
        confidences that are scores; open_embedding: opens the graph that words by example need, at the
        first of them; trust: of the frames that the model learned, for `Segmentation.trust`.
        """
        parts = CoreParts(
            encode=encode,
            thresholds=thresholds,
            base=base,
            threads=threads,
            stable=stable,
            tiling=tiling or Tiling(),
            model_sha256=model_sha256,
            explain=explain,
            nulls=nulls,
            curves=curves,
            open_embedding=open_embedding,
            trust=trust,
        )
        core = SegmenterCore(engine, parts)
        with contextlib.ExitStack() as opened:
            opened.callback(core.close)
            super().__init__(core, classes)
            core.text_threads = text_threads
            labeller = opened.pop_all()
        self.together = Together(
            core.run_labellers, self._stream_of, busy=core.busy, process=core.process
        )
        """Labels frames of views in one run where their words are the same; for `flow.Run`."""
        self._closing = contextlib.ExitStack()
        self._closing.callback(engine.close)
        self._closing.push(labeller)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle = "demo",
        *,
        classes: Classes,
        engine: str = "cpu",
        background: Background = "threshold",
        threshold: float | None = None,
        threads: int | None = None,
        text_threads: int = 1,
        template: str | None = None,
        gpu: int = 0,
        batch: int = 1,
        stable: bool = False,
        tiles: str | Tiling | None = None,
        explain: bool = False,
        calibrated: bool = True,
        on_progress: Progress = QUIET,
    ) -> Segmenter:
        """Return a segmenter for a bundle.

        bundle: a folder, a `.dedos` file, "demo" for the embedded one, or an open Bundle, which
        stays open; classes: as `parse_vocabulary` takes them (a string is a list of words, a
        `pathlib.Path` names a file), or a Vocabulary;
        engine: what to run on, one of `dedos_deploy.spec.ENGINES`;
        background: `threshold` leaves a pixel unlabelled when its best class scores below that
        class's threshold; `negatives` also lets words of the bundle's base vocabulary compete,
        and leaves unlabelled what they win; `none` labels every pixel with its best class;
        threshold: in [0, 1], for every entry without its own, None for the bundle's;
        threads: CPU threads, at most one per usable core, None for as many; text_threads: CPU threads of
        the text tower for words that are new after the first, few so that frames go on; template: one of
        `dedos_deploy.text.templates.TEMPLATES` in place of the bundle's prompt templates; gpu: index
        of the GPU for engines that use one; stable: smooth scores over time, moved along with the picture,
        for labels that do not flicker: frames are then those of one video or camera, in their order;
        cuts and other words begin anew, and engines on a GPU give their scores to the CPU;
        tiles: look at large frames through overlapping windows, too, `auto`, `2x3` in rows and columns, or
        a stride in pixels such as `192`; `off` for the whole alone, None for what the bundle says; a Tiling
        may say more. A run then takes as many windows as the largest graph of the bundle, frames share
        none, and engines on a GPU give their scores to the CPU; explain: keep the
        scores of every result, so that `Segmentation.top` says why a pixel has its label (`explain` of
        the segmenter switches it between frames); calibrated: False gives scores as confidences, also of
        a bundle that was calibrated; batch: most frames that `together` labels in one run, one of `Bundle.batches`; on_progress: noted what is being done
        while an engine is built or checked on this device, at its first use.

        Raises BadInputError for unusable arguments, BadBundleError and EngineError for an
        unusable bundle, ParityError when an engine labels differently from ONNX Runtime.
        """
        from dedos_deploy.runtime.loading import bundle_parts, open_engine_of

        require_opencv()
        vocabulary = vocabulary_of(classes)
        if text_threads < 1:
            raise BadInputError(f"text_threads must be at least 1, not {text_threads}")
        with contextlib.ExitStack() as opened:
            parts = bundle_parts(
                bundle,
                background=background,
                threshold=threshold,
                template=template,
                tiles=tiles,
                calibrated=calibrated,
            )
            opened.callback(parts.close)
            options = EngineOptions(threads, gpu, on_progress, batch)
            runner = open_engine_of(parts, engine, options)
            opened.callback(runner.close)
            segmenter = cls.of_parts(
                parts,
                runner,
                classes=vocabulary,
                threads=threads,
                text_threads=text_threads,
                stable=stable,
                explain=explain,
            )
            opened.callback(segmenter._core.close)
            segmenter._closing = opened.pop_all()
        return segmenter

    @classmethod
    def of_parts(
        cls,
        parts: BundleParts,
        engine: Engine,
        *,
        classes: Classes,
        threads: int | None = None,
        text_threads: int = 1,
        stable: bool = False,
        explain: bool = False,
    ) -> Segmenter:
        """Return a segmenter for the parts of an open bundle, which stays the caller's; `load` opens one.

        engine: as of `loading.open_engine_of`, closed with the segmenter; all else: see `load`.
        """
        from dedos_deploy.runtime.loading import open_embedding_of

        return cls(
            engine,
            parts.encode,
            classes=classes,
            thresholds=parts.thresholds,
            base=parts.base,
            threads=threads,
            text_threads=text_threads,
            stable=stable,
            tiling=parts.tiling,
            model_sha256=parts.bundle.manifest.checkpoint_sha256,
            explain=explain,
            nulls=parts.nulls,
            curves=parts.curves,
            open_embedding=partial(open_embedding_of, parts.bundle, threads=threads),
            trust=parts.trust,
        )

    def share(self, classes: Classes, *, timeout_s: float | None = None) -> SegmenterView:
        """Return another vocabulary on the same engine, with ids of its own, and of a stable segmenter
        with a past of its own; for several cameras.

        It lives as long as this segmenter is open. timeout_s: how long new words may take, None for
        as long as they need. Raises BadInputError, and UnfinishedError as `set_classes` does.
        """
        self._core.process.check()
        return SegmenterView(self._core, classes, timeout_s=timeout_s)

    def _stream_of(self, view: object) -> tuple[SlotTable, Labeller, bool] | None:
        if isinstance(view, SegmenterView) and view._core is self._core:
            return view._table, view._labeller, view.explain
        return None

    def close(self) -> None:
        """Release the engine and, if `load` opened it, the bundle; may be called twice."""
        self._core.process.check()
        with self._core.busy:
            self._closing.close()
