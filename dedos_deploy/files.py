"""Files written whole or not at all, known by their hash, and opened only where they are files."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Absent on Windows, where these kinds of files are absent, too.
_OPEN_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path` and rename it there, so that readers see all of it or nothing.

    Raises OSError, and leaves no temporary file behind.
    """
    # Not tempfile.mkstemp: its files can be read by their owner alone, whatever the umask.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            stream.write(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError unless `path`, links followed, is a regular file; for what a library opens itself.

    Reading a named pipe or a device waits forever or never ends, and opening one may act on it.
    """
    _refuse_irregular(os.stat(path), path)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Return a regular file opened for reading; never waits for the other end of a named pipe.

    Raises OSError, whose `strerror` says in words what else `path` is.
    """
    check_regular(path)
    stream = open(path, "rb", opener=lambda name, _: os.open(name, _OPEN_FLAGS))
    try:
        # Once more: the name may have come to mean something else.
        _refuse_irregular(os.fstat(stream.fileno()), path)
    except BaseException:
        stream.close()
        raise
    return stream


def read_regular(path: str | os.PathLike[str], *, limit: int | None = None) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises OSError."""
    with open_regular(path) as stream:
        content = stream.read() if limit is None else stream.read(limit + 1)
    if limit is not None and len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", os.fspath(path))
    return content


def _refuse_irregular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))


def sha256_of(stream: BinaryIO) -> str:
    """Return the SHA-256 of all bytes from the position of `stream` to its end."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open_regular(path) as stream:
        return sha256_of(stream)
