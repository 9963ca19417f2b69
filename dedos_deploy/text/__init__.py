"""Text without torch: tokens, prompt templates, embeddings, their cache and vocabulary files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from dedos_deploy.text.templates import TEMPLATES

if TYPE_CHECKING:
    from dedos_deploy.text.cache import CacheKey, EmbeddingCache, default_cache_folder
    from dedos_deploy.text.encoder import TextEncoder
    from dedos_deploy.text.tokenizer import Tokenizer, write_tokenizer_json
    from dedos_deploy.text.tower import TowerFiles
    from dedos_deploy.text.vocabulary_file import (
        VocabularyFile,
        load_vocabulary,
        read_vocabulary_file,
        save_vocabulary,
    )

__all__ = [
    "TEMPLATES",
    "CacheKey",
    "EmbeddingCache",
    "TextEncoder",
    "Tokenizer",
    "TowerFiles",
    "VocabularyFile",
    "default_cache_folder",
    "load_vocabulary",
    "read_vocabulary_file",
    "save_vocabulary",
    "write_tokenizer_json",
]

_HOMES = {
    "CacheKey": "cache",
    "EmbeddingCache": "cache",
    "default_cache_folder": "cache",
    "TextEncoder": "encoder",
    "Tokenizer": "tokenizer",
    "write_tokenizer_json": "tokenizer",
    "TowerFiles": "tower",
    "VocabularyFile": "vocabulary_file",
    "load_vocabulary": "vocabulary_file",
    "read_vocabulary_file": "vocabulary_file",
    "save_vocabulary": "vocabulary_file",
}


def __getattr__(name: str) -> object:
    # Imported on first use: the templates are needed by --help, which must not import numpy.
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
