"""Text embeddings of words, by the model's own text tower."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.model.dedos import Dedos
from dedos_deploy.model.heads import DenseClip
from dedos_deploy.text.templates import TEMPLATES
from dedos_deploy.text.tokenizer import Tokenizer, write_tokenizer_json

_LOG = logging.getLogger(__name__)

WordModel = Dedos | DenseClip
"""What has a text tower of CLIP's kind."""

ALIKE = 0.98
"""Cosine above which two words can hardly be told apart by any head."""


class WordEmbeddings:
    """Embeddings of a fixed list of words, float32 [K, D] unit rows for the slots of a batch.

    A frozen text tower is run once; one that trains is run for every batch.
    """

    def __init__(
        self, model: WordModel, words: Sequence[str], *, template: str, tuned: bool
    ) -> None:
        tokenizer = clip_tokenizer(model.config.clip.text.context_length)
        prompts = TEMPLATES[template]
        rows = [tokenizer.encode([prompt.format(word) for prompt in prompts]) for word in words]
        device = next(model.parameters()).device
        self._tokens = torch.stack([torch.from_numpy(row) for row in rows]).to(device)
        self._model = model
        self._cached: Tensor | None = None
        with torch.no_grad():
            frozen = encode(model, self._tokens)
        warn_alike(frozen, words)
        if not tuned:
            self._cached = frozen

    def __call__(self, slots: Sequence[int], *, model: WordModel | None = None) -> Tensor:
        """Return float32 [K, D] for indices into the word list; model: another set of weights."""
        chosen = torch.as_tensor(slots, device=self._tokens.device)
        if self._cached is not None:
            return self._cached[chosen]
        return encode(model or self._model, self._tokens[chosen])


def encode(model: WordModel, tokens: Tensor) -> Tensor:
    """Return float32 [N, D]: over templates T of tokens int64 [N, T, L], the mean unit vector."""
    words, prompts, _ = tokens.shape
    each = F.normalize(model.encode_text(tokens.flatten(0, 1)).float(), dim=-1)
    return F.normalize(each.reshape(words, prompts, -1).mean(1), dim=-1)


@lru_cache(maxsize=2)
def clip_tokenizer(context_length: int) -> Tokenizer:
    """Return CLIP's tokenizer, taken from the installed open_clip.

    Raises MissingExtraError without open_clip.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = write_tokenizer_json(Path(folder) / "tokenizer.json", context_length)
        return Tokenizer(path.read_bytes(), context_length)


def warn_alike(embeddings: Tensor, words: Sequence[str]) -> None:
    """Log a warning that names the two most similar words if nothing could tell them apart."""
    cosine = embeddings @ embeddings.T - 2 * torch.eye(len(words), device=embeddings.device)
    if len(words) > 1 and float(cosine.max()) > ALIKE:
        first, second = divmod(int(cosine.argmax()), len(words))
        _LOG.warning(
            "the text tower gives %r and %r the cosine %.3f, so masks of one will be called the "
            "other: start from a checkpoint with trained words (--init), or train the text tower "
            "too (--tune-text)",
            words[first],
            words[second],
            float(cosine.max()),
        )
