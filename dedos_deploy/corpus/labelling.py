"""Shards in, part files out: what every engine of corpora does, in processes of its own or elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.bundle import Bundle
from dedos_deploy.closing import Closing
from dedos_deploy.corpus.folders import folder_at
from dedos_deploy.corpus.frames import FrameReader
from dedos_deploy.corpus.manifest import Piece, frame_key
from dedos_deploy.corpus.records import LabelledFrame, PartNotes, part_name, write_part
from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.runtime.loading import curves_of, tiling_of
from dedos_deploy.runtime.results import read_curves
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.sinks.files import encode_picture
from dedos_deploy.spec import Background, none_id
from dedos_deploy.vocabulary import Vocabulary

if TYPE_CHECKING:
    from dedos_deploy.runtime.segmentation import Segmentation

TELL_S = 1.0
"""How often a shard tells how far it is."""


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to know, on this machine or another."""

    output: str
    """Folder of the data set, by path or address."""

    bundle: str
    """As `Segmenter.load` takes it."""

    vocabulary: Vocabulary
    """The words."""

    bundle_sha256: str
    """Hash of the bundle's manifest."""

    background: Background = "threshold"
    threshold: float | None = None
    tiles: str | None = None
    engine: str = "cpu"
    gpu: int = 0
    threads: int | None = None
    """As `Segmenter.load` takes these."""

    confidence: bool = False
    """Whether scores are kept beside the labels."""

    @property
    def words_sha256(self) -> str:
        """Hash of the words with synonyms, thresholds and colours, and of their rows where tuned."""
        tuned = self.vocabulary.tuned
        words: list[str | None] = [entry.spelled for entry in self.vocabulary.entries]
        said = json.dumps([*words, None if tuned is None else tuned.sha256])
        return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard."""

    shard: int
    frames: int
    """Rows of its part."""

    errors: tuple[Mapping[str, Any], ...]
    """As of PartNotes."""


class StoppedError(Exception):
    """The shard was dropped, since somebody asked for it."""


class ShardLabeller(Closing):
    """Labels shards, each into its part of the data set; for one thread.

    A part is there whole or not at all, and a shard that is labelled twice replaces its part, so that
    whoever hands shards out may do so more than once.
    """

    def __init__(self, job: Job) -> None:
        """Load the bundle and its engine. Raises DedosError."""
        self._job = job
        self._words_sha256 = job.words_sha256
        self._folder = folder_at(job.output)
        self._reader: FrameReader | None = None
        with contextlib.ExitStack() as opened:
            bundle = opened.enter_context(Bundle.open(job.bundle))
            if bundle.sha256 != job.bundle_sha256:
                raise BadInputError(
                    f"{job.bundle!r} is another bundle here ({bundle.sha256[:12]}) than where the run began "
                    f"({job.bundle_sha256[:12]}); give all machines the same"
                )
            self._segmenter = opened.enter_context(
                Segmenter.load(
                    bundle,
                    classes=job.vocabulary,
                    engine=job.engine,
                    background=job.background,
                    threshold=job.threshold,
                    tiles=job.tiles,
                    threads=job.threads,
                    gpu=job.gpu,
                    # Margins are distances of scores; what those are worth is read off beside them.
                    calibrated=False,
                )
            )
            self._curves = _curves_of(bundle, job) if job.confidence else None
            self._closing = opened.pop_all()
        self._least = _least_scores(self._segmenter.thresholds)

    def label(
        self,
        shard: int,
        pieces: Sequence[Piece],
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        tell: Callable[[int], None] = lambda frames: None,
    ) -> ShardReport:
        """Label a shard and write its part.

        is_stopped: asked before every frame; tell: told now and then of how many frames are done. What
        is wrong with a frame or a source is in the report and the part, and ends nothing. Raises
        StoppedError, leaving no part, SinkError when the part cannot be written, and EngineError.
        """
        notes = PartNotes()
        rows = self._rows(pieces, notes, is_stopped, tell)
        with self._folder.writing(part_name(shard)) as path:
            count = write_part(path, shard, rows, notes)
        return ShardReport(shard, count, tuple(notes.errors))

    def close(self) -> None:
        """Close the source that is open, and the engine."""
        self._leave_source()
        self._closing.close()

    def _rows(
        self,
        pieces: Sequence[Piece],
        notes: PartNotes,
        is_stopped: Callable[[], bool],
        tell: Callable[[int], None],
    ) -> Iterator[LabelledFrame]:
        done, next_s = 0, time.monotonic() + TELL_S
        for piece in pieces:
            for row in self._rows_of(piece, notes, is_stopped):
                yield row
                done += 1
                if time.monotonic() > next_s:
                    tell(done)
                    next_s = time.monotonic() + TELL_S

    def _rows_of(
        self, piece: Piece, notes: PartNotes, is_stopped: Callable[[], bool]
    ) -> Iterator[LabelledFrame]:
        """Yield the rows of a piece, and note what is wrong with its frames."""
        if self._reader is None or self._reader.source != piece.source:
            self._leave_source()
            self._reader = FrameReader(piece.source)
        reader, number = self._reader, piece.start
        items = reader.frames(piece.start, piece.stop)
        while True:
            if is_stopped():
                raise StoppedError
            try:
                item = next(items, None)
            except (BadInputError, SourceError) as error:
                # All of the rest: nothing more can be read from this source.
                notes.errors.append(_error(piece.source, number, piece.stop, str(error)))
                self._leave_source()
                return
            if item is None:
                break
            number = item.number + 1
            if item.number not in piece.wanted:
                continue
            if item.picture is None:
                notes.errors.append(_error(piece.source, item.number, number, item.error))
            else:
                result = self._segmenter.segment(item.picture)
                yield self._row(piece.source, item.number, item.time_s, result)
        if reader.end is not None:
            notes.ends[piece.source] = reader.end
            notes.errors += [{"source": piece.source, "warning": text} for text in reader.warnings]
            reader.warnings = ()

    def _row(
        self, source: str, number: int, time_s: float | None, result: Segmentation
    ) -> LabelledFrame:
        height, width = result.label_map.shape
        found = np.flatnonzero(result.counts)
        margin = margin_of(result, self._least) * (1.0 if result.trust is None else result.trust)
        confidence = encode_picture(".png", self._worth(result)) if self._job.confidence else None
        return LabelledFrame(
            key=frame_key(source, number),
            source=source,
            frame=number,
            time_s=time_s,
            width=width,
            height=height,
            label_map_png=encode_picture(".png", result.label_map),
            confidence_png=confidence,
            margin=margin,
            class_ids=tuple(found.tolist()),
            counts=tuple(result.counts[found].tolist()),
            bundle_sha256=self._job.bundle_sha256,
            words_sha256=self._words_sha256,
        )

    def _worth(self, result: Segmentation) -> NDArray[np.uint8]:
        """Return what the scores of a result are worth, or the scores of a bundle that was not calibrated."""
        if self._curves is None:
            return result.confidence
        found: NDArray[np.uint8] = result.confidence.copy()
        read_curves(result.label_map, found, self._curves)
        return found

    def _leave_source(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


def _curves_of(bundle: Bundle, job: Job) -> NDArray[np.uint8] | None:
    """Return the curves of a job's words as `read_curves` takes them, None for a bundle that was not calibrated."""
    curves = curves_of(bundle, None, tiling_of(bundle, job.tiles))
    return None if curves is None else curves.rows(job.vocabulary.names, job.vocabulary.tuned_names)


def _error(source: str, frame: int, stop: int | None, text: str) -> dict[str, Any]:
    return {"source": source, "frame": frame, "stop": stop, "error": " ".join(text.split())}


def _least_scores(thresholds: Sequence[float]) -> NDArray[np.uint8]:
    """Return 255 times the score that keeps a label, uint8 [N], by label; of the unlabelled the least."""
    none = none_id(len(thresholds))
    table = np.full(none + 1, min(thresholds))
    table[: len(thresholds)] = thresholds
    return np.asarray((table.clip(0.0, 1.0) * 255).round(), np.uint8)


def margin_of(result: Segmentation, least: NDArray[np.uint8]) -> float:
    """Return how far the scores of a frame are from where its labels would change, in [0, 1].

    The mean over the pixels of the distance between the winning score and the threshold of the class
    (of unlabelled pixels the lowest of all thresholds), least: 255 times these, uint8 [N], by label.
    """
    import cv2

    wanted = least[result.label_map] if least.size > 256 else cv2.LUT(result.label_map, least)
    return float(cv2.mean(cv2.absdiff(result.confidence, wanted))[0] / 255)
