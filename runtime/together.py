"""Frames of several vocabularies on one engine, in one run where their words are the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from dedos_deploy.errors import BadInputError, DedosError, EngineError
from dedos_deploy.runtime.labelling import Asked, Labelled, Labeller, RunLabeller, past_of
from dedos_deploy.runtime.pixels import HostPixels, check_pixels
from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.results import host_segmentation
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.slots import SlotTable


class Together:
    """Labels frames of views on one Segmenter; for one thread at a time, as `segment`."""

    def __init__(
        self,
        several: Mapping[int, RunLabeller],
        stream_of: Callable[[object], tuple[SlotTable, Labeller, bool] | None],
        *,
        busy: threading.Lock,
        process: OneProcess,
    ) -> None:
        """several: by the number of frames that each takes; stream_of: the words that a view has now,
        what labels its frames alone, and whether results keep their scores, None for what is no view on
        this engine; busy: held by whoever uses the engine."""
        self.batches = (1, *sorted(several))
        """Numbers of frames that one run takes, in growing order."""
        self._several = several
        self._stream_of = stream_of
        self._busy = busy
        self._process = process

    def words_of(self, view: object) -> bytes | None:
        """Return what is equal for views whose frames would share a run now, None for what is none.

        Synonyms and order count, thresholds, colours and class ids do not.
        """
        stream = self._stream_of(view)
        return None if stream is None else stream[0].words

    def segment(
        self, frames: Sequence[tuple[object, HostPixels, float]]
    ) -> list[Segmentation | DedosError]:
        """Label frames, in as few runs as words and `batches` allow.

        frames: the view of each, its pixels in BGR uint8 [H, W, 3] or NV12, and `time.monotonic()` of
        its capture. Each is labelled under the words that its view has now. Returns for each its
        result, or its error: frames that shared a run with one that cannot be read, or has no usable
        scores, are none the worse; a run that fails is the error of all its frames.
        """
        self._process.check()
        outcomes: dict[int, Segmentation | DedosError] = {}
        with self._busy:
            asked: dict[int, Asked] = {}
            labellers: dict[int, Labeller] = {}
            for number, (view, pixels, _) in enumerate(frames):
                try:
                    table, labellers[number], explain = self._stream(view)
                    past = past_of(labellers[number])
                    asked[number] = Asked(check_pixels(pixels, "bgr"), table, past, explain)
                except BadInputError as error:
                    outcomes[number] = error
            for numbers in _runs(asked, self.batches):
                found = self._run([asked[n] for n in numbers], labellers[numbers[0]])
                for number, labelled in zip(numbers, found, strict=True):
                    outcomes[number] = (
                        labelled
                        if isinstance(labelled, DedosError)
                        else host_segmentation(labelled, asked[number].table, frames[number][2])
                    )
        return [outcomes[number] for number in range(len(frames))]

    def _stream(self, view: object) -> tuple[SlotTable, Labeller, bool]:
        stream = self._stream_of(view)
        if stream is None:
            raise BadInputError(
                "only frames of views on the same Segmenter are labelled together; make them with `share`"
            )
        return stream

    def _run(self, frames: Sequence[Asked], alone: Labeller) -> Sequence[Labelled | DedosError]:
        """alone: what labels the first if it is the only one."""
        try:
            if len(frames) == 1:
                (one,) = frames
                return [alone.label(one.pixels, one.table, explain=one.explain)]
            return self._several[len(frames)].label_all(frames)
        except (BadInputError, EngineError) as error:
            return [error] * len(frames)


def _runs(asked: Mapping[int, Asked], batches: Sequence[int]) -> Iterator[list[int]]:
    """Yield the numbers of the frames that go into one run after the other.

    Those of the same words go together, as many as the largest of `batches` that they fill.
    """
    same: dict[bytes, list[int]] = {}
    for number, frame in asked.items():
        same.setdefault(frame.table.words, []).append(number)
    for numbers in same.values():
        while numbers:
            size = max(batch for batch in batches if batch <= len(numbers))
            yield numbers[:size]
            del numbers[:size]
