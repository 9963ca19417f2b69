"""From a model and a few labelled frames to a words file, or to the word that nothing was better."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.compare import Interval
from dedos_deploy.model.word_embeddings import WordEmbeddings, WordModel
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.spec import SLOT_BUCKETS
from dedos_deploy.text.negatives import negatives
from dedos_deploy.training.word_data import WordData, read_frames
from dedos_deploy.training.word_heads import WordHead, word_head
from dedos_deploy.training.word_judging import (
    FOLDS,
    Choice,
    Judge,
    iou_by_name,
    mean_iou_of,
    put_back,
    tunable,
)
from dedos_deploy.training.word_tuning import Seen, TuneSettings, Words, see, tuned_rounds
from dedos_deploy.version import __version__
from dedos_deploy.vocabulary import Vocabulary
from dedos_deploy.words_file import save_words_file

FRAMES = 20
_PARTS = 4


@dataclass(frozen=True, eq=False)
class Given:
    """A model to tune words for."""

    model: WordModel
    """Of a checkpoint, or a dense CLIP."""
    sha256: str
    """Hash of the file that it is from."""
    size_hw: tuple[int, int]
    """Network size."""
    template: str
    """Prompt template of its words."""
    base_words: Sequence[str] = ()
    """Words from which negatives are taken when it is deployed."""


@dataclass(frozen=True)
class TuneRequest:
    """What to tune on."""

    data: str
    """A label folder."""
    split: str = "train"
    vocabulary: Vocabulary | None = None
    """The words to tune, None for all classes of the folder."""
    frames: int = FRAMES
    settings: TuneSettings = field(default_factory=TuneSettings)


@dataclass(frozen=True)
class WordReport:
    """What became of one word or neighbour on held-out frames."""

    name: str
    iou_words: float | None
    """None where no label shows it."""
    iou_tuned: float | None
    tuned: bool
    """Whether it has a row of its own now."""
    cosine: float
    """Of the tuned row with the word's own; the lowest of synonyms."""
    threshold: float | None


