"""Files written whole or not at all, and known by their hash."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20


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


def sha256_of(stream: BinaryIO) -> str:
    """Return the SHA-256 of all bytes from the position of `stream` to its end."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return sha256_of(stream)
