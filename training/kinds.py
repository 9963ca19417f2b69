"""Words that are a kind of another: a cyclist is a person, wherever nobody asks for cyclists.

One data set labels riders apart, another calls them persons, and a user may ask for either. Some steps do not
ask for the finer word at all, and its pixels show the broader one then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, listed, nearest, shown
from dedos_deploy.label_files import class_word
from dedos_deploy.training.targets import OTHER

LEFT_OUT = 0.5
"""Part of the steps that do not ask for a kind of another word."""

Kind = tuple[str, str]
"""A word, and the one that it is a kind of."""


def parse_kind(text: str) -> Kind:
    """Return what `cyclist=person` says. Raises BadInputError for anything else.

    >>> parse_kind("cyclist=Person")
    ('cyclist', 'person')
    """
    word, _, broader = (class_word(part) for part in text.partition("="))
    if not word or not broader or word == broader or "=" in broader:
        raise BadInputError(
            f"kinds has {shown(text)}; write a word and another one that it is a kind of, as cyclist=person"
        )
    return word, broader


class Kinds:
    """The kinds among `words`, by their numbers. Raises BadInputError for one that is not among them."""

    def __init__(self, kinds: Sequence[Kind], words: Sequence[str]) -> None:
        for word in (word for kind in kinds for word in kind):
            if word not in words:
                raise BadInputError(
                    f"--kinds names {shown(word)}, which no data set labels"
                    f"{nearest(word, words) or ';'} they label {listed(words)}"
                )
        self._pairs = [(words.index(word), words.index(broader)) for word, broader in kinds]

    def leave_out(self, asked: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.bool_]:
        """Return bool [words], which of the words that a step may ask for it does not, by chance."""
        left = np.zeros_like(asked)
        for word, broader in self._pairs:
            left[word] = asked[broader] and random.random() < LEFT_OUT
        return left

    def join(
        self,
        slots: NDArray[np.int64],
        labels: NDArray[np.int64],
        slot_of: NDArray[np.int64],
        known: NDArray[np.bool_],
    ) -> None:
        """Let pixels of words that are not asked for show the broader ones that are, in place.

        slots: int64 [B, H, W], what is asked for each pixel; labels: its word; slot_of: int64 [words], of
        each word, OTHER for none; known: bool [B, words], the words that each picture's folder labels.
        """
        for word, broader in self._pairs:
            if slot_of[word] == OTHER != slot_of[broader]:
                slots[(labels == word) & known[:, broader, None, None]] = slot_of[broader]
