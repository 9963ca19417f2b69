"""Text embeddings on disk: one SQLite file of bounded size, shared by all processes of a user."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from dedos_deploy.user_cache import CACHE_VARIABLE, cache_root, private_folder

if TYPE_CHECKING:
    import sqlite3

MOST_BYTES = 64 << 20
"""Size that the rows of all bundles may have together; the least recently used go first."""

LOCK_WAIT_S = 2.0
"""How long to wait for another process that writes; afterwards a word is encoded again."""

_LOG = logging.getLogger(__name__)

# Part of every key: a change in how prompts are cleaned or averaged makes old rows useless.
_KEY_DOMAIN = "dedos text row 2"
_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows
    (key BLOB PRIMARY KEY, used INTEGER NOT NULL, value BLOB NOT NULL, sha256 BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON rows (used);
"""

# Closing a descriptor of a file gives up the locks that SQLite holds on it elsewhere in the process.
_CREATING = threading.Lock()

Row = npt.NDArray[np.float32]
T = TypeVar("T")


def default_cache_folder() -> Path:
    """Return the folder of cached embeddings, in the user's cache."""
    return cache_root() / "text"


@dataclass(frozen=True)
class CacheKey:
    """What decides an embedding."""

    tower_sha256: str
    tokenizer_sha256: str
    """Hash of the tokenizer's file."""

    context_length: int
    """L, tokens in a row."""

    text_width: int
    """D, width of an embedding."""

    templates: tuple[str, ...]
    """Prompt templates in their order."""

    word: str
    """The word in its canonical form."""

    def digest(self) -> bytes:
        """Return 32 bytes that differ whenever any part differs."""
        numbers = f"{self.context_length} {self.text_width}"
        parts = (_KEY_DOMAIN, self.tower_sha256, self.tokenizer_sha256, numbers)
        digest = hashlib.sha256()
        for part in (*parts, *self.templates, self.word):
            data = part.encode("utf-8", "surrogatepass")
            # The length keeps ("ab", "c") apart from ("a", "bc").
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.digest()


