"""Vocabularies of one segmenter for clients that each bring words with every picture."""

from __future__ import annotations

from collections import OrderedDict

from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.segmenter_view import SegmenterView
from dedos_deploy.vocabulary import WORDS_PER_REQUEST, Vocabulary, parse_vocabulary

VIEWS_KEPT = 64
"""Vocabularies that are kept ready; the least recently asked for go first."""


class RecentViews:
    """Views by their words, none of which ever changes: whoever asks for a list of words gets ids that
    count from 0 in its order, whatever others ask for. For one thread.

    Rows of words that were encoded before are kept by the text encoder, so a view that went is cheap
    to make again.
    """

    def __init__(self, segmenter: Segmenter, *, words_s: float) -> None:
        """words_s: seconds that new words of one request may take to be encoded."""
        self._segmenter = segmenter
        self._words_s = words_s
        self._views: OrderedDict[Vocabulary, SegmenterView] = OrderedDict()

    def __len__(self) -> int:
        return len(self._views)

    def view(self, classes: str) -> SegmenterView:
        """Return the view of a list of words, at most WORDS_PER_REQUEST.

        Raises BadInputError, and UnfinishedError as `Segmenter.share`.
        """
        vocabulary = parse_vocabulary(classes, most_words=WORDS_PER_REQUEST)
        found = self._views.get(vocabulary)
        if found is None:
            found = self._segmenter.share(vocabulary, timeout_s=self._words_s)
            self._views[vocabulary] = found
        self._views.move_to_end(vocabulary)
        if len(self._views) > VIEWS_KEPT:
            self._views.popitem(last=False)
        return found
