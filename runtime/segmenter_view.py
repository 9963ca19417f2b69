"""SegmenterView: a vocabulary on an engine that several may share, for one stream of frames."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, overload

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.learned_words import LearningView
from dedos_deploy.runtime.pending_segmentation import PendingSegmentation
from dedos_deploy.runtime.pixels import Given, Order, check_pixels, check_stream, stream_of
from dedos_deploy.runtime.results import DeviceSegmentation, device_segmentation, host_segmentation
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter_core import SegmenterCore
from dedos_deploy.runtime.sinks.palette import Colour
from dedos_deploy.vocabulary import Vocabulary, parse_vocabulary

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
        vocabulary = vocabulary_of(classes)
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
        vocabulary = vocabulary_of(classes)
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
                return device_segmentation(there, table, captured_s, self._core.busy)
            labelled = self._labeller.label(pixels, table, explain=self.explain)
        return host_segmentation(labelled, table, captured_s)

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
        return PendingSegmentation(pending, table, captured_s, busy=core.busy, process=core.process)

    def _check_explained_on_device(self) -> None:
        if self.explain:
            raise BadInputError(
                "scores that explain labels are kept on the host; leave result='device' out, or explain"
            )


def vocabulary_of(classes: Classes) -> Vocabulary:
    """Return the vocabulary of a class list. Raises BadInputError."""
    if isinstance(classes, Vocabulary):
        return classes
    return parse_vocabulary(classes)
