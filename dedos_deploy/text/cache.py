"""Text embeddings on disk: one small file per word, text tower and set of templates."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dedos_deploy.files import write_atomically

CACHE_VARIABLE = "DEDOS_CACHE_DIR"

_LOG = logging.getLogger(__name__)
_MAGIC = b"DEDOSEM1"
_DIGEST_BYTES = 32

Row = npt.NDArray[np.float32]


def default_cache_folder() -> Path:
    """Return the folder of cached embeddings: $DEDOS_CACHE_DIR/text, or the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen) / "text"
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("dedos-deploy", appauthor=False)) / "text"


@dataclass(frozen=True)
class CacheKey:
    """What decides an embedding: the text tower's sha256, the templates in order, and the word."""

    tower_sha256: str
    templates: tuple[str, ...]
    word: str

    def digest(self) -> bytes:
        """Return 32 bytes that differ whenever any part differs."""
        digest = hashlib.sha256()
        for part in (self.tower_sha256, *self.templates, self.word):
            data = part.encode("utf-8", "surrogatepass")
            # The length keeps ("ab", "c") apart from ("a", "bc").
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.digest()


class EmbeddingCache:
    """Text embeddings in `folder`, which any number of processes may use at once.

    A file is the magic word, 32 bytes of the key's digest, float32 values in little-endian order,
    and the sha256 of all that. It appears whole or not at all; one that is damaged counts as
    missing, is reported, and is replaced by the next `store`. A folder that cannot be read or
    written is reported once and costs only time: words are then encoded again.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = default_cache_folder() if folder is None else Path(folder)
        self._warned: set[str] = set()

    def path(self, key: CacheKey) -> Path:
        """Return where the embedding of `key` is kept."""
        name = key.digest().hex()
        return self.folder / name[:2] / f"{name[2:]}.emb"

    def load(self, key: CacheKey, width: int) -> Row | None:
        """Return the embedding of `key`, float32 [width], or None if it is not there, or damaged."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once("read", error)
            return None
        row = _unpack(data, key)
        if row is None or row.shape != (width,):
            _LOG.warning(
                "cached text embedding of %r in %s is damaged; encoding it again", key.word, path
            )
            return None
        return row

    def store(self, key: CacheKey, row: Row) -> bool:
        """Keep `row`, float32 [D], and return whether that worked; a failure is a warning."""
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _pack(row, key))
        except OSError as error:
            self._warn_once("written", error)
            return False
        return True

    def load_many(self, keys: Sequence[CacheKey], width: int) -> dict[str, Row]:
        """Return word → embedding for those of `keys` that are there."""
        rows = ((key.word, self.load(key, width)) for key in keys)
        return {word: row for word, row in rows if row is not None}

    def _warn_once(self, action: str, error: OSError) -> None:
        if action not in self._warned:
            self._warned.add(action)
            _LOG.warning(
                "text embeddings in %s cannot be %s (%s); words are encoded again at every start, "
                "free or change the folder with %s",
                self.folder, action, error.strerror or error, CACHE_VARIABLE,
            )  # fmt: skip


def _pack(row: Row, key: CacheKey) -> bytes:
    body = _MAGIC + key.digest() + row.astype("<f4").tobytes()
    return body + hashlib.sha256(body).digest()


def _unpack(data: bytes, key: CacheKey) -> Row | None:
    body, checksum = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    head = _MAGIC + key.digest()
    if not body.startswith(head) or hashlib.sha256(body).digest() != checksum:
        return None
    values = body[len(head) :]
    if len(values) % 4:
        return None
    return np.frombuffer(values, dtype="<f4").astype(np.float32)