@dataclass(frozen=True)
class TuneReport:
    """What came of a run."""

    kept: bool
    miou_words: float
    miou_tuned: float
    """On frames that took no part in tuning; that of the words where nothing was kept."""
    gain: Interval
    words: tuple[WordReport, ...]
    neighbours: tuple[WordReport, ...]
    too_rare: tuple[str, ...]
    """Words that too few frames show to be judged, which stay as they are."""
    to_negatives: tuple[float, float]
    """Part of the words' pixels that negatives win, before and after."""
    frames: int
    rounds: int
    feature_bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values under stable keys."""
        return {
            "kept": self.kept,
            "miou_words": self.miou_words,
            "miou_tuned": self.miou_tuned,
            "gain_low": self.gain.low,
            "gain_high": self.gain.high,
            "seconds": round(self.seconds, 1),
            "frames": self.frames,
            "rounds": self.rounds,
            "feature_bytes": self.feature_bytes,
            "words": [asdict(one) for one in self.words],
            "neighbours": [asdict(one) for one in self.neighbours],
            "too_rare": list(self.too_rare),
            "to_negatives": list(self.to_negatives),
        }


def tune_words(
    given: Given, request: TuneRequest, output: Path, *, progress: Progress = QUIET
) -> TuneReport:
    """Tune words, write a words file to `output`, and return what held-out frames said.

    The file always comes: with the words' own rows where tuned ones were not better. It appears whole,
    at the end; an interrupted run leaves nothing.

    Raises BadInputError for data or a model that cannot be used.
    """
    started = time.monotonic()
    head = word_head(given.model, given.template)
    with progress.part(1, _PARTS, "reading frames"):
        data = read_frames(
            request.data,
            request.split,
            count=request.frames,
            vocabulary=request.vocabulary,
            size_hw=given.size_hw,
            progress=progress,
        )
    own = _OwnRows(given, data)
    words = own.words(tunable(data))
    with progress.part(2, _PARTS, "what the model sees"):
        seen = see(head, data, progress.counted)
    judge = Judge(head, data, seen, words)
    with progress.part(3, _PARTS, "tuning on parts of the frames, judging on the others"):
        choice = judge.choose(request.settings, progress)
    with progress.part(4, _PARTS, "tuning on all frames, thresholds"):
        rows = _final_rows(head, seen, words, choice, request.settings)
        thresholds = judge.thresholds(choice.held_out)
        lost = tuple(
            judge.lost_to_negatives(part) for part in ([words.rows] * FOLDS, choice.held_out)
        )
    report = TuneReport(
        kept=choice.kept,
        miou_words=mean_iou_of(choice.before),
        miou_tuned=mean_iou_of(choice.after),
        gain=judge.gain(choice),
        words=_reports(data, words, choice, rows, thresholds, range(len(data.asked))),
        neighbours=_reports(data, words, choice, rows, {}, range(len(data.asked), len(data.names))),
        too_rare=tuple(
            name for name, fit in zip(data.asked.names, tunable(data), strict=True) if not fit
        ),
        to_negatives=(lost[0], lost[1]),
        frames=len(data.frames),
        rounds=choice.round,
        feature_bytes=_bytes_of(seen),
        seconds=time.monotonic() - started,
    )
    _save(output, given, request, data, rows, thresholds, report)
    return report


class _OwnRows:
    """What the text tower gives for the words, the neighbours and the negatives."""

    def __init__(self, given: Given, data: WordData) -> None:
        self._given, self._data = given, data
        listed = (*data.asked.words, *data.neighbours)
        if len(listed) > SLOT_BUCKETS[-1]:
            raise BadInputError(
                f"{len(listed)} words, neighbours counted, are more than {SLOT_BUCKETS[-1]}, which engines "
                "take; name fewer with --classes"
            )
        self._rows = self._encoded(listed)
        self._slot_ids = (
            *data.asked.slot_ids,
            *range(len(data.asked), len(data.asked) + len(data.neighbours)),
        )

    def words(self, fit: Any) -> Words:
        """Return the list; fit: bool [words], those that can be judged."""
        moving = [class_id < len(fit) and bool(fit[class_id]) for class_id in self._slot_ids]
        return Words(self._rows, self._slot_ids, torch.tensor(moving), self._negatives())

    def _negatives(self) -> Tensor:
        base = list(self._given.base_words)
        if not base:
            return torch.zeros(0, self._rows.shape[1])
        rows = self._encoded(base)
        listed = (*self._data.asked.words, *self._data.neighbours)
        chosen = negatives(
            self._rows.numpy(), base, rows.numpy(), limit=len(base), user_words=listed
        )
        return rows[chosen]

    def _encoded(self, words: Sequence[str]) -> Tensor:
        model = self._given.model
        with torch.no_grad():
            encode = WordEmbeddings(model, words, template=self._given.template, tuned=False)
            return encode(range(len(words))).float()


def _final_rows(
    head: WordHead, seen: Sequence[Seen], words: Words, choice: Choice, settings: TuneSettings
) -> Tensor:
    """Return the rows after as many rounds on all frames as held-out frames asked for."""
    rows = words.rows
    if choice.kept:
        *_, rows = tuned_rounds(head, seen, words, replace(settings, rounds=choice.round))
    return put_back(words, rows, choice.moving)


def _reports(
    data: WordData,
    words: Words,
    choice: Choice,
    rows: Tensor,
    thresholds: Mapping[str, float],
    ids: range,
) -> tuple[WordReport, ...]:
    before, after = iou_by_name(data, choice.before), iou_by_name(data, choice.after)
    cosines = (rows * words.rows).sum(1)
    found = []
    for class_id in ids:
        slots = [slot for slot, one in enumerate(words.slot_ids) if one == class_id]
        name = data.names[class_id]
        found.append(
            WordReport(
                name,
                before[name],
                after[name],
                bool(choice.moving[slots].any()),
                round(float(cosines[slots].min()), 4),
                thresholds.get(name),
            )
        )
    return tuple(found)


def _bytes_of(seen: Sequence[Seen]) -> int:
    """Return how much memory the features take that are kept of all frames."""
    return sum(_size(vars(frame.features)) for frame in seen)


def _size(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, tuple | list) else 0


def _save(
    output: Path,
    given: Given,
    request: TuneRequest,
    data: WordData,
    rows: Tensor,
    thresholds: Mapping[str, float],
    report: TuneReport,
) -> None:
    entries = [
        replace(entry, threshold=thresholds.get(entry.name, entry.threshold))
        for entry in data.asked.entries
    ]
    count = len(data.asked.words)
    save_words_file(
        output,
        entries=[entry.spelled for entry in entries],
        words=data.asked.words,
        embeddings=np.ascontiguousarray(rows[:count].numpy()),
        model_sha256=given.sha256,
        tuning={
            **report.to_dict(),
            "data": Path(request.data).resolve().name,
            "split": request.split,
            "frames_used": [frame.name for frame in data.frames],
            "size_hw": list(given.size_hw),
            "template": given.template,
            "settings": asdict(request.settings),
            "dedos_deploy": __version__,
        },
    )
