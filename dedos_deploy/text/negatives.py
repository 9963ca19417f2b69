"""Negatives: base vocabulary words that compete for what the user did not name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dedos_deploy.vocabulary import canonical_word
from dedos_deploy.vocabulary_file import Rows

CLOSE_DEVIATIONS = 4.0
"""How many standard deviations above the usual a similarity must be for two words to be close.

Measured with a sentence encoder on 50 street and indoor words, with and without a template:
synonyms (automobile and car, street and road) lie 4.7 to 6 above, siblings (car and truck) 3.2 to
3.9, which a user who names only one of them wants kept apart.
"""

FALLBACK_SIMILARITY = 0.85
"""Cosine of close words for a base vocabulary of under 8 words, too few for statistics."""


def negatives(
    user: Rows,
    base_words: Sequence[str],
    base: Rows,
    *,
    limit: int,
    user_words: Sequence[str] = (),
    similarity: float | None = None,
) -> list[int]:
    """Return the indices of at most `limit` base words to use as negatives, in base order.

    user: float32 [N, D], embeddings of the user's words; base: float32 [M, D], of `base_words`;
    all rows of length 1. A base word is left out if it equals one of `user_words`, or if its
    cosine with any user embedding is `similarity` or more (default: `close_similarity(base)`).

    >>> rows = np.eye(3, dtype=np.float32)
    >>> negatives(rows[:1], ["car", "road", "sky"], rows, limit=8)
    [1, 2]
    """
    if similarity is None:
        similarity = close_similarity(base)
    taken = {canonical_word(word) for word in user_words}
    if len(user):
        close = (base @ user.T).max(axis=1) >= similarity
    else:
        close = np.zeros(len(base), dtype=bool)
    free = (
        index
        for index, word in enumerate(base_words)
        if not close[index] and canonical_word(word) not in taken
    )
    return [index for index, _ in zip(free, range(max(limit, 0)), strict=False)]


def close_similarity(base: Rows) -> float:
    """Return the cosine from which two words count as close, among embeddings float32 [M, D].

    It is relative to the usual similarity of different base words, since text towers differ: 0.3
    is usual in one, 0.8 in another.
    """
    count = len(base)
    if count < 8:
        return FALLBACK_SIMILARITY
    others = (base @ base.T)[~np.eye(count, dtype=bool)]
    # Never so high that a word with the same embedding, up to rounding, would be kept.
    return float(min(others.mean() + CLOSE_DEVIATIONS * others.std(), 0.999))
