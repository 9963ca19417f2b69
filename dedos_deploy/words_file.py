"""Words files: words whose embeddings were tuned on one model, as vocabulary files that say which.

Beside what every vocabulary file has, the metadata holds `model_sha256`, the hash of the checkpoint;
`entries`, a JSON list of the entries as `parse_vocabulary` takes them; and `tuning`, a JSON object that
says on what and how they were tuned. The hash is that of the file from which bundles of any precision
and size are exported, whose manifests name it, so that one words file serves all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedos_deploy.errors import BadBundleError, BadInputError

if TYPE_CHECKING:
    from dedos_deploy.vocabulary_file import Rows

_SHOWN = 12
"""Letters of a hash that tell models apart in a message."""


@dataclass(frozen=True, eq=False)
class TunedRows:
    """Embeddings that words have on one model instead of those of its text tower."""

    file: str
    """Where they are from, for messages."""

    model_sha256: str | None
    """Hash of the checkpoint that they were tuned on, None for rows that were learned on a model of which
    it is not known."""

    words: tuple[str, ...]
    """N words."""

    embeddings: Rows
    """float32 [N, D], rows of length 1."""

    entries: tuple[str, ...] = ()
    """Entries with their thresholds, as `parse_vocabulary` takes them."""

    tuning: Mapping[str, Any] = field(default_factory=dict)
    """On what and how: JSON values."""

    advice: str = (
        "tune the words on this one with dedos-train tune-words, or name them without the file"
    )
    """What to do where the model is another one."""

    @property
    def sha256(self) -> str:
        """Hash of words and rows."""
        listed = json.dumps([self.model_sha256, *self.words]).encode()
        return hashlib.sha256(listed + self.embeddings.tobytes()).hexdigest()

    def check_model(self, model_sha256: str | None, text_width: int) -> None:
        """Raise BadInputError unless these rows were tuned on the model with this hash.

        model_sha256: None for a model of which it is not known.
        """
        if self.model_sha256 == model_sha256 and self.embeddings.shape[1] == text_width:
            return
        own, this = (
            "an unknown one" if one is None else one[:_SHOWN]
            for one in (self.model_sha256, model_sha256)
        )
        raise BadInputError(
            f"words file {self.file!r} was tuned on another model (checkpoint {own}, not {this}); "
            f"{self.advice}"
        )


def is_words_file(content: bytes) -> bool:
    """Return whether a class file is no text but holds rows: safetensors begin with a length, whose
    eight bytes are never all letters."""
    return b"\0" in content[:8]


def read_words_file(path: str | os.PathLike[str], content: bytes) -> TunedRows:
    """Return what is in a words file; content: its bytes.

    Raises BadInputError for one that is cut off, damaged, of a newer version, or another kind of file.
    """
    from dedos_deploy.vocabulary_file import read_vocabulary_file

    name = f"words file {os.fspath(path)!r}"
    try:
        found = read_vocabulary_file(content)
    except BadBundleError as error:
        raise BadInputError(f"{name} cannot be used: {error}") from error
    said = found.metadata
    if "model_sha256" not in said:
        raise BadInputError(
            f"{name} has words without the model that they were tuned on; give a file of "
            "dedos-train tune-words"
        )
    entries, tuning = (_parsed(said.get(key, "")) for key in ("entries", "tuning"))
    texts = isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)
    if not (texts and entries and isinstance(tuning, dict)):
        raise BadInputError(f"{name} has no readable list of entries; tune the words again")
    return TunedRows(
        os.fspath(path),
        said["model_sha256"],
        found.words,
        found.embeddings,
        tuple(entries),
        tuning,
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def save_words_file(
    path: str | os.PathLike[str],
    *,
    entries: Sequence[str],
    words: Sequence[str],
    embeddings: Rows,
    model_sha256: str,
    tuning: Mapping[str, Any],
) -> Path:
    """Write a words file, whole or not at all, and return its path.

    entries: as `Entry.spelled`; words: N, all those of the entries; embeddings: float32 [N, D], rows of
    length 1; tuning: JSON values.

    Raises BadInputError when these do not fit together or the file cannot be written.
    """
    from dedos_deploy.vocabulary_file import save_vocabulary

    said = {
        "model_sha256": model_sha256,
        "entries": json.dumps(list(entries), ensure_ascii=False),
        "tuning": json.dumps(dict(tuning), ensure_ascii=False, allow_nan=False),
    }
    return save_vocabulary(path, words, embeddings, said)
