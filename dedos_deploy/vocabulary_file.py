"""Vocabulary files: words with their text embeddings in one small safetensors file.

Layout: the tensor `embeddings`, float32 [N, D], and string metadata: `format`, `version`,
`words` (a JSON list of N strings), `sha256` of that list's and the tensor's bytes, and what the
writer adds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadBundleError, BadInputError, shown
from dedos_deploy.files import read_regular, write_atomically
from dedos_deploy.format_version import check_not_newer
from dedos_deploy.safetensors_metadata import is_version, metadata_of

FORMAT = "dedos-vocabulary"
VERSION = 1

NORM_TOLERANCE = 1e-3
"""How far the length of an embedding may be from 1; float16 rounding stays below it."""

_OWN_KEYS = ("format", "version", "words", "sha256")

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class VocabularyFile:
    """The content of a vocabulary file."""

    words: tuple[str, ...]
    """N distinct words."""

    embeddings: Rows
    """float32 [N, D], rows of length 1."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the writer added, such as the hash of the text tower."""


def save_vocabulary(
    path: str | os.PathLike[str],
    words: Sequence[str],
    embeddings: Rows,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write N words and their embeddings, float32 [N, D] with rows of length 1, and return the path.

    The file appears whole or not at all; an existing one is replaced.

    Raises BadInputError when words and rows do not fit together or the file cannot be written.
    """
    from safetensors.numpy import save

    path = Path(path)
    content = VocabularyFile(tuple(words), np.ascontiguousarray(embeddings), dict(metadata or {}))
    problem = _problem(content)
    if problem is not None:
        raise BadInputError(f"vocabulary {path.name} cannot be written: {problem}")
    reserved = [key for key in content.metadata if key in _OWN_KEYS]
    if reserved:
        raise BadInputError(f"metadata key {reserved[0]!r} is the format's own; use another name")
    listed = json.dumps(content.words)
    own = {
        "format": FORMAT,
        "version": str(VERSION),
        "words": listed,
        "sha256": _digest(listed, content.embeddings),
    }
    data = save({"embeddings": content.embeddings}, metadata={**content.metadata, **own})
    try:
        write_atomically(path, data)
    except OSError as error:
        raise BadInputError(f"vocabulary {str(path)!r} cannot be written: {error}") from error
    return path


def load_vocabulary(source: str | os.PathLike[str] | bytes) -> tuple[tuple[str, ...], Rows]:
    """Return the words and the embeddings, float32 [N, D], of a vocabulary file or its bytes.

    Raises as `read_vocabulary_file`.
    """
    content = read_vocabulary_file(source)
    return content.words, content.embeddings


def read_vocabulary_file(source: str | os.PathLike[str] | bytes) -> VocabularyFile:
    """Return the checked content of a vocabulary file or its bytes.

    Raises BadInputError when the file cannot be read, BadBundleError naming the field when it is
    damaged, and UnsupportedVersionError when it was written by a newer version.
    """
    from safetensors.numpy import load

    if isinstance(source, bytes):
        name, data = "vocabulary", source
    else:
        name = f"vocabulary file {os.fspath(source)!r}"
        try:
            data = read_regular(source)
        except OSError as error:
            reason = error.strerror or error
            raise BadInputError(f"{name} cannot be read: {reason}; check the path") from error
    with foreign(lambda why: BadBundleError(f"{name} is damaged ({why}); make it again")):
        tensors = load(data)
    metadata = _metadata(data, name)
    if set(tensors) != {"embeddings"}:
        found = [one[:80] for one in sorted(tensors)[:20]]
        raise BadBundleError(f"{name} holds the tensors {found}, not ['embeddings']")
    extra = {key: value for key, value in metadata.items() if key not in _OWN_KEYS}
    content = VocabularyFile(_words(metadata, name), tensors["embeddings"], extra)
    problem = _problem(content)
    if problem is None and metadata.get("sha256") != _digest(metadata["words"], content.embeddings):
        problem = "its content does not match its sha256"
    if problem is not None:
        raise BadBundleError(f"{name} is damaged ({problem}); make it again")
    return content


def _metadata(data: bytes, name: str) -> dict[str, str]:
    metadata = metadata_of(data)
    if metadata.get("format") != FORMAT:
        raise BadBundleError(f"{name} has no format {FORMAT!r}; it is not a vocabulary file")
    version = metadata.get("version", "")
    if not is_version(version):
        raise BadBundleError(f"{name} has the version {shown(version)}, which is not a number")
    check_not_newer(int(version), VERSION, what=f"{name}: its version")
    return metadata


def _words(metadata: dict[str, str], name: str) -> tuple[str, ...]:
    try:
        words = json.loads(metadata.get("words", ""))
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadBundleError(f"{name} has no readable list of words; make it again")
    return tuple(words)


def _problem(content: VocabularyFile) -> str | None:
    """Say what is wrong with the words and rows, or None."""
    words, rows = content.words, content.embeddings
    if rows.dtype != np.float32 or rows.ndim != 2:
        return f"embeddings are {rows.dtype} {shown(list(rows.shape))}, not float32 [N, D]"
    if not words or len(words) != len(rows):
        return f"{len(words)} words for {len(rows)} embeddings"
    if len(set(words)) != len(words):
        (double, _), *_ = Counter(words).most_common(1)
        return f"the word {shown(double)} occurs twice"
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(rows, axis=1)
    # Written so that NaN counts as wrong.
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= NORM_TOLERANCE))
    if len(wrong):
        return f"the embedding of {shown(words[wrong[0]])} has length {lengths[wrong[0]]:g}, not 1"
    return None


def _digest(listed_words: str, rows: Rows) -> str:
    return hashlib.sha256(listed_words.encode() + rows.tobytes()).hexdigest()
