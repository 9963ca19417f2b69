"""Text embeddings of words: shipped ones, cached ones, and the text tower for the rest."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dedos_deploy.errors import BadBundleError, BadInputError, EngineError
from dedos_deploy.text.cache import CacheKey, EmbeddingCache
from dedos_deploy.text.tokenizer import Tokenizer, shortened
from dedos_deploy.text.vocabulary_file import Rows, read_vocabulary_file, save_vocabulary
from dedos_deploy.vocabulary import canonical_word

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

BATCH = 64
"""Prompts per run of the text tower: bounds its memory, and more is not faster on a CPU."""

Source = str | os.PathLike[str] | bytes


class TextEncoder:
    """Turns words into text embeddings.

    model_path: text_encoder.onnx, or its bytes, with the input `tokens`, int64 [N, L], and the
    output `embedding`, float32 [N, D]; tokenizer_path: tokenizer.json, or its bytes;
    context_length: L; text_width: D; model_sha256: identifies the text tower in the cache;
    templates: prompts with a `{}`; template_name: what they are called, for files and messages;
    known: word → embedding, float32 [D], for words shipped with their embeddings;
    cache: embeddings on disk, None to keep none.

    Words are compared as the text tower sees them, so "Car" is found as "car". The text tower is
    loaded only for words that are neither known nor cached, and freed when they are encoded: such
    words are rare, memory on a robot is not plentiful. Encode all words of a list in one call.
    May be used from several threads.
    """

    def __init__(
        self,
        *,
        model_path: Source,
        tokenizer_path: Source,
        context_length: int,
        text_width: int,
        model_sha256: str,
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
        self.text_width = text_width
        self.template_name = template_name
        self._model_source = model_path
        self._tokenizer_source = tokenizer_path
        self._context_length = context_length
        self._model_sha256 = model_sha256
        self._templates = templates
        self._cache = cache
        self._lock = threading.Lock()
        self._rows = {canonical_word(word): row for word, row in known.items()}

    def encode(self, words: Sequence[str]) -> Rows:
        """Return the text embeddings of N words, float32 [N, D], rows of length 1.

        One prompt per template is encoded, and the normalised results are averaged.

        Raises BadInputError for a word that is too long, BadBundleError when the text tower or the
        tokenizer is unusable, EngineError when it fails or gives something other than numbers.
        """
        keys = [canonical_word(word) for word in words]
        with self._lock:
            missing = [key for key in dict.fromkeys(keys) if key not in self._rows]
            if missing:
                self._fill(missing)
            if not keys:
                return np.empty((0, self.text_width), dtype=np.float32)
            return np.stack([self._rows[key] for key in keys])

    def save_vocabulary(self, path: str | os.PathLike[str], words: Sequence[str]) -> Path:
        """Encode `words`, write them to a vocabulary file, and return its path.

        Such a file can be made on a laptop and read on a robot by `load_vocabulary`, which then
        never loads the text tower for these words.
        """
        return save_vocabulary(path, words, self.encode(words), self._identity())

    def load_vocabulary(self, path: str | os.PathLike[str]) -> tuple[str, ...]:
        """Take over the embeddings of a file written by `save_vocabulary` and return its words.

        Raises BadInputError when it was made with another text tower or other templates, and as
        `read_vocabulary_file`.
        """
        content = read_vocabulary_file(path)
        for field, expected in self._identity().items():
            found = content.metadata.get(field)
            if found != expected:
                raise BadInputError(
                    f"vocabulary file {os.fspath(path)!r} has {field} {found!r}, this bundle "
                    f"{expected!r}; make the file again with this bundle"
                )
        with self._lock:
            for word, row in zip(content.words, content.embeddings, strict=True):
                self._rows[canonical_word(word)] = row
        return content.words

    def _identity(self) -> dict[str, str]:
        return {
            "text_tower_sha256": self._model_sha256,
            "templates": "\n".join(self._templates),
            "text_width": str(self.text_width),
        }

    def _fill(self, words: list[str]) -> None:
        """Put the embeddings of new canonical `words` into memory, from disk or the tower."""
        keys = {word: CacheKey(self._model_sha256, self._templates, word) for word in words}
        if self._cache is not None:
            self._rows.update(self._cache.load_many(list(keys.values()), self.text_width))
        words = [word for word in words if word not in self._rows]
        if not words:
            return
        for word, row in zip(words, self._embed(words), strict=True):
            self._rows[word] = row
            if self._cache is not None:
                self._cache.store(keys[word], row)

    def _embed(self, words: list[str]) -> Rows:
        """Return float32 [N, D] from the text tower, rows of length 1."""
        tokenizer = Tokenizer(self._tokenizer_source, self._context_length)
        # Word by word and before the tower is loaded: an error names the word, and comes at once.
        tokens = np.concatenate([self._tokens(tokenizer, word) for word in words])
        session = _open_tower(self._model_source)
        batches = [tokens[i : i + BATCH] for i in range(0, len(tokens), BATCH)]
        rows = np.concatenate([self._run(session, batch) for batch in batches])
        prompts = _normalised(rows.astype(np.float64), "prompt", self._prompts(words))
        means = prompts.reshape(len(words), len(self._templates), -1).mean(axis=1)
        return _normalised(means, "word", words).astype(np.float32)

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

    def _run(self, session: InferenceSession, tokens: npt.NDArray[np.int64]) -> Rows:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        try:
            (rows,) = session.run(["embedding"], {"tokens": tokens})
        except (state.Fail, state.InvalidArgument, state.RuntimeException) as error:
            raise EngineError(f"the text tower failed: {error}") from error
        expected = (len(tokens), self.text_width)
        if rows.dtype != np.float32 or rows.shape != expected:
            raise EngineError(
                f"the text tower gave {rows.dtype} {list(rows.shape)}, not float32 "
                f"{list(expected)}; export the bundle again"
            )
        result: Rows = rows
        return result


def _open_tower(source: Source) -> InferenceSession:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    name = "text_encoder.onnx"
    if not isinstance(source, bytes):
        source = os.fspath(source)
        if not os.path.isfile(source):
            raise BadBundleError(f"{name} is missing at {source!r}; export the bundle again")
    try:
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    except (state.Fail, state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument,
            state.NoSuchFile, state.NoModel, state.NotImplemented,
            state.RuntimeException) as error:  # fmt: skip
        raise BadBundleError(f"{name} cannot be loaded: {error}") from error
    inputs = [tensor.name for tensor in session.get_inputs()]
    outputs = [tensor.name for tensor in session.get_outputs()]
    if inputs != ["tokens"] or "embedding" not in outputs:
        raise BadBundleError(
            f"{name} has inputs {inputs} and outputs {outputs}, not ['tokens'] and ['embedding']; "
            f"export the bundle again"
        )
    return session


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
