"""The user's cache: where it is, and folders of it that nobody else can have written to, or can write to."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

CACHE_VARIABLE = "DEDOS_CACHE_DIR"

_NOWHERE = Path(os.devnull, "dedos-deploy")
# Not the folder of temporary files: what is kept there under a known name anybody may make first.
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FOLDER = 0o700
_FILE = 0o600
_OWNERS = hasattr(os, "geteuid")
"""Whether files have owners and modes in POSIX's sense; on Windows a user's cache is his by its ACL."""


def cache_root() -> Path:
    """Return the folder that caches live in: $DEDOS_CACHE_DIR, else the platform's own.

    Where no home is known it is one that cannot be made, so that nothing is kept.
    """
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured)
    import platformdirs

    try:
        found = Path(platformdirs.user_cache_dir("dedos-deploy", appauthor=False))
    except RuntimeError:
        found = Path("~")  # as its older versions say that no home is known
    return found if found.is_absolute() else _NOWHERE


def private_folder(path: Path) -> None:
    """Make `path` a folder of this user's own, its parents if need be. Raises OSError if it is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=_FOLDER)
    except FileExistsError:
        # Made by an earlier release, or under a careless umask: ours, but open to others until now.
        if _OWNERS and _problem(path, folder=True) == _OPEN:
            path.chmod(_FOLDER)
    problem = _problem(path, folder=True)
    if problem is not None:
        raise OSError(errno.EACCES, problem, str(path))


def private_problem(folder: Path) -> str | None:
    """Return why a folder of the cache, or anything in it, may be somebody else's work, or None.

    Links are not followed: neither the folder, nor the one it lies in, nor what it holds may be one.
    Once this was None, only this user can change what is there.
    """
    try:
        for path, is_folder in _tree(folder):
            problem = _problem(path, folder=is_folder)
            if problem is not None:
                return f"{str(path)!r}: {problem}"
    except OSError as error:
        return f"{str(folder)!r} cannot be looked at ({error.strerror})"
    return None


def _tree(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield what must be private and whether it must be a folder, from the outside in."""
    yield folder.parent, True
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        yield path, True
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            else:
                yield Path(entry.path), False


def write_private(folder: Path, name: str) -> int:
    """Return a descriptor of the new file `name` in `folder`, with the folders on the way to it.

    Nobody else may read or write them, whatever the umask is. Raises OSError.
    """
    for parent in reversed(Path(name).parents[:-1]):
        (folder / parent).mkdir(mode=_FOLDER, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.open(folder / name, flags, _FILE)


def open_to_others(folder: Path, names: Iterable[str]) -> str | None:
    """Return the first of a folder and its listed files that everybody may write to, or None."""
    for path in [folder, *(folder / name for name in names)]:
        if _OWNERS and path.stat().st_mode & stat.S_IWOTH:
            return str(path)
    return None


_OPEN = "others may write to it"


def _problem(path: Path, *, folder: bool) -> str | None:
    status = path.lstat()
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(status.st_mode):
        return f"it is not a {'folder' if folder else 'regular file'}"
    if not _OWNERS:
        return None
    if status.st_uid != os.geteuid():
        return "it belongs to another user"
    return _OPEN if status.st_mode & _OTHERS_WRITE else None
