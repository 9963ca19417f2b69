"""Text without torch: tokens, prompt templates, embeddings, their cache and vocabulary files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedos_deploy.lazy import lazy_names
from dedos_deploy.text.templates import TEMPLATES

if TYPE_CHECKING:
    from dedos_deploy.text.cache import CacheKey, EmbeddingCache, default_cache_folder
    from dedos_deploy.text.encoder import TextEncoder
    from dedos_deploy.text.tokenizer import Tokenizer, write_tokenizer_json
    from dedos_deploy.text.tower import TowerFiles
    from dedos_deploy.vocabulary_file import (
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

# The templates are needed by --help, which must not import numpy.
__getattr__ = lazy_names(
    __name__,
    {
        "cache": "CacheKey EmbeddingCache default_cache_folder",
        "encoder": "TextEncoder",
        "tokenizer": "Tokenizer write_tokenizer_json",
        "tower": "TowerFiles",
        ".vocabulary_file": "VocabularyFile load_vocabulary read_vocabulary_file save_vocabulary",
    },
)
