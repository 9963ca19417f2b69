"""Text embeddings of words: shipped ones, cached ones, and the text tower for the rest."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dedos_deploy.errors import BadInputError, EngineError, UnfinishedError, shown
from dedos_deploy.text.cache import CacheKey, EmbeddingCache, Row
from dedos_deploy.text.tokenizer import Tokenizer
from dedos_deploy.text.tower import BATCH, TextTower, TowerFiles
from dedos_deploy.vocabulary import canonical_word, shortened
from dedos_deploy.vocabulary_file import Rows, read_vocabulary_file, save_vocabulary

ROWS_KEPT = 4096
"""Embeddings kept in memory besides the shipped ones; the least recently used go first."""


class TextEncoder:
    """Turns words into text embeddings.

    tower: the text tower and its tokenizer; templates: prompts with a `{}`; template_name: what
    they are called, for files and messages; known: word → embedding, float32 [D], for words shipped
    with their embeddings; cache: embeddings on disk, None to keep none.

    Words are compared as the text tower sees them, so "Car" is found as "car". The text tower is
    loaded only for words that are neither known nor cached, and freed when they are encoded: such
    words are rare, memory on a robot is not plentiful. The tokenizer stays once it was needed, as
    reading it holds up all threads of Python. Encode all words of a list in one call.
    May be used from several threads: new words are encoded in small batches, and whoever else waits
    for new words gets a turn after each, in the order of asking. No word is encoded twice.
    """

    def __init__(
        self,
        tower: TowerFiles,
        *,
        templates: tuple[str, ...],
        template_name: str,
        known: Mapping[str, npt.NDArray[np.float32]],
        cache: EmbeddingCache | None,
    ) -> None:
        bad = [template for template in templates if "{}" not in template]
        if bad or not templates:
            raise BadInputError(
                f"prompt templates {template_name!r} need at least one sentence, each with {{}} "
                f"for the word, not {bad[0] if bad else 'none'!r}"
            )
        self.text_width = tower.text_width
        self.template_name = template_name
        self._files = tower
        self._templates = templates
        self._cache = cache
        self._memory = _Memory({canonical_word(word): row for word, row in known.items()})
        self._turns = _Turns()
        self._users = 0
        self._counting = threading.Lock()
        self._tower: TextTower | None = None
        self._opening = threading.Lock()
        self._tokenizer: Tokenizer | None = None

    def encode(
        self, words: Sequence[str], *, deadline_s: float | None = None, threads: int | None = None
    ) -> Rows:
        """Return the text embeddings of N words, float32 [N, D], rows of length 1.

        One prompt per template is encoded, and the normalised results are averaged.
        deadline_s: `time.monotonic()` after which no further batch is begun, None for no limit; one
        batch is encoded in any case, once it is this call's turn. threads: CPU threads of the text
        tower, None for all cores; 1 leaves the others to frames that are labelled meanwhile.

        Raises BadInputError for a word that is too long, UnfinishedError when the time was over
        first (what was encoded is kept), BadBundleError when the text tower or the tokenizer is
        unusable, EngineError when it fails or gives something other than numbers.
        """
        keys = [canonical_word(word) for word in words]
        if not keys:
            return np.empty((0, self.text_width), dtype=np.float32)
        rows = self._memory.get(dict.fromkeys(keys))
        rows |= self._from_disk([key for key in dict.fromkeys(keys) if key not in rows])
        new = [key for key in dict.fromkeys(keys) if key not in rows]
        if new:
            rows |= self._encode_new(new, deadline_s, threads)
        return np.stack([rows[key] for key in keys])

    def save_vocabulary(self, path: str | os.PathLike[str], words: Sequence[str]) -> Path:
        """Encode `words`, write them to a vocabulary file, and return its path.

        Such a file can be made on a laptop and read on a robot by `load_vocabulary`, which then
        never loads the text tower for these words.
        """
        return save_vocabulary(path, words, self.encode(words), self._identity())

    def load_vocabulary(self, path: str | os.PathLike[str]) -> tuple[str, ...]:
        """Take over the embeddings of a file written by `save_vocabulary` and return its words.

        Raises BadInputError when it was made with another text tower, tokenizer, context length or
        other templates, or by a version that did not note them, and as `read_vocabulary_file`.
        """
        content = read_vocabulary_file(path)
        for field, expected in self._identity().items():
            found = content.metadata.get(field)
            if found is None:
                raise BadInputError(
                    f"vocabulary file {os.fspath(path)!r} does not say its {field}, as those of "
                    "earlier versions; make the file again with this bundle"
                )
            if found != expected:
                raise BadInputError(
                    f"vocabulary file {os.fspath(path)!r} has {field} {shown(found)}, this bundle "
                    f"{expected!r}; make the file again with this bundle"
                )
        self._memory.know(zip(map(canonical_word, content.words), content.embeddings, strict=True))
        return content.words

    def _identity(self) -> dict[str, str]:
        return {
            "text_tower_sha256": self._files.model_sha256,
            "tokenizer_sha256": self._files.tokenizer_sha256,
            "context_length": str(self._files.context_length),
            "templates": "\n".join(self._templates),
            "text_width": str(self.text_width),
        }

    def _key(self, word: str) -> CacheKey:
        files = self._files
        return CacheKey(
            files.model_sha256,
            files.tokenizer_sha256,
            files.context_length,
            files.text_width,
            self._templates,
            word,
        )

    def _from_disk(self, words: Sequence[str]) -> dict[str, Row]:
        if self._cache is None or not words:
            return {}
        rows = self._cache.load([self._key(word) for word in words])
        self._memory.put(rows)
        return rows

    def _encode_new(
        self, words: Sequence[str], deadline_s: float | None, threads: int | None
    ) -> dict[str, Row]:
        """Return word → embedding of new canonical `words`, and keep what this call encoded."""
        with self._opening:
            if self._tokenizer is None:
                self._tokenizer = self._files.open_tokenizer()
        # Word by word and before the tower is loaded: an error names the word, and comes at once.
        tokens = {word: self._tokens(self._tokenizer, word) for word in words}
        rows: dict[str, Row] = {}
        own: dict[str, Row] = {}
        try:
            with self._tower_kept():
                while left := [word for word in words if word not in rows]:
                    in_time = deadline_s is None or not own or time.monotonic() < deadline_s
                    if not in_time or not self._turns.begin(deadline_s):
                        raise _unfinished(len(rows), len(words))
                    try:
                        rows |= self._memory.get(left)
                        batch = self._next_batch([word for word in left if word not in rows])
                        own |= self._embed(batch, tokens, threads)
                        self._memory.put({word: own[word] for word in batch})
                    finally:
                        self._turns.end()
                    rows |= own
        finally:
            if self._cache is not None and own:
                self._cache.store({self._key(word): row for word, row in own.items()})
        return rows

    def _next_batch(self, words: Sequence[str]) -> Sequence[str]:
        return words[: max(1, BATCH // len(self._templates))]

    @contextmanager
    def _tower_kept(self) -> Iterator[None]:
        """Keep the tower that a turn opens until nobody needs it any more."""
        with self._counting:
            self._users += 1
        try:
            yield
        finally:
            with self._counting:
                self._users -= 1
                if not self._users:
                    self._tower = None

    def _embed(
        self, words: Sequence[str], tokens: Mapping[str, npt.NDArray[np.int64]], threads: int | None
    ) -> dict[str, Row]:
        """Return word → float32 [D] from the text tower, of length 1."""
        if not words:
            return {}
        if self._tower is None:
            self._tower = self._files.open_tower(threads=threads)
        rows = self._tower.run(np.concatenate([tokens[word] for word in words]))
        prompts = _normalised(rows.astype(np.float64), "prompt", self._prompts(words))
        means = prompts.reshape(len(words), len(self._templates), -1).mean(axis=1)
        found = _normalised(means, "word", words).astype(np.float32)
        # Copies: a row must not keep its whole batch in memory.
        return {word: row.copy() for word, row in zip(words, found, strict=True)}

    def _tokens(self, tokenizer: Tokenizer, word: str) -> npt.NDArray[np.int64]:
        try:
            tokens = tokenizer.encode(self._prompts([word]))
        except BadInputError as error:
            raise BadInputError(f"the word {shortened(word)!r} is too long: {error}") from error
        if ((tokens == tokenizer.start_id) | (tokens == tokenizer.end_id)).sum() != 2 * len(tokens):
            raise BadInputError(
                f"the word {shortened(word)!r} holds a token that marks the start or end of a "
                f"prompt; use another name"
            )
        return tokens

    def _prompts(self, words: Sequence[str]) -> list[str]:
        return [template.replace("{}", word) for word in words for template in self._templates]


class _Memory:
    """Rows by canonical word: known ones for good, others as long as they are used."""

    def __init__(self, known: dict[str, Row]) -> None:
        self._known = known
        self._others: OrderedDict[str, Row] = OrderedDict()
        self._lock = threading.Lock()

    def know(self, rows: Iterable[tuple[str, Row]]) -> None:
        with self._lock:
            self._known.update(rows)

    def get(self, words: Iterable[str]) -> dict[str, Row]:
        """Return those of `words` that are there."""
        found = {}
        with self._lock:
            for word in words:
                row = self._known.get(word)
                if row is None and (row := self._others.get(word)) is not None:
                    self._others.move_to_end(word)
                if row is not None:
                    found[word] = row
        return found

    def put(self, rows: Mapping[str, Row]) -> None:
        with self._lock:
            for word, row in rows.items():
                self._others[word] = row
                self._others.move_to_end(word)
            while len(self._others) > ROWS_KEPT:
                self._others.popitem(last=False)


class _Turns:
    """A lock that its waiters get in the order in which they came.

    A plain lock would go to the thread that has just released it, again and again.
    """

    def __init__(self) -> None:
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def begin(self, deadline_s: float | None) -> bool:
        """Wait for the next turn and return True, or False if it did not come before the deadline."""
        me = object()
        with self._changed:
            self._waiting.append(me)
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            try:
                mine = self._changed.wait_for(lambda: self._waiting[0] is me, left_s)
            except BaseException:
                self._waiting.remove(me)
                self._changed.notify_all()
                raise
            if not mine:
                self._waiting.remove(me)
            return mine

    def end(self) -> None:
        with self._changed:
            self._waiting.popleft()
            self._changed.notify_all()


def _unfinished(done: int, words: int) -> UnfinishedError:
    return UnfinishedError(
        f"{done} of {words} new words were encoded in the time allowed, and are kept; ask again for "
        "the rest"
    )


def _normalised(
    rows: npt.NDArray[np.float64], kind: str, texts: Sequence[str]
) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0.0)))
    if len(wrong):
        raise EngineError(
            f"the text tower gave no usable embedding for the {kind} {texts[wrong[0]]!r}, "
            f"its length is {lengths[wrong[0], 0]}; export the bundle again"
        )
    normalised: npt.NDArray[np.float64] = rows / lengths
    return normalised
