"""Captions as one text token each, by the text tower of a Dedos checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EMPTY_ROW = 0
EMBEDDED_AT_ONCE = 256
_SIDES = {"left": "right", "right": "left"}


@dataclass(frozen=True, eq=False)
class Prompts:
    """Captions as rows of a table."""

    table: Tensor
    """float32 [U, 1, C], one token for each different caption; row 0 is the empty one."""

    rows: Tensor
    """int64 [N], the row of each picture."""

    @property
    def empty(self) -> Tensor:
        """The embedded empty prompt, float32 [1, 1, C]."""
        return self.table[:1]


def embed_captions(captions: Sequence[str], checkpoint: str | None, width: int) -> Prompts:
    """Return the tokens of N captions; without a checkpoint all are one token of zeros.

    The tower's unit vectors are stretched to unit deviation, the size layers expect of their
    input. width: of the token of zeros; a tower has its own.

    Raises BadInputError when `checkpoint` cannot be read.
    """
    if checkpoint is None:
        return Prompts(torch.zeros(1, 1, width), torch.zeros(len(captions), dtype=torch.int64))
    from dedos_deploy.model import load_checkpoint
    from dedos_deploy.model.word_embeddings import clip_tokenizer, encode

    model, _ = load_checkpoint(checkpoint)
    tokenizer = clip_tokenizer(model.config.clip.text.context_length)
    index = {text: row for row, text in enumerate(dict.fromkeys(["", *captions]))}
    tokens = torch.stack([torch.from_numpy(tokenizer.encode([text])) for text in index])
    with torch.no_grad():
        table = torch.cat([encode(model, part) for part in torch.split(tokens, EMBEDDED_AT_ONCE)])
    table = table * table.shape[1] ** 0.5
    return Prompts(table[:, None], torch.tensor([index[text] for text in captions]))


def mirrored(caption: str) -> str:
    """Return the caption of the mirror image.

    >>> mirrored("a car on the left, a tree on the right")
    'a car on the right, a tree on the left'
    """
    return re.sub(r"\b(left|right)\b", lambda found: _SIDES[found[0]], caption)
