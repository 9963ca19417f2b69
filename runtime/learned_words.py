"""The present words of a vocabulary with their rows: learned ones put in, and written as a words file."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dedos_deploy.errors import BadInputError, UnfinishedError
from dedos_deploy.runtime.example_rows import Row
from dedos_deploy.runtime.examples import Example, Frames, LearnedWord, Masks, examples_of
from dedos_deploy.runtime.learning import best_candidate
from dedos_deploy.runtime.pixels import check_pixels
from dedos_deploy.runtime.segmentation import LabelMap
from dedos_deploy.runtime.slots import Rows, SlotTable
from dedos_deploy.version import __version__
from dedos_deploy.vocabulary import Entry, Vocabulary, canonical_word, parse_vocabulary, shortened
from dedos_deploy.words_file import TunedRows, save_words_file

if TYPE_CHECKING:
    from dedos_deploy.runtime.segmenter_core import SegmenterCore

LEARNED = "learned words"
"""What rows by example are called in messages where others have the name of a file."""

EXAMPLES = "examples"
"""Under what a words file says of its words that were learned from pictures."""


@dataclass(frozen=True, eq=False)
class NewWords:
    """A vocabulary and the rows float32 [N, D] of its words."""

    vocabulary: Vocabulary
    rows: Rows


@dataclass(frozen=True, eq=False)
class Words:
    """What a view has: its table, and the rows that words have instead of the text tower's."""

    table: SlotTable
    tuned: TunedRows | None

    @property
    def vocabulary(self) -> Vocabulary:
        return replace(parse_vocabulary(list(self.table.entries)), tuned=self.tuned)

    @property
    def rows(self) -> Rows:
        """float32 [N, D] of the vocabulary's words."""
        return self.table.text[: len(self.table.text) - len(self.table.negatives)]

    def with_word(self, entry: Entry, row: Row) -> NewWords:
        """Return the words with a row in the place of a word, which comes last if it is not there."""
        vocabulary, rows = self.vocabulary, self.rows
        place = _place(vocabulary, entry)
        if place is None:
            entries = (*vocabulary.entries, entry)
            return NewWords(replace(vocabulary, entries=entries), np.concatenate([rows, row[None]]))
        changed = rows.copy()
        changed[place] = row
        return NewWords(vocabulary, changed)

    def with_row(self, entry: Entry, found: LearnedWord, *, model_sha256: str | None) -> NewWords:
        """As `with_word`, and the row is kept for lists to come."""
        new = self.with_word(entry, found.row)
        tuned = _with_row(self.tuned, entry.name, found, model_sha256)
        return replace(new, vocabulary=replace(new.vocabulary, tuned=tuned))


def _place(vocabulary: Vocabulary, entry: Entry) -> int | None:
    """Return which of a vocabulary's words is that of an entry, None if none is."""
    words = [canonical_word(word) for word in vocabulary.words]
    word = canonical_word(entry.name)
    return words.index(word) if word in words else None


