"""What a command reads and what it writes, and that nothing is lost where both meet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path

from dedos_deploy.errors import BadInputError

ALL = "**/*"
"""Pattern of a folder that is replaced as a whole."""


@dataclass(frozen=True)
class Written:
    """A file or folder that a command writes."""

    what: str
    """How to call it in messages, such as "output 'o.mp4'"."""

    path: Path
    """Where it lies; need not exist."""

    holds: tuple[str, ...] = ()
    """Patterns of the files that a folder gets, relative to it; empty for a file."""

    def replaces(self, file: Path) -> bool:
        """Return whether writing could replace `file`, by whatever name either is known."""
        if same_place(self.path, file):
            return True
        inner = (name[len(self._top) :] for name in _names(file) if name.startswith(self._top))
        return any(_matches(_parts(name), _parts(one)) for name in inner for one in self.holds)

    @cached_property
    def _top(self) -> str:
        return os.path.join(os.path.realpath(self.path), "")


@dataclass(frozen=True)
class Read:
    """Files and folders that a command reads."""

    what: str
    """How to call it in messages, such as "source 'drive.mp4'"."""

    paths: tuple[Path, ...]
    """Those that exist; of a folder everything below it."""

    pattern: str | None = None
    """Of a source that is named by one, such as `pictures/**/*.jpg`."""

    closed: bool = False
    """A folder in which nothing else may lie, as in a bundle."""

    def is_lost(self, written: Written) -> bool:
        """Return whether writing would replace any of it, or spoil a closed folder."""
        return any(self._loses(path, written) for path in self.paths)

    def would_read(self, written: Written) -> bool:
        """Return whether the pattern would find what is written, when it is read the next time."""
        if self.pattern is None:
            return False
        pattern = _parts(os.path.abspath(self.pattern))
        made = (written.path / one.replace("*", "a") for one in written.holds)
        return any(_matches(_parts(name), pattern) for path in made for name in _names(path))

    def _loses(self, path: Path, written: Written) -> bool:
        if not os.path.isdir(path):
            return written.replaces(path)
        if same_place(written.path, path) or (
            _is_below(path, written.path) and ALL in written.holds
        ):
            return True
        if _is_below(written.path, path):
            if self.closed or (not written.holds and os.path.lexists(written.path)):
                return True
        elif not (written.holds or os.path.exists(written.path)):
            return False  # a new file elsewhere
        return any(written.replaces(file) for file in _suspects(path, written))


def check_apart(written: Sequence[Written], read: Sequence[Read]) -> None:
    """Raise BadInputError where writing would destroy what is read, or two outputs each other.

    To be called before anything is opened for writing. Names are compared by what they lead to:
    links of both kinds, relative paths, and other cases of letters where these are the same.
    """
    _real.cache_clear()
    for number, one in enumerate(written):
        for other in read:
            if other.is_lost(one):
                relation = "holds" if one.holds else "is part of"
                raise BadInputError(
                    f"{one.what} {relation} the {other.what}, which would be lost; choose another name"
                )
            if other.would_read(one):
                raise BadInputError(
                    f"{one.what} lies where the {other.what} would read it the next time; choose "
                    "another folder"
                )
        for earlier in written[:number]:
            if _collide(one, earlier):
                raise BadInputError(
                    f"{earlier.what} and {one.what} are one place, where each would destroy the other; "
                    "give each a name of its own"
                )


def named(kind: str, *paths: str | Path | None, closed: bool = False) -> list[Read]:
    """Return what an option names, as far as it is a file or folder. kind: `bundle`, `data`, ..."""
    given = [os.fspath(path) for path in paths if path is not None]
    return [
        Read(f"{kind} {path!r}", (Path(path),), closed=closed)
        for path in given
        if os.path.exists(path)
    ]


def same_place(one: Path, other: Path) -> bool:
    """Return whether two paths lead to the same file or folder, or would where there is none yet."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        if os.path.exists(one) or os.path.exists(other):
            return False
        return os.path.realpath(one) == os.path.realpath(other)


def _collide(one: Written, other: Written) -> bool:
    # Names that differ in case only are one on the disks of cameras, Windows and macOS.
    spelt = (os.path.realpath(item.path).casefold() for item in (one, other))
    return len(set(spelt)) == 1 or one.replaces(other.path) or other.replaces(one.path)


def _suspects(folder: Path, written: Written) -> Iterator[Path]:
    """Yield the files of a folder that lie elsewhere, too, or, if it may be written into, all."""
    inside = _is_below(folder, written.path)
    try:
        inode = os.stat(written.path).st_ino
    except OSError:
        inode = None
    with os.scandir(folder) as entries:
        for entry in entries:
            if inside or entry.is_symlink() or entry.inode() == inode:
                yield Path(entry.path)


def _is_below(path: Path, folder: Path) -> bool:
    """Return whether a path, or what it leads to, lies in a folder."""
    top = os.path.join(os.path.realpath(folder), "")
    return any(name.startswith(top) for name in _names(path))


def _names(path: Path) -> tuple[str, str]:
    """Return where a path lies, links in its folder followed, and where it leads to."""
    head, tail = os.path.split(os.path.abspath(path))
    here = os.path.join(_real(head), tail)
    return here, os.path.realpath(here) if os.path.islink(here) else here


# A glob may name very many files of one folder.
@lru_cache(maxsize=64)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _parts(path: str) -> tuple[str, ...]:
    return Path(path).parts


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a path matches a pattern of as many parts, where `**` stands for any number."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[skip:], pattern[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
