"""What one process holds alone: locks on files and folders, which end with it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def lock(descriptor: int) -> bool | None:
    """Lock a file or folder as long as it is open here; False: another has it; None: no locks here."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None  # some network file systems have none; nothing is swept there
    return True


def open_folder(path: Path) -> int:
    """Return a descriptor of a folder. Raises OSError."""
    # Windows opens no folders; nothing is swept or held there.
    return os.open(path if sys.platform != "win32" else os.devnull, os.O_RDONLY)


def hold_folder(path: Path) -> int:
    """Return a descriptor of a folder; no other process can hold it until that is closed.

    Raises OSError: BlockingIOError when another one holds it. Where there are no locks (Windows, some
    network file systems) all may.
    """
    descriptor = open_folder(path)
    if lock(descriptor) is False:
        os.close(descriptor)
        raise BlockingIOError(errno.EWOULDBLOCK, "another process holds it", str(path))
    return descriptor


@contextlib.contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a folder as `hold_folder` does, as long as the block lasts; yield False where another process or
    thread holds it. Raises OSError.
    """
    try:
        descriptor = hold_folder(folder)
    except BlockingIOError:
        descriptor = None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)
