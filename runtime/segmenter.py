"""Segmenter: frames in, label maps out, for a class list that may change between frames."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal, overload

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.engines.contract import Engine, EngineOptions
from dedos_deploy.runtime.engines.opening import open_engine
from dedos_deploy.runtime.labelling import Labeller
from dedos_deploy.runtime.learned_words import LearningView
from dedos_deploy.runtime.learning import Open, no_examples
from dedos_deploy.runtime.opencv import require_opencv
from dedos_deploy.runtime.pending_segmentation import PendingSegmentation
from dedos_deploy.runtime.pixels import Given, Order, check_pixels, check_stream, stream_of
from dedos_deploy.runtime.results import DeviceSegmentation, device_segmentation, host_segmentation
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter_core import BaseVocabulary, SegmenterCore
from dedos_deploy.runtime.sinks.palette import Colour
from dedos_deploy.runtime.slots import (
    Encode,
    SlotTable,
    Thresholds,
)
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.runtime.together import Together
from dedos_deploy.spec import Background
from dedos_deploy.trust import TrustStatistics
from dedos_deploy.vocabulary import Vocabulary, parse_vocabulary

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.confidence_curves import ConfidenceCurves

Classes = str | os.PathLike[str] | Sequence[str] | Vocabulary


class SegmenterView(LearningView):
    """A vocabulary of its own on an engine that may have others, for one stream of frames if labels are to
    be stable in time.

    `segment` is for one thread at a time (a second one waits, also one of another view); `set_classes`
    may come from any thread and takes effect between two frames.
    """

    def __init__(
        self, core: SegmenterCore, classes: Classes, *, timeout_s: float | None = None
    ) -> None:
        vocabulary = _vocabulary(classes)
        self.explain = core.explain
        """Whether results keep the scores that they are labelled by, for `Segmentation.top`, from the next
        frame on. Each keeps 4 bytes per word and cell of the score map, and costs a copy of them."""
        self._core = core
        self._labeller = core.labeller_of_a_view()
        self._changing = threading.Lock()
        self._asked = 0
        self._done = 0
        self._tuned = vocabulary.tuned
        self._table = core.next_table(vocabulary, core.encode(vocabulary, timeout_s), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the current vocabulary's entries, in its order."""
        table = self._table
        return tuple(table.names[class_id] for class_id in table.class_ids)

    @property
    def entries(self) -> tuple[tuple[str, int, str], ...]:
        """Name, class id and full spelling, such as `car|automobile@0.3#3f63ff`, of every entry."""
        table = self._table
        names = (table.names[class_id] for class_id in table.class_ids)
        return tuple(zip(names, table.class_ids, table.entries, strict=True))

    @property
    def colours_bgr(self) -> dict[str, Colour]:
        """Colour of every entry in pictures, by its name."""
        table = self._table
        return {table.names[class_id]: table.colours_bgr[class_id] for class_id in table.class_ids}

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Lowest score that labels a pixel, of every entry; negative where every score does."""
        table = self._table
        least = dict(zip(table.slot_ids.tolist(), table.thresholds.tolist(), strict=True))
        return tuple(least[class_id] for class_id in table.class_ids)

    @property
    def negatives(self) -> tuple[str, ...]:
        """Words that compete for pixels and leave them unlabelled."""
        return self._table.negatives

    @property
    def vocabulary_version(self) -> int:
        """Version that the next frame will carry."""
        return self._table.version

    def set_classes(self, classes: Classes, *, timeout_s: float | None = None) -> int:
        """Replace the class list from the next frame on and return the new vocabulary version.

        classes: as `parse_vocabulary` takes them: a string is a list of words, a `pathlib.Path`
        names a file; timeout_s: how long new words may take, None for as long as they need.
        Words that a words file gave this view keep the rows of it, in other lists too, until another
        words file comes; a new view (`share`) begins with the text tower's.

        Names keep their ids while they are among the last 254 that were asked for; then the id that
        was not asked for longest goes to a new name, and every result says what its own ids mean.
        On an error the old list stays. Words never met before cost a run of the text tower each,
        beside the frames and other changes; known ones under a millisecond in all. Of two calls
        at once the later one wins; one that is overtaken returns the version that overtook it.

        Raises BadInputError, and UnfinishedError when new words took longer than `timeout_s`: those
        that are done are kept, so ask again.
        """
        self._core.process.check()
        vocabulary = _vocabulary(classes)
        with self._changing:
            self._asked += 1
            turn = self._asked
            if vocabulary.tuned is None:
                vocabulary = replace(vocabulary, tuned=self._tuned)
        rows = self._core.encode(vocabulary, timeout_s)
        with self._changing:
            if turn > self._done:
                self._done = turn
                self._tuned = vocabulary.tuned
                # One reference assignment: a frame sees the old table or the new one, never a mix.
                self._table = self._core.next_table(vocabulary, rows, self._table)
            return self._table.version

    @overload
    def segment(
        self,
        frame_bgr: Given,
        *,
        order: Order = "bgr",
        timestamp_s: float | None = None,
        result: Literal["host"] = "host",
        stream: object = None,
    ) -> Segmentation: ...

    @overload
    def segment(
        self,
        frame_bgr: Given,
        *,
        order: Order = "bgr",
        timestamp_s: float | None = None,
        result: Literal["device"],
        stream: object = None,
    ) -> DeviceSegmentation: ...

    def segment(
        self,
        frame_bgr: Given,
        *,
        order: Order = "bgr",
        timestamp_s: float | None = None,
        result: Literal["host", "device"] = "host",
        stream: object = None,
    ) -> Segmentation | DeviceSegmentation:
        """Return the label map of one frame.

        frame_bgr: uint8 [H, W, 3], any size: of numpy, or with `__dlpack__` or
        `__cuda_array_interface__`, or an Nv12Frame; order: of its channels; timestamp_s:
        `time.monotonic()` of its capture, None for now. What lies on a GPU is read there, in order
        with the stream that wrote it; an engine on the host refuses it.
        result: `device` leaves the label map on the GPU, for engines there, and waits for nothing.
        stream: handle of the caller's CUDA stream, or with `__cuda_stream__`: what is on it by now is
        done before the frame is read, and what is put on it afterwards finds the result on the
        device. It must live as long as the result. None for the default stream where the result stays
        on the device, else for what the frame's owner says.

        Raises BadInputError for anything else, EngineError when the engine fails or gives
        something that is not a number.
        """
        self._core.process.check()
        handle = stream_of(stream, result)
        pixels = check_pixels(frame_bgr, order, handle)
        check_stream(pixels, result, handle)
        captured_s = time.monotonic() if timestamp_s is None else timestamp_s
        with self._core.busy:
            table = self._table
            if result == "device":
                self._check_explained_on_device()
                assert handle is not None, "by stream_of"
                there = self._labeller.label_on_device(pixels, table, handle)
                core = self._core
                return device_segmentation(
                    there, table, captured_s, busy=core.busy, trust=core.trust
                )
            labelled = self._labeller.label(pixels, table, explain=self.explain)
        return host_segmentation(labelled, table, captured_s, self._core.trust)

    def submit(
        self, frame_bgr: Given, *, order: Order = "bgr", timestamp_s: float | None = None
    ) -> PendingSegmentation:
        """Begin with a frame as `segment` does; where the engine can, return before it is done.

        What lies on the host is the caller's again. A second frame may be begun before the result of the
        first is asked for: the work of the one then runs beside the other's way to the device. A
        third waits for the first. Raises as `segment` does, here or where the result is asked for.
        """
        self._core.process.check()
        pixels = check_pixels(frame_bgr, order)
        captured_s = time.monotonic() if timestamp_s is None else timestamp_s
        with self._core.busy:
            table = self._table
            pending = self._labeller.submit(pixels, table, explain=self.explain)
        core = self._core
        return PendingSegmentation(
            pending, table, captured_s, busy=core.busy, process=core.process, trust=core.trust
        )

    def _check_explained_on_device(self) -> None:
        if self.explain:
            raise BadInputError(
                "scores that explain labels are kept on the host; leave result='device' out, or explain"
            )


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
        first of them; trust: of the frames that the
        model learned, for `Segmentation.trust`.
        """
        core = SegmenterCore(
            engine,
            encode,
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
        with contextlib.ExitStack() as opened:
            opened.callback(core.close)
            super().__init__(core, classes)
            core.text_threads = text_threads
            labeller = opened.pop_all()
        self.together = Together(
            core.run_labellers,
            self._stream_of,
            busy=core.busy,
            process=core.process,
            trust=core.trust,
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
        from dedos_deploy.runtime.loading import (
            batch_of,
            bundle_parts,
            open_embedding_of,
            tiling_of,
        )

        require_opencv()
        vocabulary = _vocabulary(classes)
        if text_threads < 1:
            raise BadInputError(f"text_threads must be at least 1, not {text_threads}")
        with contextlib.ExitStack() as opened:
            parts = bundle_parts(
                bundle,
                background=background,
                threshold=threshold,
                template=template,
                calibrated=calibrated,
            )
            opened.callback(parts.close)
            tiling = tiling_of(parts.bundle, tiles)
            options = EngineOptions(
                threads, gpu, on_progress, batch_of(parts.bundle, tiling, batch)
            )
            runner = open_engine(parts.bundle, engine, options)
            opened.callback(runner.close)
            segmenter = cls(
                runner,
                parts.encode,
                classes=vocabulary,
                thresholds=parts.thresholds,
                base=parts.base,
                threads=threads,
                text_threads=text_threads,
                stable=stable,
                tiling=tiling,
                model_sha256=parts.bundle.manifest.checkpoint_sha256,
                explain=explain,
                nulls=parts.nulls,
                curves=parts.curves,
                open_embedding=partial(open_embedding_of, parts.bundle, threads=threads),
                trust=parts.trust,
            )
            opened.callback(segmenter._core.close)
            segmenter._closing = opened.pop_all()
        return segmenter

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


def _vocabulary(classes: Classes) -> Vocabulary:
    if isinstance(classes, Vocabulary):
        return classes
    return parse_vocabulary(classes)
