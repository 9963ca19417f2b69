"""Files that appear whole or not at all, and errors that name them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from dedos_deploy.errors import SinkError


def temporary_name(path: Path) -> Path:
    """Return a new hidden name beside `path` with the same suffix."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a SinkError that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise SinkError(
            f"output {str(path)!r} cannot be written ({error.strerror or error}); check the "
            "folder, its permissions and the free space"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody sees it half written. Raises SinkError."""
    temporary = temporary_name(path)
    with writing(path):
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def reserve_file(path: Path, *, overwrite: bool) -> Path:
    """Return an empty temporary file beside `path`, which proves that it can be written.

    Raises SinkError when it cannot, or when `path` exists and `overwrite` is False.
    """
    if path.is_dir():
        raise SinkError(f"output {str(path)!r} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise SinkError(
            f"output {str(path)!r} exists; allow it to be replaced with --overwrite "
            "(overwrite=True), or choose another name"
        )
    temporary = temporary_name(path)
    with writing(path):
        temporary.touch()
    return temporary


def open_growing(path: Path, *, overwrite: bool, mode: Literal["w", "wb"]) -> IO[Any]:
    """Return the new file `path`, open for writing; text is UTF-8 and flushed line by line.

    Raises SinkError as reserve_file does.
    """
    reserve_file(path, overwrite=overwrite).unlink()
    with writing(path):
        if mode == "w":
            return path.open(mode, buffering=1, encoding="utf-8")
        return path.open(mode)


def reserve_folder(path: Path, *, overwrite: bool) -> None:
    """Create the folder `path`, whose parent must exist, and prove that files fit in.

    Raises SinkError when it cannot be written, or holds files and `overwrite` is False.
    """
    if path.exists() and not path.is_dir():
        raise SinkError(f"output folder {str(path)!r} is a file; choose another name")
    with writing(path):
        path.mkdir(exist_ok=True)
        if any(path.iterdir()) and not overwrite:
            raise SinkError(
                f"output folder {str(path)!r} is not empty; allow files in it to be replaced with "
                "--overwrite (overwrite=True), or choose another name"
            )
        probe = temporary_name(path / "probe")
        probe.touch()
        probe.unlink()
