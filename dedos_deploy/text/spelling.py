"""Words that a text tower takes letter by letter, since its training hardly met them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache

from dedos_deploy.text.tokenizer import Tokenizer, clean
from dedos_deploy.vocabulary import canonical_word

TOKENS_PER_LETTER = 0.3
"""From so many on a part of a word, in at least two tokens, counts as spelled out.

Measured with CLIP's tokenizer on 30 objects outside the demo bundle's vocabulary (at most 0.27, as
stethoscope) and 30 made-up words (at least 0.29; 28 of 30 are found, not trobble and snarfle). How close the
embeddings of both are to known words tells them apart worse: 84 of 100 pairs."""

_LETTERS = re.compile(r"[^\W\d_]+")
_KEPT = 4096


class Spelling:
    """Tells words that are spelled out; from any thread."""

    def __init__(self, open_tokenizer: Callable[[], Tokenizer], known: Iterable[str]) -> None:
        """open_tokenizer: called for the first word that is not known, and its tokenizer kept;
        known: words that are never spelled out, whatever their tokens."""
        self._known = {canonical_word(word) for word in known}
        self._opening = threading.Lock()
        self._open_tokenizer = open_tokenizer
        self._tokenizer: Tokenizer | None = None
        self._is_spelled_out = lru_cache(_KEPT)(self._measure)

    def spelled_out(self, words: Iterable[str]) -> list[str]:
        """Return those of `words` that the text tower may not know."""
        return [word for word in words if self._is_spelled_out(canonical_word(word))]

    def _measure(self, word: str) -> bool:
        if word in self._known:
            return False
        with self._opening:
            if self._tokenizer is None:
                self._tokenizer = self._open_tokenizer()
        parts = _LETTERS.findall(clean(word))
        counts = [self._tokenizer.count(part) for part in parts]
        return any(
            count > 1 and count >= TOKENS_PER_LETTER * len(part)
            for part, count in zip(parts, counts, strict=True)
        )
