"""Rows of learned words in the state file: what a word means by example must outlive a restart, too."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dedos_deploy.fields import FieldError
from dedos_deploy.runtime.learned_words import EXAMPLES, examples_behind, learned_rows
from dedos_deploy.vocabulary import Vocabulary
from dedos_deploy.vocabulary_file import NORM_TOLERANCE
from dedos_deploy.words_file import TunedRows


@dataclass(frozen=True)
class KeptWord:
    """What was learned of a word."""

    row: str
    """float32 [D], little-endian, in base64."""

    how: dict[str, Any]
    """Examples, margin and so on."""


@dataclass(frozen=True)
class KeptRows:
    """Those of the learned words of a camera."""

    model_sha256: str | None
    words: dict[str, KeptWord]


def kept_rows(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Return the rows of a vocabulary's learned words as JSON values, None where there are none."""
    how = examples_behind(vocabulary)
    if vocabulary.tuned is None or not how:
        return None
    words = {
        word: {"row": base64.b64encode(row.astype("<f4").tobytes()).decode(), "how": how[word]}
        for word, row in learned_rows(vocabulary).items()
    }
    return {"model_sha256": vocabulary.tuned.model_sha256, "words": words}


def rows_of_kept(kept: KeptRows, file: str, path: str) -> TunedRows:
    """Return what `kept_rows` made. file: where it is from; path: of the field, for messages.

    Raises FieldError for what are no rows.
    """
    rows = [_row(word.row, f"{path}.words.{name}.row") for name, word in kept.words.items()]
    if not rows or len({len(row) for row in rows}) > 1:
        raise FieldError(f"{path}.words has no rows of one length")
    how: Mapping[str, Any] = {name: word.how for name, word in kept.words.items()}
    return TunedRows(
        file,
        kept.model_sha256,
        tuple(kept.words),
        np.stack(rows),
        tuning={EXAMPLES: how},
        advice="name another file for --state, or move this one away and show the words anew",
    )


def _row(text: str, path: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    try:
        row = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except ValueError as error:  # also of bytes that are no whole numbers
        raise FieldError(f"{path} is no row of numbers") from error
    # Written so that NaN counts as wrong.
    if not abs(float(np.linalg.norm(row)) - 1.0) <= NORM_TOLERANCE:
        raise FieldError(f"{path} has not length 1")
    return row
