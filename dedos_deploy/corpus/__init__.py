"""Corpora: very many pictures labelled into a data set, and that data set read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedos_deploy.lazy import lazy_names

if TYPE_CHECKING:
    from dedos_deploy.corpus.dataset import Corpus, open_corpus
    from dedos_deploy.corpus.records import CorpusClass, CorpusInfo, LabelledFrame

__all__ = ["Corpus", "CorpusClass", "CorpusInfo", "LabelledFrame", "open_corpus"]

# The options of formats are needed by --help, which must not import numpy.
__getattr__ = lazy_names(
    __name__,
    {"dataset": "Corpus open_corpus", "records": "CorpusClass CorpusInfo LabelledFrame"},
)
