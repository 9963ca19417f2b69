"""One evaluator for every predictor: images at their own size, one record each, then the measures."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.bundle.manifest import created_now
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.boundary import BoundaryIou
from dedos_deploy.evaluation.confusion import Confusion, Ids
from dedos_deploy.evaluation.data import EvaluationData, FolderData, open_data
from dedos_deploy.evaluation.folder import LabelledFolder, LabelledImage
from dedos_deploy.evaluation.moves import looked_at, move_cells, sample
from dedos_deploy.evaluation.predictors import (
    FrameSegmenter,
    Prediction,
    Predictor,
    SegmenterPredictor,
    open_bundle_predictor,
)
from dedos_deploy.evaluation.records import (
    MADE,
    Header,
    ImageRecord,
    RecordWriter,
    cells_of,
    merged,
    read_records,
)
from dedos_deploy.evaluation.reliability import ClassCells, class_cells, reliability_cells
from dedos_deploy.evaluation.result import EvaluationResult, result_of
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.vocabulary import Vocabulary, parse_vocabulary

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.spec import Background

Classes = str | os.PathLike[str] | Sequence[str] | Vocabulary


@dataclass(frozen=True)
class Part:
    """The share of one of `count` processes: images `index`, `index + count`, ..."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise BadInputError(
                f"part {self.index + 1} of {self.count} does not exist; give 1/{self.count} to "
                f"{self.count}/{self.count}"
            )

    @property
    def file_name(self) -> str:
        """Name of the file with this part's records."""
        if self.count == 1:
            return "images.jsonl"
        return f"images_{self.index + 1}_of_{self.count}.jsonl"


WHOLE = Part()


@dataclass(frozen=True)
class Keeping:
    """What of an evaluation is done here, and what is kept of it."""

    output: Path | None = None
    """Folder of records, pictures and report, None for none."""
    resume: bool = False
    """Go on with records that are there."""
    part: Part = WHOLE
    """Share of this process."""
    boundary: bool = False
    """Measure boundary IoU."""
    pictures: bool = True
    """Paint images."""
    command: str | None = None
    """Command line that it is done by, for the report."""
    calibration: bool = False
    """Measure what confidences are worth by class, too, and what the scores behind them are."""