class LearningView:
    """The part of a view that learns words from examples and writes them down."""

    _core: SegmenterCore
    _changing: threading.Lock
    """Held while a vocabulary takes the place of another."""
    _table: SlotTable
    _tuned: TunedRows | None
    _asked: int
    """Vocabularies asked for so far."""
    _done: int
    """The last of them that came to be."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The current entries, with the rows that words, also others, have instead of the text tower's."""
        with self._changing:
            return Words(self._table, self._tuned).vocabulary

    def learn(
        self,
        word: str,
        frames: Frames,
        masks: Masks,
        *,
        anyway: bool = False,
        timeout_s: float | None = None,
    ) -> LearnedWord:
        """Learn what a word means from one to five frames, and add it from the next frame on.

        word: one entry as `parse_vocabulary` takes them, without synonyms; one that is there, a synonym,
        too, gets the new row and keeps its place, id, threshold and colour. What it had from words files
        or earlier examples is forgotten.
        frames: uint8 [H, W, 3] BGR on the host, one or a sequence; masks: for each frame one of bool [H, W]; a
        box (x0, y0, x1, y1) in pixels, a tuple; a scribble, whole numbers [P, 2] of x, y, an array, or
        several, a list of such arrays.
        anyway: add the word also if the examples do not separate it from the rest of their frames, which
        the result says; else nothing changes then. timeout_s: as `set_classes`.

        Where the name means something to the text tower, the row is blended with its own, if that labels
        the examples no worse. The row is kept as `set_classes` keeps rows of words files. Frames of a
        camera go on meanwhile, a frame's time later now and then.

        Raises BadInputError for a bundle without the graph for it (`dedos-export --examples`), frames or
        masks that cannot be used, or words that do not fit the engine, EngineError when a graph fails,
        UnfinishedError as `set_classes` does.
        """
        self._core.process.check()
        entry = one_word(word)
        examples = examples_of(frames, masks)
        with self._changing:
            table, tuned = self._table, self._tuned
        found = learn_word(self._core, Words(table, tuned), entry, examples, timeout_s)
        added = found.separates or anyway
        if added:
            with self._changing:
                # By now the list may be another one, whose words stay.
                now = Words(self._table, self._tuned).with_row(
                    entry, found, model_sha256=self._core.model_sha256
                )
                self._core.check_slots(len(now.rows))
                self._asked += 1
                self._done = self._asked
                self._tuned = now.vocabulary.tuned
                self._table = self._core.next_table(now.vocabulary, now.rows, self._table)
        return replace(found, added=added)

    def words_file(self, path: str | os.PathLike[str]) -> Path:
        """Write the present words with their rows and thresholds as a words file, and return its path.

        It says of every word whether its row is the text tower's, of a words file, or learned from examples, and
        how; `Path(path)` is then taken wherever class lists are, by bundles of the same checkpoint.

        Raises BadInputError when it cannot be written, or of a model whose checkpoint is not known.
        """
        with self._changing:
            words = Words(self._table, self._tuned)
        return save_words(path, words, model_sha256=self._core.model_sha256)


def one_word(text: str) -> Entry:
    """Return the entry of a word to learn. Raises BadInputError, for synonyms, too."""
    (entry,) = parse_vocabulary([text]).entries
    if entry.synonyms:
        raise BadInputError(
            f"{shortened(text)!r} has synonyms, but examples are of one word; learn them one by one"
        )
    return entry


def learn_word(
    core: SegmenterCore,
    words: Words,
    entry: Entry,
    examples: Sequence[Example],
    timeout_s: float | None,
) -> LearnedWord:
    """Return what a word becomes among others, tried on the engine itself. Nothing changes."""
    slots = len(words.rows) + (_place(words.vocabulary, entry) is None)
    core.check_slots(slots)
    embeddings = core.embedder.embed(examples)
    text = _own_row(core, entry, timeout_s)

    def labelled(example: Example, row: Row) -> LabelMap:
        new = words.with_word(entry, row)
        table = core.next_table(new.vocabulary, new.rows, words.table)
        place = _place(new.vocabulary, entry)
        assert place is not None
        pixels = check_pixels(example.frame_bgr, "bgr")
        with core.busy:
            found = core.labeller.label(pixels, table).label_map
        return np.asarray(found == table.class_ids[new.vocabulary.slot_ids[place]])

    best = best_candidate(embeddings, examples, text, labelled)
    return LearnedWord(
        name=entry.name,
        row=best.row,
        margin=best.margin,
        overlap=best.overlap,
        separates=best.separates,
        added=False,
        examples=len(examples),
        from_text=best.from_text,
    )


def _own_row(core: SegmenterCore, entry: Entry, timeout_s: float | None) -> Row | None:
    """Return what the text tower makes of a word, None for text that it cannot read."""
    try:
        (row,) = core.encode(Vocabulary((Entry(entry.name),)), timeout_s)
    except UnfinishedError:
        raise
    except BadInputError:
        return None
    return np.asarray(row, dtype=np.float32)


def _with_row(
    old: TunedRows | None, word: str, found: LearnedWord, model_sha256: str | None
) -> TunedRows:
    facts = {
        "examples": found.examples,
        "margin": round(found.margin, 4),
        "overlap": round(found.overlap, 4),
        "separates": found.separates,
        "from_text": found.from_text,
    }
    tuning = {EXAMPLES: {word: facts}}
    learned = TunedRows(LEARNED, model_sha256, (word,), found.row[None], tuning=tuning)
    return learned if old is None else _over(old, learned)


