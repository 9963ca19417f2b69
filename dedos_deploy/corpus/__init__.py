"""Corpora: very many pictures labelled into a data set, and that data set read again."""

from dedos_deploy.corpus.dataset import Corpus, open_corpus
from dedos_deploy.corpus.records import CorpusClass, CorpusInfo, LabelledFrame

__all__ = ["Corpus", "CorpusClass", "CorpusInfo", "LabelledFrame", "open_corpus"]