NOTHING = Keeping()


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: its measures, and what they were computed from."""

    result: EvaluationResult
    records: tuple[ImageRecord, ...]
    header: Header


def evaluate_predictor(
    predictor: Predictor,
    data: EvaluationData,
    keeping: Keeping = NOTHING,
    *,
    base: frozenset[str] | None = None,
    progress: Progress = QUIET,
) -> Evaluated:
    """Return how well `predictor`, asked for the data's vocabulary, labels the images.

    base: names of classes that masks taught, to give base and novel classes apart; progress: counts
    images.

    Raises BadInputError when no pixel counts, a file cannot be used or written, or the output holds
    another evaluation.
    """
    started = time.perf_counter()
    part, output = keeping.part, keeping.output
    indices = range(part.index, len(data.image_names), part.count)
    header = header_of(predictor, data, keeping, base)
    if output is None:
        records = list(_evaluated(predictor, data, indices, keeping, progress))
    else:
        with RecordWriter(output / part.file_name, header, resume=keeping.resume) as writer:
            records = _recorded(writer, predictor, data, indices, keeping, progress)
    if all(record.skipped for record in records):
        raise BadInputError(
            f"no pixel of {data.name} ({len(records)} images) is labelled with one of "
            f"{', '.join(data.classes[:20])}; choose other classes or another split"
        )
    return _measured(header, records, time.perf_counter() - started)


def header_of(
    predictor: Predictor, data: EvaluationData, keeping: Keeping, base: frozenset[str] | None
) -> Header:
    """Return what decides the records of an evaluation, and who made them, as JSON values."""
    return {
        "predictor": predictor.name,
        "identity": dict(predictor.identity),
        "data": data.name,
        "classes": list(data.classes),
        "words": [list(entry.words) for entry in data.vocabulary.entries],
        "images": len(data.image_names),
        "boundary": keeping.boundary,
        **({"calibration": True} if keeping.calibration else {}),
        "base": None if base is None else sorted(base),
        MADE: {"command": keeping.command, "created": created_now()},
    }


def _measured(header: Header, records: Sequence[ImageRecord], seconds_total: float) -> Evaluated:
    base = header["base"]
    result = result_of(
        records,
        tuple(header["classes"]),
        predictor=header["predictor"],
        data=header["data"],
        seconds_total=seconds_total,
        base=None if base is None else frozenset(base),
    )
    return Evaluated(result, tuple(records), header)


def _recorded(
    writer: RecordWriter,
    predictor: Predictor,
    data: EvaluationData,
    indices: Sequence[int],
    keeping: Keeping,
    progress: Progress,
) -> list[ImageRecord]:
    """Evaluate what `writer` does not have yet; return the records of all of `indices`."""
    known = {record.name: record for record in writer.done}
    names = data.image_names
    missing = [index for index in indices if names[index] not in known]
    before = len(indices) - len(missing)
    for record in _evaluated(predictor, data, missing, keeping, progress, before):
        writer.add(record)
        known[record.name] = record
    return [known[names[index]] for index in indices]


def _evaluated(
    predictor: Predictor,
    data: EvaluationData,
    indices: Sequence[int],
    keeping: Keeping,
    progress: Progress,
    before: int = 0,
) -> Iterator[ImageRecord]:
    """before: images that were evaluated earlier, and are counted, too."""
    total = before + len(indices)
    progress.count(before, total)
    for done, index in enumerate(indices, start=before + 1):
        moves = looked_at(index, len(data.image_names))
        yield evaluate_image(
            predictor,
            data,
            data.image(index),
            boundary=keeping.boundary,
            calibration=keeping.calibration,
            moves=moves,
        )
        progress.count(done, total)


def evaluate_image(
    predictor: Predictor,
    data: EvaluationData,
    image: LabelledImage,
    *,
    boundary: bool,
    calibration: bool = False,
    moves: bool = True,
) -> ImageRecord:
    """Return the record of one image; raises BadInputError naming it when labels do not fit.

    calibration: whether it has what confidences are worth by class; moves: whether it has what words
    would have to move, where scores are known.
    """
    classes = len(data.classes)
    height, width = image.labels.shape
    record = ImageRecord(image.name, (height, width), (), (), 0.0)
    if not (image.labels != data.ignore).any():
        return record
    before = time.perf_counter()
    prediction = predictor.predict(image.image_bgr)
    seconds = time.perf_counter() - before
    predictions = data.fold(prediction.ids)
    confusion = Confusion(classes, ignore=data.ignore)
    try:
        confusion.add(image.labels, predictions, unlabelled=classes)
    except BadInputError as error:
        raise BadInputError(f"image {image.name!r} of {data.name}: {error}") from error
    bands: tuple[tuple[int, int, int], ...] = ()
    if boundary:
        measured = BoundaryIou(classes, ignore=data.ignore)
        measured.add(image.labels, predictions)
        bands = measured.cells()
    answered = (image.labels != data.ignore) & (prediction.ids < len(data.vocabulary))
    right = predictions == image.labels
    return replace(
        record,
        cells=cells_of(confusion.matrix),
        boundary=bands,
        seconds=seconds,
        reliability=reliability_cells(prediction.confidence, answered, right),
        calibration=_calibration(prediction, answered, right, predictions)
        if calibration
        else ((), ()),
        moves=_moves(prediction, predictions, data, image) if moves else (),
    )


def _calibration(
    prediction: Prediction, answered: NDArray[np.bool_], right: NDArray[np.bool_], answers: Ids
) -> tuple[ClassCells, ClassCells]:
    given, scores = (
        class_cells(confidence, answered, right, answers)
        for confidence in (prediction.confidence, prediction.uncalibrated)
    )
    return given, scores


def _moves(
    prediction: Prediction, predictions: Ids, data: EvaluationData, image: LabelledImage
) -> tuple[int, ...]:
    if prediction.evidence is None:
        return ()
    names, classes = data.vocabulary.names, len(data.classes)
    folded = data.fold(np.arange(len(names) + 1, dtype=np.uint16)[None])[0].tolist()
    sampled = sample(
        prediction.evidence,
        image.labels,
        predictions,
        class_of=dict(zip(names, folded[:-1], strict=True)),
        nothing=folded[-1],
        ignore=data.ignore,
        classes=classes,
    )
    return move_cells(sampled)


def read_evaluation(folder: Path) -> Evaluated:
    """Return the evaluation that was kept in `folder`, its parts merged.

    Raises BadInputError when parts or images are missing, or the records cannot be used.
    """
    paths = sorted(folder.glob("images*.jsonl"))
    if not paths:
        raise BadInputError(f"{str(folder)!r} holds no evaluation; give the --output of dedos-eval")
    parts = [read_records(path) for path in paths]
    records, header = merged(parts), parts[0][0]
    if len(records) != header["images"]:
        raise BadInputError(
            f"the evaluation in {str(folder)!r} has {len(records)} of {header['images']} images; "
            "run its other parts, or go on with --resume"
        )
    return _measured(header, records, sum(record.seconds for record in records))


def evaluate_bundle(
    bundle: str | os.PathLike[str] | Bundle,
    data_root: str | os.PathLike[str],
    split: str,
    *,
    classes: Classes | None = None,
    background: Background = "none",
    threads: int | None = None,
    progress: Progress = QUIET,
) -> EvaluationResult:
    """Return how well a bundle labels a split of a labelled folder.

    bundle, background, threads: as `Segmenter.load` takes them; `none` gives every pixel a class,
    as published numbers have it, with the others an unlabelled pixel counts as wrong;
    classes: entries whose words name classes of the data, None for all (see `match_classes`);
    progress: counts images.

    Raises BadInputError for data that cannot be used, and what `Segmenter.load` raises.
    """
    if classes is not None and not isinstance(classes, Vocabulary):
        classes = parse_vocabulary(classes)
    data = open_data(data_root, split, vocabulary=classes)
    with open_bundle_predictor(
        bundle, data.vocabulary, background=background, threads=threads
    ) as predictor:
        return evaluate_predictor(predictor, data, progress=progress).result


def evaluate_segmenter(
    segmenter: FrameSegmenter,
    folder: LabelledFolder,
    vocabulary: Vocabulary,
    *,
    progress: Progress = QUIET,
) -> EvaluationResult:
    """Return how well a segmenter, which has `vocabulary` as its classes, labels a folder.

    Raises BadInputError when the folder has no pixel that counts, or a file that cannot be used.
    """
    data = FolderData(folder, vocabulary)
    predictor = SegmenterPredictor(segmenter, vocabulary, name="segmenter", identity={})
    return evaluate_predictor(predictor, data, progress=progress).result