def save_words(path: str | os.PathLike[str], words: Words, *, model_sha256: str | None) -> Path:
    """See `SegmenterView.words_file`."""
    if model_sha256 is None:
        raise BadInputError(
            "this bundle does not say of which checkpoint it is, as those with random weights, so a words "
            "file could not say to which model its rows belong; export a trained one"
        )
    vocabulary = words.vocabulary
    tuned = set() if words.tuned is None else set(map(canonical_word, words.tuned.words))
    said: Mapping[str, Any] = {} if words.tuned is None else words.tuned.tuning
    present = set(map(canonical_word, vocabulary.words))
    learned = {} if words.tuned is None else _facts(words.tuned)
    return save_words_file(
        path,
        entries=[entry.spelled for entry in vocabulary.entries],
        words=vocabulary.words,
        embeddings=np.ascontiguousarray(words.rows),
        model_sha256=model_sha256,
        tuning={
            **said,
            EXAMPLES: {
                word: how for word, how in learned.items() if canonical_word(word) in present
            },
            "text_rows": [word for word in vocabulary.words if canonical_word(word) not in tuned],
            "dedos_deploy": __version__,
        },
    )


def examples_behind(vocabulary: Vocabulary) -> dict[str, dict[str, Any]]:
    """Return, by word, how those of a vocabulary that were learned from examples were, synonyms, too:
    `examples`, `margin`, `overlap`, `separates`, `from_text`."""
    if vocabulary.tuned is None:
        return {}
    learned = {canonical_word(word): how for word, how in _facts(vocabulary.tuned).items()}
    found = ((word, learned.get(canonical_word(word))) for word in vocabulary.words)
    return {word: dict(how) for word, how in found if how is not None}


def learned_rows(vocabulary: Vocabulary) -> dict[str, Row]:
    """Return, by word, the rows float32 [D] of those that `examples_behind` has."""
    tuned, learned = vocabulary.tuned, examples_behind(vocabulary)
    if tuned is None:
        return {}
    rows = dict(zip(map(canonical_word, tuned.words), tuned.embeddings, strict=True))
    return {name: rows[canonical_word(name)] for name in learned}


def joined(under: TunedRows | None, over: TunedRows | None) -> TunedRows | None:
    """Return the rows of both, those of `over` where both have a word.

    Raises BadInputError for rows of two models.
    """
    if under is None or over is None:
        return over if under is None else under
    return _over(under, over)


def _over(under: TunedRows, over: TunedRows) -> TunedRows:
    """Return the rows of both; see `joined`."""
    over.check_model(under.model_sha256, under.embeddings.shape[1])
    left = under
    for word in over.words:
        left = without(left, word)
    return replace(
        left,
        words=(*left.words, *over.words),
        embeddings=np.concatenate([left.embeddings, over.embeddings]),
        tuning={**left.tuning, EXAMPLES: {**_facts(left), **_facts(over)}},
    )


def renamed(tuned: TunedRows, old: str, new: str) -> TunedRows:
    """Return rows in which that of a word is another one's."""
    left = without(tuned, new) if canonical_word(old) != canonical_word(new) else tuned
    words = (new if canonical_word(word) == canonical_word(old) else word for word in left.words)
    facts = {
        new if canonical_word(word) == canonical_word(old) else word: how
        for word, how in _facts(left).items()
    }
    return replace(left, words=tuple(words), tuning={**left.tuning, EXAMPLES: facts})


def without(tuned: TunedRows, word: str) -> TunedRows:
    """Return rows in which a word has none."""
    keep = [canonical_word(one) != canonical_word(word) for one in tuned.words]
    facts = {
        one: how
        for one, how in _facts(tuned).items()
        if canonical_word(one) != canonical_word(word)
    }
    return replace(
        tuned,
        words=tuple(one for one, kept in zip(tuned.words, keep, strict=True) if kept),
        embeddings=tuned.embeddings[keep],
        tuning={**tuned.tuning, EXAMPLES: facts},
    )


def _facts(tuned: TunedRows) -> Mapping[str, Any]:
    found = tuned.tuning.get(EXAMPLES, {})
    return found if isinstance(found, Mapping) else {}
