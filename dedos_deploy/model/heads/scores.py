"""From patch embeddings and words to scores: a softmax over the words and constant null rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dedos_deploy.model.blocks import MASKED, normalize
from dedos_deploy.text.negatives import close_similarity


class WordLogits(nn.Module):
    """Patch embeddings [B, N, D] and text [K, D] -> logits τ·cos float32 [B, K + M, N].

    The M null rows are embeddings of words that nobody asked for; they make a list of one word, and a
    threshold, mean something. Padding and each null closer to a used word than `limit` get MASKED.
    """

    nulls: Tensor

    def __init__(self, tau: float, text_width: int) -> None:
        super().__init__()
        self.tau = tau
        self.limit = 1.0
        self.register_buffer("nulls", torch.zeros(0, text_width), persistent=False)

    def set_nulls(self, rows: Tensor) -> None:
        """Take float32 [M, D] unit rows as the null rows; M may be 0."""
        self.nulls = rows.detach().float().clone()
        self.limit = close_similarity(self.nulls.numpy())

    def forward(self, embedding: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        rows, bias = text.float(), (valid - 1) * -MASKED
        if len(self.nulls):
            bias = torch.cat([bias, self._null_bias(rows, valid)])
            rows = torch.cat([rows, self.nulls])
        cosine = rows @ normalize(embedding).transpose(1, 2)
        return cosine * self.tau + bias[:, None]

    def _null_bias(self, text: Tensor, valid: Tensor) -> Tensor:
        """Return [M]: MASKED for a null row that is as good as one of the user's words, else 0."""
        nearest = torch.where(valid > 0, self.nulls @ text.t(), -1.0).amax(1)
        return (nearest > self.limit).float() * MASKED


def word_shares(logits: Tensor, slots: int) -> Tensor:
    """Return the words' part [B, K, h, w] of the softmax over logits [B, K + M, h, w]."""
    return logits.softmax(1)[:, :slots]