class EmbeddingCache:
    """Text embeddings in `folder`, which any number of threads and processes may use at once.

    They lie in one file, `rows.db`, of at most about `most_bytes`; what was not used for longest
    makes room. The folder is this user's alone (0700), so is the file (0600); neither is followed
    through a link. Every row carries the sha256 of its key and value. One that is damaged counts as
    missing, a damaged file is replaced. Whatever is wrong with the folder, the file, or with Python's
    sqlite3 is reported once and costs only time: words are then encoded again.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, most_bytes: int = MOST_BYTES
    ) -> None:
        self.folder = default_cache_folder() if folder is None else Path(folder)
        self.path = self.folder / "rows.db"
        self._most_bytes = most_bytes
        self._warned: set[str] = set()

    def load(self, keys: Sequence[CacheKey]) -> dict[str, Row]:
        """Return word → embedding, float32 [D], for those of `keys` that are there and whole."""
        if not keys or not os.path.lexists(self.path):
            return {}
        return self._attempt("read", lambda rows: self._load(rows, keys)) or {}

    def store(self, rows: Mapping[CacheKey, Row]) -> bool:
        """Keep rows, float32 [D], and return whether that worked; a failure is a warning."""
        return bool(self._attempt("written", lambda file: self._store(file, rows), create=True))

    def _load(self, rows: sqlite3.Connection, keys: Sequence[CacheKey]) -> dict[str, Row]:
        found: dict[str, Row] = {}
        used = []
        for key in keys:
            digest = key.digest()
            query = "SELECT value, sha256 FROM rows WHERE key = ?"
            kept = rows.execute(query, (digest,)).fetchone()
            row = None if kept is None else _unpacked(kept, digest, key.text_width)
            if row is not None:
                found[key.word] = row
                used.append((time.time_ns(), digest))
            elif kept is not None:
                _LOG.warning(
                    "cached text embedding of %r in %s is damaged; encoding it again",
                    key.word,
                    self.path,
                )
        self._touch(rows, used)
        return found

    def _touch(self, rows: sqlite3.Connection, used: list[tuple[int, bytes]]) -> None:
        """Note what was used; a file that can only be read still serves."""
        from sqlite3 import OperationalError

        try:
            with rows:
                rows.executemany("UPDATE rows SET used = ? WHERE key = ?", used)
        except OperationalError as error:
            if self._is_damaged(error):
                raise
            self._warn_once("written", error)

    def _store(self, file: sqlite3.Connection, rows: Mapping[CacheKey, Row]) -> bool:
        now = time.time_ns()
        with file:
            for key, row in rows.items():
                digest, value = key.digest(), row.astype("<f4").tobytes()
                values = (digest, now, value, _checksum(digest, value))
                file.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", values)
            while _used_bytes(file) > self._most_bytes:
                # Several at once: to make room for one row each time would sort all of them.
                (count,) = file.execute("SELECT count(*) FROM rows").fetchone()
                oldest = "SELECT key FROM rows ORDER BY used LIMIT ?"
                gone = file.execute(f"DELETE FROM rows WHERE key IN ({oldest})", (1 + count // 8,))
                if not gone.rowcount:
                    break
        return True

    def _attempt(
        self, action: str, work: Callable[[sqlite3.Connection], T], *, create: bool = False
    ) -> T | None:
        """Return what `work` makes of the open file, or None after a warning."""
        try:
            import sqlite3
        except ImportError as error:
            self._warn_once("used", error)
            return None
        for attempt in range(2):
            try:
                _check_private(self.folder, self.path, create=create)
                # A connection per call: none has to survive a fork or change its thread.
                with closing(_connected(self.path)) as connection:
                    return work(connection)
            except OSError as error:
                # Missing: another process has just replaced a damaged file, or this one has.
                if create or not isinstance(error, FileNotFoundError):
                    self._warn_once(action, error)
                return None
            except sqlite3.DatabaseError as error:
                if attempt or not self._is_damaged(error):
                    self._warn_once(action, error)
                    return None
                self._remove(error)
        return None

    def _is_damaged(self, error: sqlite3.DatabaseError) -> bool:
        """Tell a file with wrong content from one that is locked, full, or not to be written."""
        from sqlite3 import OperationalError

        if not isinstance(error, OperationalError):
            return True
        # A wrong byte of the header, too, makes SQLite take the file for one that is only read.
        may_write = os.access(self.path, os.W_OK) and os.access(self.folder, os.W_OK)
        readonly = may_write and "readonly" in str(error)
        return readonly or re.match("no such (table|column)|table rows has", str(error)) is not None

    def _remove(self, error: Exception) -> None:
        _LOG.warning("text embeddings in %s are damaged (%s); beginning anew", self.path, error)
        for path in (f"{self.path}-journal", self.path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as problem:
                self._warn_once("written", problem)

    def _warn_once(self, action: str, error: Exception) -> None:
        if action not in self._warned:
            self._warned.add(action)
            _LOG.warning(
                "text embeddings in %s cannot be %s (%s); words are encoded again at every start, "
                "free or change the folder with %s",
                self.folder,
                action,
                getattr(error, "strerror", None) or error,
                CACHE_VARIABLE,
            )


def _connected(path: Path) -> sqlite3.Connection:
    import sqlite3

    # A rollback journal and not a write-ahead log, which network and read-only folders cannot have.
    address = f"file:{quote(str(path.absolute()))}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=LOCK_WAIT_S)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
        elif version != _SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"version {version}, not {_SCHEMA_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def _used_bytes(file: sqlite3.Connection) -> int:
    """Return the size of the pages that hold something; others are used before the file grows."""
    size, all_pages, free = (
        file.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "page_count", "freelist_count")
    )
    return int(size * (all_pages - free))


def _checksum(digest: bytes, value: bytes) -> bytes:
    return hashlib.sha256(digest + value).digest()


def _unpacked(kept: tuple[object, object], digest: bytes, width: int) -> Row | None:
    value, checksum = kept
    if not isinstance(value, bytes) or checksum != _checksum(digest, value):
        return None
    return np.frombuffer(value, dtype="<f4").astype(np.float32) if len(value) == 4 * width else None


def _check_private(folder: Path, path: Path, *, create: bool) -> None:
    """See to it that both are this user's alone and no links. Raises OSError."""
    private_folder(folder)
    with _CREATING:
        if create and not os.path.lexists(path):
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            _remove_single_files(folder)
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EACCES, f"{path.name} is not a regular file")
    if not hasattr(os, "geteuid"):  # Windows: the user's own folder is private there.
        return
    if found.st_uid != os.geteuid():
        raise OSError(errno.EACCES, f"{path.name} belongs to another user")
    if found.st_mode & 0o077:
        os.chmod(path, 0o600)


def _remove_single_files(folder: Path) -> None:
    """Remove the file per word of earlier versions, whose rows no longer count."""
    for part in os.scandir(folder):
        if re.fullmatch("[0-9a-f]{2}", part.name) and part.is_dir(follow_symlinks=False):
            for file in os.scandir(part.path):
                if re.fullmatch(r"[0-9a-f]{62}\.emb", file.name):
                    os.unlink(file.path)
            with suppress(OSError):  # Something else lies in it.
                os.rmdir(part.path)
